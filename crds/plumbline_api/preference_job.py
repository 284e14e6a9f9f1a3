"""PreferenceJob: post-training from preferences, demonstrations or desirability labels."""

from __future__ import annotations

from pydantic import Field

from plumbline_api.base import ApiModel
from plumbline_api.job import JOB_NAME_RULE, JobSpec, ObjectMeta
from plumbline_api.methods.preference import PreferenceObjective, PreferenceObjectiveChoice
from plumbline_api.rules import Rule, any_of, has
from plumbline_api.status import JobStatus

_REFERENCE_FREE = [member.member_key for member in PreferenceObjective.members() if not member.needs_reference]
_SCALAR_HEAD = [member.member_key for member in PreferenceObjective.members() if member.trains_scalar_head]


class PreferenceJobSpec(JobSpec):
    """What is trained, on what, how, and where it runs."""

    rules = (
        *JobSpec.rules,
        Rule(
            ~(has("reference") & any_of([has(f"objective.{key}") for key in _REFERENCE_FREE])),
            f"reference must not be set: the objectives {', '.join(_REFERENCE_FREE)} do not use a reference model",
            path="reference",
        ),
    )

    objective: PreferenceObjectiveChoice = Field(
        description="What the job minimises: exactly one method with its parameters."
    )  # type: ignore[valid-type]


class PreferenceJob(ApiModel):
    """A run that trains a language model or a reward model from preferences."""

    rules = (JOB_NAME_RULE,)

    api_version: str = Field("plumbline.dev/v1alpha1", description="plumbline.dev/v1alpha1.")
    kind: str = Field("PreferenceJob", description="PreferenceJob.")
    metadata: ObjectMeta = Field(description="Standard object metadata.")
    spec: PreferenceJobSpec = Field(description="What is trained, on what, how, and where it runs.")
    status: JobStatus | None = Field(None, description="What the operator saw last; written by the operator only.")
