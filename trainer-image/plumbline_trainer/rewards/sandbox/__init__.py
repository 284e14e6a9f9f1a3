"""Runs code that nobody has read, as an unprivileged process can: without namespaces, mounts or capabilities."""
