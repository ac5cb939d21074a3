"""A VM as libvirt's XML, and back: pure, no libvirt."""
