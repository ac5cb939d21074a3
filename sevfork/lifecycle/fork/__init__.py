"""The main job: fork a running VM into freshly launched children.

The host's part of it is to carry bytes and to launch domains. ``plan`` decides, ``capture`` has the
parent's state sealed, ``child`` makes one child from that, ``run`` does the whole.
"""

from sevfork.lifecycle.fork.child import ForkedChild
from sevfork.lifecycle.fork.plan import ForkPlan, ForkRequest, plan_fork, sketch_child
from sevfork.lifecycle.fork.run import ForkOutcome, run_fork

__all__ = [
    "ForkOutcome",
    "ForkPlan",
    "ForkRequest",
    "ForkedChild",
    "plan_fork",
    "run_fork",
    "sketch_child",
]
