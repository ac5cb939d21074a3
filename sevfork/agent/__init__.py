"""In the guest, measured: serve the host, capture and restore the workload, give evidence."""
