"""The one-of of all preference objectives."""

from __future__ import annotations

from plumbline_api.base import Choice
from plumbline_api.methods.preference import (  # noqa: F401  (importing a module declares its members)
    calibrated,
    direct,
    length_controlled,
    likelihood_anchored,
    reference_free,
    reward_model,
    scored,
    self_improving,
    supervised,
    unpaired,
)
from plumbline_api.methods.preference.family import PreferenceObjective


class PreferenceObjectiveChoice(Choice, family=PreferenceObjective):
    """What the job minimises: exactly one method with its parameters."""
