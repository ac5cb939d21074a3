"""Container images: named, fetched, unpacked, and their configuration as a workload."""
