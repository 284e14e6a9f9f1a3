"""Builds the operator's and the trainer's image and loads them into the local cluster."""
