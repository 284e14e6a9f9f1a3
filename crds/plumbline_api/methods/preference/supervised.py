"""Objectives on demonstrations."""

from __future__ import annotations

from plumbline_api.methods.preference.family import PreferenceObjective


class Sft(PreferenceObjective, key="sft"):
    """Supervised fine-tuning: mean negative log-likelihood of completion tokens."""

    data_shape = "completions"
    needs_reference = False
    needs_tokens = True
