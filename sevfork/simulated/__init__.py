"""The simulated secure processor, on the host only: it protects nothing."""
