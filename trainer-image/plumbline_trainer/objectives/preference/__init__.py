"""The preference objectives: pure functions on log-probabilities. Importing this package registers all of them."""

from plumbline_trainer.objectives.preference import (  # noqa: F401
    direct,
    reference_free,
    reward_model,
    self_improving,
    supervised,
    unpaired,
)
