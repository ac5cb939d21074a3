"""``make test-hw``: sevfork on a machine with SEV-SNP or TDX, from the image to a warm fork.

Nobody of sevfork has such a machine. What this writes is meant to be sent by somebody who has.
"""
