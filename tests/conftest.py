"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# Each run of a property test tries the same examples: what passes once passes until the code changes.
settings.register_profile("plumbline", derandomize=True)
settings.load_profile("plumbline")
