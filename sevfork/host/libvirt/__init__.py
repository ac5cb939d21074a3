"""The hypervisor through libvirt: the one room that imports it. Nothing of its objects leaves."""
