"""One of each kernel object that a workload may hold."""

from . import files, ipc, memory, processes, refused, signals, sockets
from .registry import ASKED_FOR, HELD

ROOMS = (files, ipc, memory, processes, refused, signals, sockets)  # each registers its objects
__all__ = ["ASKED_FOR", "HELD", "ROOMS"]
