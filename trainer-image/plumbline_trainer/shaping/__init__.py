"""Reward shaping: steps between verifying and advantages, in the order of the spec.

`apply_shaping` is the entry. A step is a pure function of a whole judged rollout, so it is the same on every rank and
does not depend on how prompts were shared out; what it remembers is a JSON object that checkpoints keep. Importing the
package registers the steps.
"""

from plumbline_trainer.shaping import (  # noqa: F401
    bandit,
    constrained,
    gating,
    length,
    noise,
    progress,
    refinement,
    thinking,
    weights,
)
from plumbline_trainer.shaping.application import apply_shaping, credited, held_out_metrics, step_names
from plumbline_trainer.shaping.positions import token_ends
from plumbline_trainer.shaping.registry import SHAPINGS, Credit, Evidence, Shaped, State

__all__ = [
    "SHAPINGS",
    "Credit",
    "Evidence",
    "Shaped",
    "State",
    "apply_shaping",
    "credited",
    "held_out_metrics",
    "step_names",
    "token_ends",
]
