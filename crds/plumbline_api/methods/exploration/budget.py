"""Budgets of samples that differ from prompt to prompt."""

from __future__ import annotations

from pydantic import Field

from plumbline_api.methods.exploration.family import SampleBudget


class GradientVariance(SampleBudget, key="gradientVariance"):
    """GVM: samples in proportion to G / sqrt(p + alpha / p^(beta - 1)), where p is the prompt's acceptance rate and G the size of its gradient in earlier rollouts, which minimises the variance of the gradient of the accepted samples ("Optimizing Chain-of-Thought Reasoners via Gradient Variance Minimization in Rejection Sampling and RL", Yao et al. 2025, arXiv:2505.02391). A rollout has as many samples as without; each prompt keeps its weight in the loss: losses are divided by its share of the samples, except where the objective takes every text or the best sample once. Prompts that were never seen get the even share."""

    alpha: float = Field(
        0.001, gt=0, le=10, description="Strength of the term that keeps hopeless prompts from taking the budget."
    )
    beta: float = Field(2.0, ge=1, le=10, description="How fast that term grows as the acceptance rate falls.")
    minimum: int = Field(
        2, ge=2, le=4096, description="Fewest samples of a prompt, for its estimates and for baselines of groups."
    )
    memory: float = Field(
        0.5, ge=0, lt=1, description="Weight of what was known of a prompt before its last rollout; 0 forgets it."
    )
