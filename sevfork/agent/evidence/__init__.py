"""Where evidence comes from: a device, configfs, or the simulated processor."""
