"""The host's edge: libvirt, volumes, the channel to an agent, a libvirtd of one's own."""
