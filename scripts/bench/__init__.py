"""The benchmark: what sevfork costs beside a peer that does the same, on one machine in one run."""
