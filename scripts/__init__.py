"""Commands for those who work on sevfork; ``scripts/bench`` is a package of its own."""
