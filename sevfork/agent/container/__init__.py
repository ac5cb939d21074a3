"""The workload's container: bundle, files, archive of what changed."""
