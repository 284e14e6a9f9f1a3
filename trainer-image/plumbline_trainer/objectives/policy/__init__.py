"""The policy-gradient objectives: pure functions on the log-probabilities of sampled tokens.

Importing this package registers all of them, what they prepare from a rollout, the ways to aggregate their losses, and
the KL penalties.
"""

from plumbline_trainer.objectives.policy import aggregation, clipped, kl, likelihood  # noqa: F401
