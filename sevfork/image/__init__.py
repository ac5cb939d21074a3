"""Build and read the guest image: what a launch measures."""
