"""PreferenceJob: post-training from preferences, demonstrations or desirability labels."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from plumbline_api.base import ApiModel
from plumbline_api.guardrails import kind_rule
from plumbline_api.job import JOB_NAME_RULES, JobSpec, ObjectMeta
from plumbline_api.methods.aggregation import LossAggregationChoice
from plumbline_api.methods.auxiliary import AuxiliaryLossChoice
from plumbline_api.methods.pairing import Pairing
from plumbline_api.methods.preference.choice import PreferenceObjectiveChoice
from plumbline_api.methods.preference.family import PreferenceObjective
from plumbline_api.methods.weighting import PairWeightingChoice
from plumbline_api.preference_data import PreferenceJobData
from plumbline_api.rules import Expression, Rule, any_of, field, has
from plumbline_api.sources import FrozenReference
from plumbline_api.status import JobStatus

_PAIRS = [member for member in PreferenceObjective.members() if member.data_shape == "pairs"]
_LISTS = [member for member in PreferenceObjective.members() if member.data_shape == "lists"]
_REFERENCE_FREE = [member.member_key for member in PreferenceObjective.members() if not member.needs_reference]

_CAUSAL_PAIRS = [member for member in _PAIRS if not member.trains_scalar_head and not member.masked_likelihood]
_TAKERS = {
    "weighting": [member for member in _CAUSAL_PAIRS if not member.needs_whole_step],
    "auxiliary": _CAUSAL_PAIRS,
    "aggregation": [
        member
        for member in PreferenceObjective.members()
        if member.data_shape != "completions" and not (member.data_shape == "pairs" and member.needs_whole_step)
    ],
}
"""Optional block of the spec -> the objectives that it fits: those whose losses are of single rows, and for the first
two of rows that are pairs for a causal language model."""


def _one_of(members: list[type[PreferenceObjective]]) -> Expression:
    """One of these objectives is the job's."""
    return any_of([has(f"objective.{member.member_key}") for member in members])


class PreferenceJobSpec(JobSpec):
    """What is trained, on what, how, and where it runs."""

    rules: ClassVar = (
        *JobSpec.rules,
        kind_rule("PreferenceJob"),
        Rule(
            ~(has("reference") & any_of([has(f"objective.{key}") for key in _REFERENCE_FREE])),
            f"reference must not be set: the objectives {', '.join(_REFERENCE_FREE)} do not use a reference model",
            path="reference",
        ),
        Rule(
            field("training.batchSize") >= field("resources.replicas"),
            "training.batchSize must be at least resources.replicas: every pod works on at least one row of a step",
            path="training.batchSize",
        ),
        *(
            Rule(
                (field("training.batchSize") >= member.smallest_batch).when(has(f"objective.{member.member_key}")),
                f"training.batchSize must be at least {member.smallest_batch} for objective.{member.member_key}",
                path="training.batchSize",
            )
            for member in PreferenceObjective.members()
            if member.smallest_batch > 1
        ),
        Rule(
            _one_of(_PAIRS).when(has("data.pairing")),
            "data.pairing must not be set: this objective does not learn from pairs",
            path="data.pairing",
        ),
        *(
            Rule(
                ~(has(f"data.pairing.{pairing.member_key}") & _one_of([m for m in _PAIRS if m.needs_scores])),
                f"data.pairing.{pairing.member_key} must not be set: its pairs have no scores, and this objective needs them",
                path=f"data.pairing.{pairing.member_key}",
            )
            for pairing in Pairing.members()
            if not pairing.gives_scores
        ),
        *(
            Rule(
                ~(has(f"data.pairing.{pairing.member_key}") & _one_of([m for m in _PAIRS if m.needs_prefix])),
                f"data.pairing.{pairing.member_key} must not be set: its pairs are whole answers, and this objective learns from steps",
                path=f"data.pairing.{pairing.member_key}",
            )
            for pairing in Pairing.members()
            if pairing.reads == "lists"
        ),
        Rule(
            _one_of([member for member in _PAIRS if not member.needs_scores]).when(has("data.lengthInstruction")),
            "data.lengthInstruction must not be set: it turns pairs round and needs an objective on pairs without scores",
            path="data.lengthInstruction",
        ),
        *(
            Rule(
                _one_of(takers).when(has(name)),
                f"{name} must not be set: this objective does not take it (see docs/methods.md)",
                path=name,
            )
            for name, takers in _TAKERS.items()
        ),
        Rule(
            _one_of(_PAIRS).when(field("data.filters.dropEqualTexts")),
            "data.filters.dropEqualTexts must not be set: this objective does not learn from pairs",
            path="data.filters.dropEqualTexts",
        ),
        Rule(
            _one_of(_PAIRS + _LISTS).when(has("data.filters.maxLengthRatio")),
            "data.filters.maxLengthRatio must not be set: rows of this objective have one completion",
            path="data.filters.maxLengthRatio",
        ),
    )

    reference: FrozenReference | None = Field(
        None,
        description="The frozen model that the policy is compared with; default: the model as it was at the start.",
    )
    data: PreferenceJobData = Field(description="The rows that the job learns from and is measured on.")

    objective: PreferenceObjectiveChoice = Field(
        description="What the job minimises: exactly one method with its parameters."
    )
    auxiliary: AuxiliaryLossChoice | None = Field(
        None, description="What is learned beside the objective: exactly one loss. Default: nothing."
    )
    weighting: PairWeightingChoice | None = Field(
        None, description="How much each pair counts: exactly one weighting. Default: all the same."
    )
    aggregation: LossAggregationChoice | None = Field(
        None, description="How the losses of rows become what is minimised: exactly one. Default: their mean."
    )


class PreferenceJob(ApiModel):
    """A run that trains a language model or a reward model from preferences."""

    rules: ClassVar = JOB_NAME_RULES

    api_version: Literal["plumbline.dev/v1alpha1"] = Field(
        "plumbline.dev/v1alpha1", description="plumbline.dev/v1alpha1."
    )
    kind: Literal["PreferenceJob"] = Field("PreferenceJob", description="PreferenceJob.")
    metadata: ObjectMeta = Field(description="Standard object metadata.")
    spec: PreferenceJobSpec = Field(description="What is trained, on what, how, and where it runs.")
    status: JobStatus | None = Field(None, description="What the operator saw last; written by the operator only.")
