"""A VM's maintained snapshot: a base and updates in one volume, which stays plugged in."""
