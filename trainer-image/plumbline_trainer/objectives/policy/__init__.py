"""The policy-gradient objectives: pure functions on the log-probabilities of sampled tokens.

Importing this package registers all of them, what they prepare from a rollout, the ways to aggregate their losses, and
the KL penalties.
"""

from plumbline_trainer.objectives.policy import (  # noqa: F401
    aggregation,
    clipped,
    group_regression,
    kl,
    likelihood,
    off_policy_reinforce,
    regularized_gradient,
)
