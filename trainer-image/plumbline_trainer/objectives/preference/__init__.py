"""The preference objectives: pure functions on log-probabilities. Importing this package registers all of them."""

from plumbline_trainer.objectives.preference import (  # noqa: F401
    calibrated,
    diffusion,
    direct,
    length_controlled,
    likelihood_anchored,
    listwise,
    mixture,
    reference_free,
    reward_model,
    sampled,
    scored,
    self_improving,
    stepwise,
    supervised,
    transport,
    unpaired,
)
