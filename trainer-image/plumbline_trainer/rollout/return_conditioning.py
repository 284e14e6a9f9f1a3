"""Labels in prompts that say how good the completion is (Havrilla et al. 2024, arXiv:2403.04642)."""

from __future__ import annotations

from plumbline_api.methods.policy.own_solutions import ReturnConditioned
from plumbline_trainer.data.conversations import Prompt


def label_of(parameters: ReturnConditioned, reward: float) -> str:
    """The label of a completion with this reward."""
    return parameters.good_label if reward >= parameters.threshold else parameters.bad_label


def labelled(prompt: Prompt, label: str) -> Prompt:
    """The prompt, or the last message of a chat, with the label and a space before it."""
    if isinstance(prompt, str):
        return f"{label} {prompt}"
    return [*prompt[:-1], {**prompt[-1], "content": f"{label} {prompt[-1]['content']}"}]
