"""Verifiers of RLVRJob: what turns a completion into a reward. Each class is one verifier with its parameters."""
