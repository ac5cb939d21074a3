"""The owner's machine: keys, adoption, lineage. It needs no libvirt, and trusts no host."""
