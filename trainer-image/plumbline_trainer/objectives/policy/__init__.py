"""The policy-gradient objectives: pure functions on the log-probabilities of sampled tokens.

Importing this package registers all of them, what they prepare from a rollout, the ways to aggregate their losses,
penalties, corrections and selections of tokens.
"""

from plumbline_trainer.objectives.policy import (  # noqa: F401
    aggregation,
    clipped,
    conservative_bellman,
    consistency,
    covariance,
    decoupled,
    entropy,
    entropy_minimization,
    group_regression,
    kl,
    likelihood,
    mirror,
    off_policy,
    off_policy_reinforce,
    own_solutions,
    regularized_gradient,
    sequence_ratio,
    soft_clip,
    token_selection,
    value_guidance,
    verdicts,
)
