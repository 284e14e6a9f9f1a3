"""Verifiers that compare the completions of one prompt with each other."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from plumbline_api.methods.regular_expression import RegularExpression
from plumbline_api.methods.verifiers.judges import ANSWER, PROMPT, ChatModel, Judge
from plumbline_api.rules import Rule, field

FIRST, SECOND = "{first}", "{second}"
"""Where a template names the completions that are compared."""

_TEMPLATE = f"""\
Which of two answers to the problem below is better?

Problem:
{PROMPT}

Answer 1:
{FIRST}

Answer 2:
{SECOND}

Give reasons in a sentence or two. End with a line `Verdict: 1`, `Verdict: 2` or `Verdict: tie`."""


class ComparingChatJudge(ChatModel):
    """A language model that compares two completions."""

    rules: ClassVar = (
        Rule(
            field("template").matches(r"\{first\}") & field("template").matches(r"\{second\}"),
            "template must contain {first} and {second}, where the compared texts are put",
            path="template",
        ),
    )

    template: str = Field(
        _TEMPLATE,
        min_length=1,
        max_length=16_384,
        description=f"The message to the judge. {PROMPT}, {FIRST}, {SECOND} and {ANSWER} stand for what is judged.",
    )
    verdict_pattern: RegularExpression = Field(
        r"(?i:verdict)\W{0,8}(\w+)",
        min_length=1,
        max_length=512,
        description="Regular expression whose first group in the judge's reply is the verdict: 1, A or first; 2, B or second; tie, C or equal. The last match counts; anything else is an error.",
    )


class PairwiseJudge(Judge, key="pairwiseJudge"):
    """Win rate against the other completions of the prompt: a judge behind HTTP compares two at a time, and the reward is the mean probability of being preferred, from 0 to 1 (Pref-GRPO; Wang et al. 2025, arXiv:2508.20751). A tie counts 1/2; equal texts are tied without asking. Evaluations leave it out: they have one completion of each prompt."""

    compares_group = True

    chat_completions: ComparingChatJudge | None = Field(
        None,
        description='Ask a language model. Default: post `{prompt, first, second, answer}` to a service of one\'s own, which answers {"preferred": "first"}, "second" or "tie", or with the `probability` that the first is better.',
    )
    order: Literal["both", "drawn"] = Field(
        "both",
        description="Which completion is shown first: both asks twice, once each way, and takes the mean; drawn asks once, in an order that follows from the texts.",
    )
    opponents: int | None = Field(
        None,
        ge=1,
        le=4095,
        description="Completions that each is compared with, in a round robin that follows from the texts; one more where both their number and the group's are odd. Default: all others.",
    )
