"""The kind of frame by which a guest asks the host's simulated secure processor for evidence.

Absent from images built for hardware, like the provider that sends it (tested on the built file
system).
"""

SIMULATED_EVIDENCE = 0x80
