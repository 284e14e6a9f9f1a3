"""RLVRJob: reinforcement learning from verifiable rewards."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from plumbline_api.base import ApiModel, Refused
from plumbline_api.default_advantages import DEFAULT_ADVANTAGES, described_defaults, estimating, keeping_scale
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
from plumbline_api.methods.policy.family import PolicyObjective
from plumbline_api.methods.policy_aggregation import PolicyAggregationChoice
from plumbline_api.methods.rollout_engine import ROLLOUT_ENGINE_JOB_RULES, ROLLOUT_RULES, RolloutEngineChoice
from plumbline_api.methods.sampling import Sampling
from plumbline_api.methods.shaping.choice import ShapingChoice
from plumbline_api.methods.shaping.family import Shaping
from plumbline_api.methods.token_selection import TokenSelectionChoice
from plumbline_api.methods.verifiers.family import Verifier
from plumbline_api.rules import Rule, any_of, every_has, field, has, some, some_has
from plumbline_api.running import SampledEvaluation
from plumbline_api.sources import PolicyReference, PromptData, Reward
from plumbline_api.status import JobStatus

_GROUP_BASELINES = [member.member_key for member in Advantage.members() if member.needs_group]
_ON_POLICY = [member.member_key for member in PolicyObjective.members() if member.strictly_on_policy]
_OF_WHOLE_GROUPS = [
    member.member_key
    for member in PolicyObjective.members()
    if member.needs_whole_groups and not member.strictly_on_policy
]
_CROSS_ENTROPY = any_of([has("critic.shared.loss.bce"), has("critic.separate.loss.bce")])
_REGULARIZING = [member.member_key for member in PolicyObjective.members() if member.regularizes_divergence]
_WITH_VALUES = [member.member_key for member in Advantage.members() if member.needs_values]
_OF_COMPONENTS = [member.member_key for member in Advantage.members() if member.needs_components]
_WITH_FROZEN_VALUES = [member.member_key for member in Advantage.members() if member.needs_frozen_values]
_WITH_REFERENCE = [member.member_key for member in PolicyObjective.members() if member.needs_reference]
_JUDGED_BY_THE_TOTAL = [
    member.member_key
    for member in Advantage.members()
    if member.needs_values or member.needs_greedy or member.needs_continuations
]
_LEARNING_VALUES = [member.member_key for member in PolicyObjective.members() if member.learns_values]
_WITH_ENTROPY_OR_REFERENCE = [
    member.member_key for member in PolicyObjective.members() if member.needs_entropy or member.needs_reference
]
_CONTINUING = [member.member_key for member in Advantage.members() if member.needs_continuations]
_FROM_PREFIXES = [member.member_key for member in Shaping.members() if member.needs_prefix_values]
_OF_SCALE = [member.member_key for member in Shaping.members() if member.changes_scale]
_SHAPED = has("shaping") & (field("shaping").length() > 0)
_GUIDING = [member.member_key for member in PolicyObjective.members() if member.guides]
_GUIDES = any_of([has(f"objective.{key}") for key in _GUIDING])
_OF_A_POLICY = ("kl", "entropy", "tokenSelection", "offPolicyCorrection", "peft")
_STAGES = ("resampling", "rescue", "selection", "budget", "replay")
_TRUNCATES = any_of(
    [
        field("rollout.sampling.topP") < 1.0,
        has("rollout.sampling.topK"),
        field("rollout.sampling.minP") > 0.0,
        has("rollout.sampling.entropyDescent"),
    ]
)
_WITH_COMPONENT_GRADIENTS = has("shaping") & any_of(
    [some_has("shaping", "step", member.member_key) for member in Shaping.members() if member.needs_component_gradients]
)
_COMPARING = [member.member_key for member in Verifier.members() if member.compares_group]
_COMPARED = any_of([some_has("rewards", "reward", f"verifier.{key}") for key in _COMPARING])
_ALL_COMPARED = any_of([every_has("rewards", "reward", f"verifier.{key}") for key in _COMPARING])
_WITH_GREEDY = [member.member_key for member in Advantage.members() if member.needs_greedy]
_KEEPING_SOLUTIONS = [
    member.member_key for member in PolicyObjective.members() if "keep_solutions" in member.model_fields
]
_APART_FROM_THE_GROUP = any_of(
    [
        *(has(f"advantage.{key}") for key in [*_WITH_GREEDY, *_CONTINUING]),
        *(has("shaping") & some_has("shaping", "step", key) for key in _FROM_PREFIXES),
        *(has(f"objective.{key}") & (field(f"objective.{key}.keepSolutions") > 0) for key in _KEEPING_SOLUTIONS),
        has("exploration.rescue.guidance"),
        has("exploration.rescue.gold"),
        has("exploration.resampling.dars"),
    ]
)
_IN_A_GRAMMAR = any_of([has("rollout.sampling.regex"), has("rollout.sampling.jsonSchema")])


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

    rules: ClassVar = (
        *JobSpec.rules,
        *ROLLOUT_ENGINE_JOB_RULES,
        kind_rule("RLVRJob"),
        Rule(
            (field("rollout.groupSize") >= 2).when(estimating(_GROUP_BASELINES)),
            f"rollout.groupSize must be at least 2: the advantages {', '.join(_GROUP_BASELINES)} compare the samples of one prompt",
            path="rollout.groupSize",
        ),
        Rule(
            (field("training.batchSize") % field("rollout.groupSize")).equals(0),
            "training.batchSize must be a multiple of rollout.groupSize: a step uses whole groups",
            path="training.batchSize",
        ),
        Rule(
            field("training.batchSize") >= field("rollout.groupSize") * field("resources.replicas"),
            "training.batchSize must be at least rollout.groupSize times resources.replicas: every pod works on at least one group of a step",
            path="training.batchSize",
        ),
        Rule(
            any_of([has("kl"), *(has(f"objective.{key}") for key in _WITH_REFERENCE)]).when(has("reference")),
            f"reference must not be set without kl or the objective {', '.join(_WITH_REFERENCE)}, which compare the policy with it: it would not be used",
            path="reference",
        ),
        Rule(
            has("advantage.none").when(has("shaping") & some_has("shaping", "step", "forwardCorrection")),
            "advantage must be none with shaping forwardCorrection, which adds one number to all rewards: a baseline removes it",
            path="advantage",
        ),
        Rule(
            keeping_scale().when(has("shaping") & any_of([some_has("shaping", "step", key) for key in _OF_SCALE])),
            f"advantage must keep the scale of rewards with shaping {', '.join(_OF_SCALE)}, such as leaveOneOut or groupRelative with normalize none: one that divides by it undoes what shaping multiplies by",
            path="advantage",
        ),
        Rule(
            (~any_of([has(f"advantage.{key}") for key in _OF_COMPONENTS])).when(_SHAPED),
            f"shaping must be empty with the advantage {', '.join(_OF_COMPONENTS)}, which looks at the components of the reward and not at their total",
            path="shaping",
        ),
        Rule(
            (~any_of([has(f"advantage.{key}") for key in _JUDGED_BY_THE_TOTAL])).when(_WITH_COMPONENT_GRADIENTS),
            f"advantage must not be {', '.join(_JUDGED_BY_THE_TOTAL)} with shaping gradientWeighting, which takes the advantages of each component alone: those compare with values of the total",
            path="advantage",
        ),
        Rule(
            (~any_of([has(f"objective.{key}") for key in _WITH_ENTROPY_OR_REFERENCE])).when(_WITH_COMPONENT_GRADIENTS),
            f"objective must not be {', '.join(_WITH_ENTROPY_OR_REFERENCE)} with shaping gradientWeighting, which takes the gradient of each component without entropies and the reference",
            path="objective",
        ),
        Rule(
            (
                ~any_of(
                    [
                        *(has(f"advantage.{key}") for key in _CONTINUING),
                        *(has("shaping") & some_has("shaping", "step", key) for key in _FROM_PREFIXES),
                    ]
                )
            ).when(_IN_A_GRAMMAR),
            f"rollout.sampling.regex and jsonSchema must not be set with the advantage {', '.join(_CONTINUING)} or shaping {', '.join(_FROM_PREFIXES)}, which go on from the middle of a completion: the grammar would begin anew there",
            path="rollout.sampling",
        ),
        Rule(
            (~_SHAPED).when(any_of([has(f"advantage.{key}") for key in _CONTINUING])),
            f"shaping must be empty with the advantage {', '.join(_CONTINUING)}, whose values are those of the verifiers' rewards: what shaping adds would count for the last step alone",
            path="shaping",
        ),
        Rule(
            (~has("kl.reward")).when(any_of([has(f"advantage.{key}") for key in _CONTINUING])),
            f"kl.reward must not be set with the advantage {', '.join(_CONTINUING)}, whose values are those of the verifiers' rewards: the penalty would count for the last step alone",
            path="kl",
        ),
        Rule(
            (~has("kl.reward")).when(has("exploration.rescue.guidance")),
            "kl.reward must not be set with exploration.rescue.guidance: it would compare the policy that reads the hint with the reference that does not",
            path="kl",
        ),
        Rule(
            has("training.steps").when(has("curriculum")),
            "training.steps must be set with curriculum, which decides what an epoch would be",
            path="training.steps",
        ),
        Rule(
            (field("rollout.groupSize") >= 2).when(has("exploration.resampling.dynamicSampling")),
            "rollout.groupSize must be at least 2 with exploration.resampling.dynamicSampling: a group of one has no signal",
            path="rollout.groupSize",
        ),
        Rule(
            (field("exploration.budget.gradientVariance.minimum") <= field("rollout.groupSize")).when(
                has("exploration.budget.gradientVariance")
            ),
            "exploration.budget.gradientVariance.minimum must not be above rollout.groupSize, the mean of all budgets",
            path="exploration.budget.gradientVariance.minimum",
        ),
        Rule(
            (field("exploration.resampling.dars.maxSamples") > field("rollout.groupSize")).when(
                has("exploration.resampling.dars")
            ),
            "exploration.resampling.dars.maxSamples must be above rollout.groupSize, the number of first samples",
            path="exploration.resampling.dars.maxSamples",
        ),
        Rule(
            (~any_of([has(f"objective.{key}") for key in _ON_POLICY])).when(
                any_of([has("exploration.replay"), has("exploration.rescue.guidance")])
            ),
            f"exploration.replay and exploration.rescue.guidance must not be set with the objective {', '.join(_ON_POLICY)}: what another policy wrote needs an importance ratio",
            path="exploration",
        ),
        Rule(
            (~any_of([has(f"objective.{key}") for key in _OF_WHOLE_GROUPS])).when(has("exploration.replay")),
            f"exploration.replay must not be set with the objective {', '.join(_OF_WHOLE_GROUPS)}: a replayed sample comes alone, without those of its prompt that the objective compares it with",
            path="exploration.replay",
        ),
        Rule(
            ~(has("offPolicyCorrection") & any_of([has("objective.decoupledPpo"), has("objective.ppoEwma")])),
            "offPolicyCorrection must not be set with the objectives decoupledPpo and ppoEwma, which weigh by the sampler themselves",
            path="offPolicyCorrection",
        ),
        Rule(
            (~some("rewards", "reward", lambda reward: (reward("weight") < 0.0) | (reward("weight") > 1.0))).when(
                _CROSS_ENTROPY
            ),
            "weights of rewards must be within 0 and 1 with a critic's loss bce, whose values are success rates",
            path="rewards",
        ),
        Rule(
            (~has("kl.reward")).when(_CROSS_ENTROPY),
            "kl.reward must not be set with a critic's loss bce: penalties take returns below 0",
            path="kl",
        ),
        Rule(
            (~any_of([has("kl.reward"), has("exploration.budget.gradientVariance")])).when(
                has("rollout.sampling.entropyDescent")
            ),
            "rollout.sampling.entropyDescent must not be set with kl.reward or exploration.budget.gradientVariance, which take the sampler's log-probabilities for the policy's",
            path="rollout.sampling.entropyDescent",
        ),
        Rule(
            (field("advantage.passAtK.k") <= field("rollout.groupSize")).when(has("advantage.passAtK.k")),
            "advantage.passAtK.k must be at most rollout.groupSize",
            path="advantage.passAtK.k",
        ),
        Rule(
            (~has("critic")).when(has("exploration.rescue.demonstration")),
            "critic must not be set with exploration.rescue.demonstration: a demonstration has no return",
            path="critic",
        ),
        Rule(
            (~has("kl")).when(any_of([has(f"objective.{key}") for key in _REGULARIZING])),
            f"kl must not be set with the objective {', '.join(_REGULARIZING)}, of which a divergence is part",
            path="kl",
        ),
        Rule(
            has("critic").when(any_of([has(f"advantage.{key}") for key in _WITH_VALUES])),
            f"critic must be set: the advantages {', '.join(_WITH_VALUES)} use its values",
            path="critic",
        ),
        Rule(
            any_of(
                [
                    *(has(f"advantage.{key}") for key in _WITH_VALUES),
                    *(has(f"objective.{key}") for key in _LEARNING_VALUES),
                ]
            ).when(has("critic")),
            f"critic must not be set without an advantage that uses its values ({', '.join(_WITH_VALUES)}) or the objective {', '.join(_LEARNING_VALUES)}",
            path="critic",
        ),
        Rule(
            has("critic.shared").when(any_of([has(f"objective.{key}") for key in _LEARNING_VALUES])),
            f"critic.shared must be set with the objective {', '.join(_LEARNING_VALUES)}, which trains its values",
            path="critic",
        ),
        Rule(
            any_of([has("advantage.none"), ~has("advantage")]).when(
                any_of([has(f"objective.{key}") for key in _LEARNING_VALUES])
            ),
            f"advantage must not be set with the objective {', '.join(_LEARNING_VALUES)}, which learns from rewards: it would not be used",
            path="advantage",
        ),
        Rule(
            has("critic.frozen").when(any_of([has(f"advantage.{key}") for key in _WITH_FROZEN_VALUES])),
            f"critic.frozen must be set with the advantage {', '.join(_WITH_FROZEN_VALUES)}",
            path="critic",
        ),
        Rule(
            field("rollout.updatesPerRollout").equals(1).when(any_of([has(f"objective.{key}") for key in _ON_POLICY])),
            f"rollout.updatesPerRollout must be 1 with the objective {', '.join(_ON_POLICY)}, which is strictly on-policy",
            path="rollout.updatesPerRollout",
        ),
        Rule(
            (field("rollout.groupSize") >= 2).when(_COMPARED),
            f"rollout.groupSize must be at least 2 with the verifier {', '.join(_COMPARING)}, which compares the samples of one prompt",
            path="rollout.groupSize",
        ),
        Rule(
            (~_APART_FROM_THE_GROUP).when(_COMPARED),
            f"rewards must not hold the verifier {', '.join(_COMPARING)}, which compares the samples of one prompt, with what scores completions apart from them: the advantages {', '.join([*_WITH_GREEDY, *_CONTINUING])}, shaping {', '.join(_FROM_PREFIXES)}, keepSolutions, exploration.rescue.guidance and gold, exploration.resampling.dars",
            path="rewards",
        ),
        Rule(
            (~has("data.evaluation")).when(_ALL_COMPARED),
            f"data.evaluation must not be set when every reward is {', '.join(_COMPARING)}: held-out prompts have one completion, with nothing to compare it with; add a component with another verifier, if need be of weight 0",
            path="data.evaluation",
        ),
        Rule(
            (~any_of([has(name) for name in _OF_A_POLICY])).when(_GUIDES),
            f"{', '.join(_OF_A_POLICY)} must not be set with the objective {', '.join(_GUIDING)}: the model stays as it is",
            path="objective",
        ),
        Rule(
            has("advantage.none").when(has("advantage") & _GUIDES),
            f"advantage must be none with the objective {', '.join(_GUIDING)}, which learns whether completions succeed",
            path="advantage",
        ),
        Rule(
            (~any_of([_SHAPED, *(has(f"exploration.{name}") for name in _STAGES)])).when(_GUIDES),
            f"shaping and exploration must be empty with the objective {', '.join(_GUIDING)}, which needs all completions and their outcomes as they are",
            path="objective",
        ),
        Rule(
            (~any_of([has("rollout.engine.vllm"), _TRUNCATES])).when(_GUIDES),
            f"rollout.engine.vllm and sampling.topP, topK, minP and entropyDescent must not be set with the objective {', '.join(_GUIDING)}, which changes logits itself",
            path="rollout",
        ),
        Rule(
            some("rewards", "reward", lambda reward: reward("weight").differs(0.0)).unless(_SHAPED),
            "rewards must have a weight other than 0 unless shaping adds to their total: otherwise every total is 0 and nothing is learnt",
            path="rewards",
        ),
    )

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
