"""Fork running confidential VMs (AMD SEV-SNP, Intel TDX) through libvirt."""

__version__ = "0.1.0"
