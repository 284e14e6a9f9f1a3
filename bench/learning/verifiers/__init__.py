"""Verifiers of the tasks, in the form of RLVRJob's Python functions."""
