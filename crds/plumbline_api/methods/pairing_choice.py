"""The one-of of all ways to make pairs."""

from __future__ import annotations

from plumbline_api.base import Choice
from plumbline_api.methods import pairing, pairing_trees  # noqa: F401  (importing a module declares its members)
from plumbline_api.methods.pairing import Pairing


class PairingChoice(Choice, family=Pairing):
    """How completions of one prompt are paired: exactly one method."""
