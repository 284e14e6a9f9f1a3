"""Generators of what is derived from the API models: the CRD manifests and the API reference. Development only."""
