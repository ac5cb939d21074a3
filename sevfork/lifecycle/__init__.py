"""The use cases: up, fork, ls, rm, doctor, and what they share."""
