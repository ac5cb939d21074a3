"""Our copy of CRIU's numbers against its own ``rpc.proto``, as packaged for guest images.

``scripts/criu-protocol`` fetches that file into ``build/``.
"""

from __future__ import annotations

import os
import re
from enum import IntEnum
from pathlib import Path

import pytest

from sevfork.agent.criu import rpc
from tests.support import REPOSITORY

PROTOCOL = Path(os.environ.get("SEVFORK_CRIU_PROTOCOL", REPOSITORY / "build/criu-rpc.proto"))
_BLOCK = re.compile(r"^(?:message|enum) (\w+) \{(.*?)^\}", re.M | re.S)
_NUMBER = re.compile(r"(\w+)\s*=\s*(\d+)")


def numbers(block: str) -> dict[str, int]:
    """Names and numbers of a message's fields or an enum's values."""
    if not PROTOCOL.exists():
        pytest.skip(f"no '{PROTOCOL}' (scripts/criu-protocol fetches it)")
    blocks = dict(_BLOCK.findall(re.sub(r"//.*|/\*.*?\*/", "", PROTOCOL.read_text())))
    return {name: int(number) for name, number in _NUMBER.findall(blocks[block])}


@pytest.mark.parametrize(
    ("ours", "block"), [(rpc.Option, "criu_opts"), (rpc.Request, "criu_req_type")]
)
def test_every_number_that_is_used_is_criu_s_own(ours: type[IntEnum], block: str) -> None:
    theirs = numbers(block)
    assert {item.name: item.value for item in ours} == {
        item.name: theirs.get(item.name.lower(), theirs.get(item.name)) for item in ours
    }


def test_values_and_fields_of_messages_are_criu_s_own() -> None:
    assert numbers("criu_cg_mode")["IGNORE"] == rpc.CGROUPS_IGNORE
    assert numbers("criu_network_lock_method")["SKIP"] == rpc.NETWORK_LOCK_SKIP
    assert numbers("criu_pre_dump_mode")["VM_READ"] == rpc.PRE_DUMP_BY_READING
    request, response = numbers("criu_req"), numbers("criu_resp")
    assert (request["type"], request["opts"]) == (rpc.REQ_TYPE, rpc.REQ_OPTS)
    assert request["notify_success"] == rpc.REQ_NOTIFY_SUCCESS
    assert (request["features"], response["type"]) == (rpc.REQ_FEATURES, rpc.RESP_TYPE)
    assert (response["success"], response["notify"]) == (rpc.RESP_SUCCESS, rpc.RESP_NOTIFY)
    assert response["cr_errmsg"] == rpc.RESP_MESSAGE
    assert numbers("criu_features")["mem_track"] == rpc.FEATURE_MEM_TRACK
    assert numbers("criu_notify")["script"] == 1
