"""The command line: one verb per file, one place that prints. Decides nothing."""
