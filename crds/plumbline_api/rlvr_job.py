"""RLVRJob: reinforcement learning from verifiable rewards."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from plumbline_api.base import ApiModel, Refused
from plumbline_api.default_advantages import DEFAULT_ADVANTAGES, described_defaults
from plumbline_api.guardrails import kind_rule
from plumbline_api.job import JOB_NAME_RULES, JobSpec, ObjectMeta
from plumbline_api.methods.advantage.choice import AdvantageChoice
from plumbline_api.methods.advantage.family import Advantage
from plumbline_api.methods.critic import CriticChoice
from plumbline_api.methods.curriculum.choice import CurriculumChoice
from plumbline_api.methods.entropy import EntropyChoice
from plumbline_api.methods.exploration.choice import Exploration
from plumbline_api.methods.kl import KlChoice
from plumbline_api.methods.off_policy import OffPolicyCorrectionChoice
from plumbline_api.methods.policy.choice import PolicyObjectiveChoice
from plumbline_api.methods.policy_aggregation import PolicyAggregationChoice
from plumbline_api.methods.rollout_engine import ROLLOUT_ENGINE_JOB_RULES, ROLLOUT_RULES, RolloutEngineChoice
from plumbline_api.methods.sampling import Sampling
from plumbline_api.methods.shaping.choice import ShapingChoice
from plumbline_api.methods.token_selection import TokenSelectionChoice
from plumbline_api.rlvr_rules import METHOD_RULES
from plumbline_api.running import SampledEvaluation
from plumbline_api.sources import PolicyReference, PromptData, Reward
from plumbline_api.status import JobStatus


class Rollout(ApiModel):
    """How completions are generated for each optimizer step."""

    rules: ClassVar = ROLLOUT_RULES

    engine: RolloutEngineChoice = Field(
        default_factory=lambda: RolloutEngineChoice.of("transformers"),
        description="What generates the completions: exactly one engine.",
    )
    group_size: int = Field(8, ge=1, le=4096, description="Completions per prompt.")
    sampling: Sampling = Field(default_factory=Sampling, description="How completions are sampled.")
    max_batch_size: int = Field(
        128,
        ge=1,
        le=65_536,
        description="Most completions generated at the same time on one pod; with engine.vllm the server decides.",
    )
    updates_per_rollout: int = Field(
        1,
        ge=1,
        le=64,
        description="Optimizer steps on each batch of completions; above 1 the importance ratio corrects for the older policy.",
    )


class RLVRJobSpec(JobSpec):
    """What is trained, on which problems, with which rewards, and where it runs."""

    rules: ClassVar = (*JobSpec.rules, *ROLLOUT_ENGINE_JOB_RULES, kind_rule("RLVRJob"), *METHOD_RULES)

    reference: PolicyReference | None = Field(
        None,
        description="The model that the policy is compared with, frozen or slowly following it; default: the model as it was at the start, frozen.",
    )
    data: PromptData = Field(description="The prompts that the job learns from and is measured on.")
    objective: PolicyObjectiveChoice = Field(
        description="The policy-gradient objective: exactly one method with its parameters."
    )
    advantage: AdvantageChoice | None = Field(
        None,
        description=f"How rewards become advantages: exactly one estimator; default: as the objective's paper has it ({described_defaults()}).",
    )
    aggregation: PolicyAggregationChoice | None = Field(
        None, description="How token losses become one loss; default: as the objective's paper has it."
    )
    kl: KlChoice | None = Field(
        None, description="What keeps the policy near the reference; without it no reference is loaded."
    )
    entropy: EntropyChoice | None = Field(
        None, description="What keeps up the entropy of the policy; without it entropy is left alone."
    )
    token_selection: TokenSelectionChoice | None = Field(
        None, description="Which tokens the objective learns from; default: all."
    )
    off_policy_correction: OffPolicyCorrectionChoice | None = Field(
        None,
        description="Weights of tokens whose sampler was not quite the policy that is updated: an older one, or another implementation.",
    )
    critic: CriticChoice | None = Field(
        None, description="Where the values of what is written so far come from, for advantages that use them."
    )
    shaping: list[ShapingChoice] = Field(
        default_factory=list,
        max_length=8,
        description="What is done to rewards between verifying and advantages, in this order.",
    )
    curriculum: CurriculumChoice | None = Field(
        None, description="Which prompts a rollout takes; default: the data's own order."
    )
    exploration: Exploration = Field(
        default_factory=Exploration, description="What is done about the samples of a rollout, stage by stage."
    )
    evaluation: SampledEvaluation = Field(
        default_factory=SampledEvaluation, description="When and how completions of held-out prompts are scored."
    )
    rollout: Rollout = Field(
        default_factory=Rollout, description="How completions are generated for each optimizer step."
    )
    rewards: list[Reward] = Field(
        min_length=1,
        max_length=16,
        description="Components of the reward; the total is their weighted sum.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )

    @property
    def estimator(self) -> Advantage:
        """How rewards become advantages: as `advantage` says, else as the objective's paper has it."""
        chosen = self.advantage or DEFAULT_ADVANTAGES[self.objective.key]
        estimator: Advantage = chosen.value
        return estimator

    @model_validator(mode="after")
    def _components_exist(self) -> Self:
        """Components that are read by name; CEL cannot look for the items of one list in another."""
        names = {reward.name for reward in self.rewards}
        read = [
            (f"shaping[{index}].{choice.key}", name)
            for index, choice in enumerate(self.shaping)
            for name in choice.value.component_names
        ]
        selection = self.exploration.selection
        if selection is not None and (component := selection.value.component_field):
            read.append((f"exploration.selection.{selection.key}.{component}", getattr(selection.value, component)))
        findings = [
            (path, f"{name!r} is no component of rewards: {', '.join(sorted(names))}")
            for path, name in read
            if name not in names
        ]
        if findings:
            raise Refused(findings)
        return self


class RLVRJob(ApiModel):
    """A run that trains a language model by reinforcement learning from verifiable rewards."""

    rules: ClassVar = JOB_NAME_RULES

    api_version: Literal["plumbline.dev/v1alpha1"] = Field(
        "plumbline.dev/v1alpha1", description="plumbline.dev/v1alpha1."
    )
    kind: Literal["RLVRJob"] = Field("RLVRJob", description="RLVRJob.")
    metadata: ObjectMeta = Field(description="Standard object metadata.")
    spec: RLVRJobSpec = Field(description="What is trained, on which problems, with which rewards, and where it runs.")
    status: JobStatus | None = Field(None, description="What the operator saw last; written by the operator only.")
