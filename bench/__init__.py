"""Benchmarks: the trainer against TRL on the same rows, and against what the machine can do at most."""
