"""The table of bad specs, continued: rules of RLVRJob, of its methods and of what stands together in one job."""

from __future__ import annotations

from typing import Any

from plumbline_api.methods.advantage.family import Advantage
from plumbline_api.methods.policy.family import PolicyObjective
from tests.api.bad_spec_rows import BadSpec, Judge, Patch
from tests.api.valid_specs import REMOVED, ROLLOUT_SERVER

_GROUP_BASELINES = ", ".join(member.member_key for member in Advantage.members() if member.needs_group)
_WITH_VALUES = ", ".join(member.member_key for member in Advantage.members() if member.needs_values)
_LEARNING_VALUES = ", ".join(member.member_key for member in PolicyObjective.members() if member.learns_values)
_ON_POLICY = ", ".join(member.member_key for member in PolicyObjective.members() if member.strictly_on_policy)
_OF_WHOLE_GROUPS = ", ".join(
    member.member_key
    for member in PolicyObjective.members()
    if member.needs_whole_groups and not member.strictly_on_policy
)
_REGULARIZING = ", ".join(member.member_key for member in PolicyObjective.members() if member.regularizes_divergence)

_JUDGED_BY_THE_TOTAL = ", ".join(
    member.member_key
    for member in Advantage.members()
    if member.needs_values or member.needs_greedy or member.needs_continuations
)

_WITH_ENTROPY_OR_REFERENCE = ", ".join(
    member.member_key for member in PolicyObjective.members() if member.needs_entropy or member.needs_reference
)
_TWO_OBJECTIVES = [{"component": "correct"}, {"component": "brief"}]
_GRADIENTS = {"gradientWeighting": {"components": ["correct", "brief"]}}
_BASE = {"source": {"volume": {"claimName": "models", "path": "base"}}}
_IN_A_CONFIG_MAP = {"source": {"configMap": {"name": "m", "key": "m"}}}
_GREEN = {"component": "green"}
"""A component that no reward of the smallest job has."""


def _bad(name: str, patch: Patch, path: str, message: str, judge: Judge = "rule") -> BadSpec:
    return BadSpec(name, "RLVRJob", patch, f"spec.{path}", message, judge)


def _reward(verifier: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    return [{"name": "correct", "verifier": verifier, **fields}]


_OF_METHODS = (
    *(
        _bad(
            f"{objective}-whose-dual-clip-undoes-the-upper-bound",
            {"spec.objective": {objective: {"clipLow": 0.2, "clipHigh": 0.5, "dualClip": 1.4}}},
            f"objective.{objective}.dualClip",
            "dualClip must be at least 1 + clipHigh: below it would undo the upper bound of the ratio",
        )
        for objective in ("grpo", "drGrpo", "ppo", "dapo")
    ),
    _bad(
        "importance-weights-between-nothing",
        {"spec.objective": {"cispo": {"lower": 1, "upper": 1}}},
        "objective.cispo.lower",
        "lower must be below upper: the importance weight lies between them",
    ),
    _bad(
        "covariances-turned-round",
        {"spec.objective": {"clipCov": {"covarianceLow": 5, "covarianceHigh": 1}}},
        "objective.clipCov.covarianceLow",
        "covarianceLow must be below covarianceHigh: tokens between them are drawn from",
    ),
    _bad(
        "ring-inside-its-own-range",
        {"spec.objective": {"rec": {"clip": "ring", "clipLow": 0.7, "outerLow": 0.6}}},
        "objective.rec.outerLow",
        "outerLow and outerHigh must not be below clipLow and clipHigh: the ring lies around the inner range",
    ),
    *(
        _bad(
            f"{objective}-that-clips-what-it-differentiates",
            {"spec.objective": {objective: {"estimator": "differentiable", "clipHigh": 0.2}}},
            f"objective.{objective}.estimator",
            "clipLow and clipHigh need estimator reinforce: a clipped ratio that is differentiated has no gradient",
        )
        for objective in ("rpg", "rpgReference")
    ),
    _bad(
        "penalty-without-gradient",
        {"spec.kl": {"loss": {"estimator": "k1"}}},
        "kl.loss.importanceWeighted",
        "estimator k1 must be importanceWeighted in the loss: without weights the mean of its gradient is 0",
    ),
    *(
        _bad(
            f"{control}-that-starts-above-its-greatest",
            {"spec.entropy": {control: {"initialCoefficient": 0.5, "maxCoefficient": 0.1}}},
            f"entropy.{control}.initialCoefficient",
            "initialCoefficient must not be above maxCoefficient",
        )
        for control in ("target", "constraint")
    ),
    *(
        _bad(
            f"{control}-without-room-in-its-band",
            {"spec.entropy": {control: {"low": 1, "high": 1}}},
            f"entropy.{control}.low",
            "low must be below high: entropy is left alone between them",
        )
        for control in ("band", "smoothing")
    ),
    _bad(
        "no-ratio-is-kept",
        {"spec.offPolicyCorrection": {"masked": {"low": 1, "high": 1}}},
        "offPolicyCorrection.masked.low",
        "low must be below high: weights lie between",
    ),
    _bad(
        "sets-of-unknown-size",
        {"spec.advantage": {"passAtK": {"form": "marginal"}}},
        "advantage.passAtK.k",
        "k must be set unless form is best, which takes the whole group",
    ),
    _bad(
        "size-of-sets-that-nobody-draws",
        {"spec.advantage": {"passAtK": {"form": "best", "k": 4}}},
        "advantage.passAtK.k",
        "k must be set unless form is best, which takes the whole group",
    ),
    _bad(
        "returns-turned-round",
        {"spec.advantage": {"gae": {}}, "spec.critic": {"shared": {"loss": {"categorical": {"vMin": 1, "vMax": 0}}}}},
        "critic.shared.loss.categorical.vMin",
        "vMin must be below vMax",
    ),
    _bad(
        "width-of-no-gaussian",
        {"spec.advantage": {"gae": {}}, "spec.critic": {"shared": {"loss": {"categorical": {"sigma": 0.1}}}}},
        "critic.shared.loss.categorical.sigma",
        "sigma must not be set unless projection is gaussian",
    ),
    _bad(
        "values-in-a-config-map",
        {"spec.advantage": {"frozenValue": {}}, "spec.critic": {"frozen": _IN_A_CONFIG_MAP}},
        "critic.frozen.source.configMap",
        "source.configMap must not be set: a model is a directory, and a ConfigMap cannot hold one",
    ),
    *(
        row
        for target in ("exactLengthTarget", "maximumLengthTarget")
        for row in (
            _bad(
                f"{target}-without-length",
                {"spec.shaping": [{target: {}}]},
                f"shaping[0].{target}.tokens",
                "tokens or column must be set: what is the length that is asked for?",
            ),
            _bad(
                f"{target}-of-two-lengths",
                {"spec.shaping": [{target: {"tokens": 5, "column": "length"}}]},
                f"shaping[0].{target}.column",
                "tokens and column must not both be set: "
                "the length asked for is either one number or each prompt's own",
            ),
        )
    ),
    _bad(
        "groups-chosen-twice",
        {"spec.shaping": [{"gatedLength": {"minCorrectRatio": 0.5, "topFraction": 0.5}}]},
        "shaping[0].gatedLength.topFraction",
        "topFraction must not be set beside minCorrectRatio: groups are chosen either by rank or by their ratio",
    ),
    *(
        _bad(
            f"{correction}-of-a-coin",
            {
                "spec.advantage": {"none": {}},
                "spec.shaping": [{correction: {"falsePositiveRate": 0.5, "falseNegativeRate": 0.5}}],
            },
            f"shaping[0].{correction}.falsePositiveRate",
            "falsePositiveRate and falseNegativeRate must sum to at most 0.95: "
            "a verifier that is wrong as often as right says nothing",
        )
        for correction in ("backwardCorrection", "forwardCorrection")
    ),
    _bad(
        "no-pass-rate-stays",
        {"spec.curriculum": {"passRateBand": {"minimum": 0.9, "maximum": 0.1}}},
        "curriculum.passRateBand.minimum",
        "minimum must be below maximum: the band is empty",
    ),
    *(
        _bad(
            f"hint-without-{part}",
            {"spec.exploration.rescue": {"guidance": {"template": template}}},
            "exploration.rescue.guidance.template",
            f"template must contain {{{part}}}: the {part}'s place",
        )
        for part, template in (("hint", "{prompt} Think."), ("prompt", "Hint: {hint}"))
    ),
    _bad(
        "sampled-by-two-grammars",
        {"spec.rollout.sampling": {"regex": "a+", "jsonSchema": {"type": "integer"}}},
        "rollout.sampling.regex",
        "regex and jsonSchema must not both be set: a completion follows one of them",
    ),
    *(
        _bad(
            f"surer-sampler-for-{name}",
            {"spec.rollout.sampling.entropyDescent": {}, **patch},
            "rollout.sampling.entropyDescent",
            "rollout.sampling.entropyDescent must not be set with kl.reward or exploration.budget.gradientVariance, "
            "which take the sampler's log-probabilities for the policy's",
        )
        for name, patch in (
            ("penalties", {"spec.kl": {"reward": {}}}),
            ("budgets", {"spec.exploration.budget": {"gradientVariance": {}}}),
        )
    ),
    _bad(
        "entropy-below-zero",
        {"spec.rollout.sampling.entropyDescent": {"floor": -1}},
        "rollout.sampling.entropyDescent.floor",
        "-1 is below the minimum of 0",
        "bounds",
    ),
    _bad(
        "longer-than-its-grammar",
        {"spec.rollout.sampling": {"regex": "a+", "minTokens": 2}},
        "rollout.sampling.minTokens",
        "minTokens must be 0 with regex or jsonSchema, which say themselves when a completion may end",
    ),
    _bad(
        "tests-that-outlast-their-completion",
        {"spec.rewards": _reward({"code": {"timeoutSeconds": 1, "caseTimeoutSeconds": 2}})},
        "rewards[0].verifier.code.timeoutSeconds",
        "timeoutSeconds must not be below caseTimeoutSeconds",
    ),
)

_OF_BATCHES = (
    *(
        _bad(
            f"group-of-one-with-{advantage}",
            {"spec.rollout.groupSize": 1, "spec.advantage": {advantage: {}}},
            "rollout.groupSize",
            f"rollout.groupSize must be at least 2: the advantages {_GROUP_BASELINES} "
            "compare the samples of one prompt",
        )
        for advantage in ("groupRelative", "leaveOneOut", "passAtK")
    ),
    *(
        _bad(
            f"group-of-one-with-{objective}",
            {"spec.rollout.groupSize": 1, "spec.objective": {objective: {}}},
            "rollout.groupSize",
            f"rollout.groupSize must be at least 2: the advantages {_GROUP_BASELINES} "
            "compare the samples of one prompt",
        )
        for objective in ("grpo", "reinforce", "asymRe")
    ),
    _bad(
        "sets-larger-than-their-group",
        {"spec.advantage": {"passAtK": {"form": "marginal", "k": 9}}},
        "advantage.passAtK.k",
        "advantage.passAtK.k must be at most rollout.groupSize",
    ),
    _bad(
        "group-of-one-without-signal",
        {
            "spec.rollout.groupSize": 1,
            "spec.advantage": {"none": {}},
            "spec.exploration.resampling": {"dynamicSampling": {}},
        },
        "rollout.groupSize",
        "rollout.groupSize must be at least 2 with exploration.resampling.dynamicSampling: "
        "a group of one has no signal",
    ),
    _bad(
        "batch-of-broken-groups",
        {"spec.rollout.groupSize": 6},
        "training.batchSize",
        "training.batchSize must be a multiple of rollout.groupSize: a step uses whole groups",
    ),
    _bad(
        "more-pods-than-groups",
        {"spec.resources.replicas": 5},
        "training.batchSize",
        "training.batchSize must be at least rollout.groupSize times resources.replicas: "
        "every pod works on at least one group of a step",
    ),
    _bad(
        "epochs-of-a-curriculum",
        {"spec.training": {"epochs": 1}, "spec.curriculum": {"hardestShare": {}}},
        "training.steps",
        "training.steps must be set with curriculum, which decides what an epoch would be",
    ),
    _bad(
        "least-budget-above-the-mean",
        {"spec.exploration.budget": {"gradientVariance": {"minimum": 9}}},
        "exploration.budget.gradientVariance.minimum",
        "exploration.budget.gradientVariance.minimum must not be above rollout.groupSize, the mean of all budgets",
    ),
    _bad(
        "no-room-for-further-samples",
        {"spec.exploration.resampling": {"dars": {"maxSamples": 8}}},
        "exploration.resampling.dars.maxSamples",
        "exploration.resampling.dars.maxSamples must be above rollout.groupSize, the number of first samples",
    ),
)

_CROSS_ENTROPY = {"spec.advantage": {"gae": {}}, "spec.critic": {"shared": {"loss": {"bce": {}}}}}

_OF_BLOCKS = (
    *(
        _bad(
            f"success-rate-of-rewards-{weight}",
            {**_CROSS_ENTROPY, "spec.rewards": _reward({"math": {}}, weight=weight)},
            "rewards",
            "weights of rewards must be within 0 and 1 with a critic's loss bce, whose values are success rates",
        )
        for weight in (-0.5, 2)
    ),
    _bad(
        "success-rate-less-a-penalty",
        {**_CROSS_ENTROPY, "spec.kl": {"reward": {}}},
        "kl",
        "kl.reward must not be set with a critic's loss bce: penalties take returns below 0",
    ),
    _bad(
        "reference-that-says-nothing",
        {"spec.reference": {}, "spec.kl": {"loss": {}}},
        "reference",
        "source or update must be set: without both leave out reference",
    ),
    _bad(
        "reference-without-penalty",
        {"spec.reference": _BASE},
        "reference",
        "reference must not be set without kl or the objective conservativeBellman, rpgReference, which compare the "
        "policy with it: it would not be used",
    ),
    *(
        _bad(
            f"{objective}-after-an-update",
            {"spec.objective": {objective: {}}, "spec.rollout.updatesPerRollout": 2},
            "rollout.updatesPerRollout",
            f"rollout.updatesPerRollout must be 1 with the objective {_ON_POLICY}, which is strictly on-policy",
        )
        for objective in ("reinforce", "entropyFinetuning")
    ),
    *(
        _bad(
            f"reinforce-on-{name}",
            {"spec.objective": {"reinforce": {}}, **patch},
            "exploration",
            f"exploration.replay and exploration.rescue.guidance must not be set with the objective {_ON_POLICY}: "
            "what another policy wrote needs an importance ratio",
        )
        for name, patch in (
            ("earlier-samples", {"spec.exploration.replay": {"selective": {}}}),
            ("hinted-samples", {"spec.exploration.rescue": {"guidance": {}}}),
        )
    ),
    *(
        _bad(
            f"{objective}-of-single-samples",
            {"spec.objective": {objective: {}}, "spec.exploration.replay": {"selective": {}}},
            "exploration.replay",
            f"exploration.replay must not be set with the objective {_OF_WHOLE_GROUPS}: a replayed sample comes alone, "
            "without those of its prompt that the objective compares it with",
        )
        for objective in ("gvpo", "marginalLikelihood")
    ),
    *(
        _bad(
            f"{objective}-corrected-twice",
            {"spec.objective": {objective: {}}, "spec.offPolicyCorrection": {"truncated": {}}},
            "offPolicyCorrection",
            "offPolicyCorrection must not be set with the objectives decoupledPpo and ppoEwma, "
            "which weigh by the sampler themselves",
        )
        for objective in ("decoupledPpo", "ppoEwma")
    ),
    *(
        _bad(
            f"{objective}-with-a-second-divergence",
            {"spec.objective": {objective: {}}, "spec.kl": {"loss": {}}},
            "kl",
            f"kl must not be set with the objective {_REGULARIZING}, of which a divergence is part",
        )
        for objective in ("gvpo", "rpgReference")
    ),
    _bad(
        "advantages-without-values",
        {"spec.advantage": {"gae": {}}},
        "critic",
        f"critic must be set: the advantages {_WITH_VALUES} use its values",
    ),
    _bad(
        "values-that-nobody-uses",
        {"spec.critic": {"shared": {}}},
        "critic",
        f"critic must not be set without an advantage that uses its values ({_WITH_VALUES}) or the objective "
        f"{_LEARNING_VALUES}",
    ),
    *(
        _bad(
            f"partial-solutions-of-none-that-{objective}-keeps",
            {"spec.objective": {objective: {"partialSolutions": "arithmeticPrograms", "keepSolutions": 0}}},
            f"objective.{objective}.keepSolutions",
            "keepSolutions must be at least 1 with partialSolutions, which are known by the solutions that are kept",
        )
        for objective in ("expertIteration", "mleAugmented", "marginalLikelihood")
    ),
    _bad(
        "learnt-values-without-a-critic",
        {"spec.objective": {"conservativeBellman": {}}},
        "critic",
        f"critic.shared must be set with the objective {_LEARNING_VALUES}, which trains its values",
    ),
    _bad(
        "advantages-of-learnt-values",
        {
            "spec.objective": {"conservativeBellman": {}},
            "spec.critic": {"shared": {}},
            "spec.advantage": {"gae": {}},
        },
        "advantage",
        f"advantage must not be set with the objective {_LEARNING_VALUES}, which learns from rewards: "
        "it would not be used",
    ),
    _bad(
        "frozen-values-that-learn",
        {"spec.advantage": {"frozenValue": {}}, "spec.critic": {"shared": {}}},
        "critic",
        "critic.frozen must be set with the advantage frozenValue",
    ),
    _bad(
        "values-of-demonstrations",
        {
            "spec.advantage": {"gae": {}},
            "spec.critic": {"shared": {}},
            "spec.exploration.rescue": {"demonstration": {}},
        },
        "critic",
        "critic must not be set with exploration.rescue.demonstration: a demonstration has no return",
    ),
    _bad(
        "constant-under-a-baseline",
        {"spec.shaping": [{"forwardCorrection": {"falseNegativeRate": 0.1}}]},
        "advantage",
        "advantage must be none with shaping forwardCorrection, which adds one number to all rewards: "
        "a baseline removes it",
    ),
    _bad(
        "shaping-that-nobody-sees",
        {"spec.advantage": {"rewardDecoupled": {}}, "spec.shaping": [{"softOverlong": {}}]},
        "shaping",
        "shaping must be empty with the advantage rewardDecoupled, "
        "which looks at the components of the reward and not at their total",
    ),
    *(
        _bad(
            f"gradients-of-components-with-{advantage}",
            {"spec.advantage": {advantage: {}}, "spec.shaping": [_GRADIENTS], **critic},
            "advantage",
            f"advantage must not be {_JUDGED_BY_THE_TOTAL} with shaping gradientWeighting, which takes the advantages "
            "of each component alone: those compare with values of the total",
        )
        for advantage, critic in (("remax", {}), ("gae", {"spec.critic": {"shared": {}}}))
    ),
    *(
        _bad(
            f"gradients-of-components-of-{objective}",
            {"spec.objective": {objective: {}}, "spec.shaping": [_GRADIENTS]},
            "objective",
            f"objective must not be {_WITH_ENTROPY_OR_REFERENCE} with shaping gradientWeighting, "
            "which takes the gradient of each component without entropies and the reference",
        )
        for objective in ("tokenConfidence", "rpgReference")
    ),
    *(
        _bad(
            f"hypervolume-over-a-deviation-{name}",
            {"spec.shaping": [{"hypervolumeWeighting": {"objectives": _TWO_OBJECTIVES}}], **patch},
            "advantage",
            "advantage must keep the scale of rewards with shaping hypervolumeWeighting, such as leaveOneOut or "
            "groupRelative with normalize none: one that divides by it undoes what shaping multiplies by",
        )
        for name, patch in (
            ("by-default", {}),
            ("of-groups", {"spec.advantage": {"groupRelative": {}}}),
            ("of-an-objective-without", {"spec.objective": {"drGrpo": {}}, "spec.advantage": {"groupRelative": {}}}),
            ("of-win-rates", {"spec.advantage": {"pairwiseWinRate": {"normalize": "none"}}}),
            ("of-the-best", {"spec.advantage": {"passAtK": {}}}),
        )
    ),
    *(
        _bad(
            f"{name}-from-within-a-grammar",
            {"spec.rollout.sampling": {"regex": "a+"}, **patch},
            "rollout.sampling",
            "rollout.sampling.regex and jsonSchema must not be set with the advantage monteCarloValue or shaping "
            "progress, which go on from the middle of a completion: the grammar would begin anew there",
        )
        for name, patch in (
            ("values", {"spec.advantage": {"monteCarloValue": {}}}),
            ("progress", {"spec.shaping": [{"progress": {}}]}),
        )
    ),
    _bad(
        "shaped-rewards-less-values-of-others",
        {"spec.advantage": {"monteCarloValue": {}}, "spec.shaping": [{"softOverlong": {}}]},
        "shaping",
        "shaping must be empty with the advantage monteCarloValue, whose values are those of the verifiers' rewards: "
        "what shaping adds would count for the last step alone",
    ),
    _bad(
        "penalties-less-values-of-rewards",
        {"spec.advantage": {"monteCarloValue": {}}, "spec.kl": {"reward": {}}},
        "kl",
        "kl.reward must not be set with the advantage monteCarloValue, whose values are those of the verifiers' "
        "rewards: the penalty would count for the last step alone",
    ),
    _bad(
        "divergence-of-a-policy-with-a-hint",
        {"spec.exploration.rescue": {"guidance": {}}, "spec.kl": {"reward": {}}},
        "kl",
        "kl.reward must not be set with exploration.rescue.guidance: "
        "it would compare the policy that reads the hint with the reference that does not",
    ),
    _bad(
        "rewards-without-weight",
        {"spec.rewards": _reward({"math": {}}, weight=0)},
        "rewards",
        "rewards must have a weight other than 0 unless shaping adds to their total: "
        "otherwise every total is 0 and nothing is learnt",
    ),
)


def _served(**changes: Any) -> dict[str, Any]:
    return {"vllm": {**ROLLOUT_SERVER, **changes}}


_WEIGHTS = {"directory": "/weights"}
_CORRECTED = {"spec.offPolicyCorrection": {"truncated": {}}}
_WITHIN_THE_GRAMMAR = (
    "offPolicyCorrection, kl.reward, exploration.replay, rescue.guidance and budget.gradientVariance, the objectives "
    "decoupledPpo and ppoEwma, and the advantages vtrace, retrace, rbis must not be set with rollout.engine.vllm and a "
    "regex or jsonSchema: the server's log-probabilities are those within the grammar"
)
_OF_ROLLOUT_ENGINES = (
    _bad(
        "rollout-server-by-the-address-of-its-protocol",
        {"spec.rollout.engine": _served(url="http://vllm:8000/v1/")},
        "rollout.engine.vllm.url",
        "url must be the root of the server, without /v1",
    ),
    _bad(
        "raw-log-probabilities-of-another-temperature",
        {"spec.rollout.engine": _served(), "spec.rollout.sampling": {"temperature": 0.8}},
        "rollout.sampling.temperature",
        "sampling.temperature must be 1 with engine.vllm and logprobsMode raw: "
        "the server's log-probabilities are those before temperature",
    ),
    *(
        _bad(
            f"processed-log-probabilities-with-{field}",
            {"spec.rollout.engine": _served(logprobsMode="processed"), "spec.rollout.sampling": {field: value}},
            "rollout.sampling",
            "sampling.topP, topK, minP, repetitionPenalty and minTokens must be left out with engine.vllm and "
            "logprobsMode processed: the server's log-probabilities are those after them",
        )
        for field, value in (("topP", 0.9), ("topK", 20), ("minP", 0.1), ("repetitionPenalty", 1.1), ("minTokens", 2))
    ),
    _bad(
        "descent-of-entropy-on-a-rollout-server",
        {"spec.rollout.engine": _served(), "spec.rollout.sampling": {"entropyDescent": {}}},
        "rollout.sampling.entropyDescent",
        "sampling.entropyDescent must not be set with engine.vllm, which cannot change logits in this way",
    ),
    _bad(
        "adapter-for-a-rollout-server-without-one",
        {"spec.rollout.engine": _served(weightSync={"lora": _WEIGHTS})},
        "peft",
        "peft.lora must be set with rollout.engine.vllm.weightSync.lora, which sends the adapter",
    ),
    _bad(
        "all-weights-for-a-rollout-server-from-an-adapter",
        {"spec.rollout.engine": _served(), "spec.peft": {"lora": {}}},
        "peft",
        "peft must not be set with rollout.engine.vllm.weightSync.reload: send the adapter by weightSync.lora",
    ),
    _bad(
        "rollout-server-with-other-weights-and-no-correction",
        {"spec.rollout.engine": _served(weightSync={"none": {}})},
        "offPolicyCorrection",
        "offPolicyCorrection, or the objective decoupledPpo or ppoEwma, must be set with "
        "rollout.engine.vllm.weightSync.none: the server's weights are not the policy's",
    ),
    _bad(
        "divergence-of-a-rollout-server-with-other-weights",
        {"spec.rollout.engine": _served(weightSync={"none": {}}), **_CORRECTED, "spec.kl": {"reward": {}}},
        "kl",
        "kl.reward must not be set with rollout.engine.vllm.weightSync.none: "
        "it would compare the server's weights with the reference, and not the policy's",
    ),
    *(
        _bad(
            f"{name}-by-log-probabilities-within-a-grammar",
            {"spec.rollout.engine": _served(), "spec.rollout.sampling": {"regex": "a+"}, **patch},
            "rollout.sampling",
            _WITHIN_THE_GRAMMAR,
        )
        for name, patch in (
            ("correction", _CORRECTED),
            ("divergence", {"spec.kl": {"reward": {}}}),
            ("trace", {"spec.advantage": {"vtrace": {}}, "spec.critic": {"shared": {}}}),
            ("replay", {"spec.exploration.replay": {"selective": {}}}),
        )
    ),
)

_GUIDED = {"spec.objective": {"qSharp": {}}}
_OF_GUIDANCE = (
    *(
        _bad(
            f"guided-model-with-{name}",
            _GUIDED | {f"spec.{name}": value},
            "objective",
            "kl, entropy, tokenSelection, offPolicyCorrection, peft must not be set with the objective qSharp: "
            "the model stays as it is",
        )
        for name, value in (
            ("kl", {"loss": {}}),
            ("entropy", {"bonus": {}}),
            ("tokenSelection", {"topEntropy": {}}),
            ("offPolicyCorrection", {"truncated": {}}),
            ("peft", {"lora": {}}),
        )
    ),
    _bad(
        "guided-model-with-advantages",
        _GUIDED | {"spec.advantage": {"groupRelative": {}}},
        "advantage",
        "advantage must be none with the objective qSharp, which learns whether completions succeed",
    ),
    *(
        _bad(
            f"guided-model-with-{name}",
            _GUIDED | patch,
            "objective",
            "shaping and exploration must be empty with the objective qSharp, "
            "which needs all completions and their outcomes as they are",
        )
        for name, patch in (
            ("shaping", {"spec.shaping": [{"truncated": {}}]}),
            ("replay", {"spec.exploration.replay": {"selective": {}}}),
            ("resampling", {"spec.exploration.resampling": {"dynamicSampling": {}}}),
        )
    ),
    *(
        _bad(
            f"guided-model-with-{name}",
            _GUIDED | patch,
            "rollout",
            "rollout.engine.vllm and sampling.topP, topK, minP and entropyDescent must not be set with the objective "
            "qSharp, which changes logits itself",
        )
        for name, patch in (
            ("server", {"spec.rollout.engine": _served()}),
            ("nucleus", {"spec.rollout.sampling.topP": 0.9}),
            ("fewest-tokens", {"spec.rollout.sampling.topK": 8}),
            ("least-probability", {"spec.rollout.sampling.minP": 0.1}),
            ("descent", {"spec.rollout.sampling.entropyDescent": {}}),
        )
    ),
)

_NO_COMPONENT = "'green' is no component of rewards: correct"
_COMPONENTS_THAT_DO_NOT_EXIST = tuple(
    _bad(f"{name}-of-no-component", patch, path, _NO_COMPONENT, "code")
    for name, patch, path in (
        ("gate", {"spec.shaping": [{"softOverlong": {}}, {"componentGate": _GREEN}]}, "shaping[1].componentGate"),
        (
            "constraint",
            {"spec.shaping": [{"constrained": {"constraints": [{**_GREEN, "threshold": 0.5}]}}]},
            "shaping[0].constrained",
        ),
        (
            "search",
            {
                "spec.shaping": [
                    {
                        "constrained": {
                            "constraints": [{"component": "correct", "threshold": 0.5}],
                            "thresholdSearch": _GREEN,
                        }
                    }
                ]
            },
            "shaping[0].constrained",
        ),
        ("appeal", {"spec.shaping": [{"backwardCorrection": {"appeal": _GREEN}}]}, "shaping[0].backwardCorrection"),
        (
            "weights",
            {"spec.shaping": [{"gradientWeighting": {"components": ["correct", "green"]}}]},
            "shaping[0].gradientWeighting",
        ),
        ("selection", {"spec.exploration.selection": {"prof": _GREEN}}, "exploration.selection.prof.component"),
    )
)

_COMPARED = [{"name": "better", "verifier": {"pairwiseJudge": {"url": "http://judge/compare"}}}]
_APART = (
    "rewards must not hold the verifier pairwiseJudge, which compares the samples of one prompt, with what scores "
    "completions apart from them: the advantages remax, monteCarloValue, shaping progress, keepSolutions, "
    "exploration.rescue.guidance and gold, exploration.resampling.dars"
)

_OF_COMPARED_COMPLETIONS = (
    _bad(
        "nothing-to-compare-with",
        {"spec.rewards": _COMPARED, "spec.rollout.groupSize": 1, "spec.advantage": {"none": {}}},
        "rollout.groupSize",
        "rollout.groupSize must be at least 2 with the verifier pairwiseJudge, "
        "which compares the samples of one prompt",
    ),
    *(
        _bad(f"compared-with-{name}", {"spec.rewards": _COMPARED, **patch}, "rewards", _APART)
        for name, patch in {
            "greedy-ones": {"spec.advantage": {"remax": {}}},
            "continuations": {"spec.advantage": {"monteCarloValue": {}}},
            "forced-answers": {"spec.shaping": [{"progress": {}}]},
            "kept-solutions": {"spec.objective": {"expertIteration": {"keepSolutions": 2}}},
            "hinted-ones": {"spec.exploration.rescue": {"guidance": {"template": "{prompt} {hint}"}}},
            "given-ones": {"spec.exploration.rescue": {"gold": {}}},
            "later-ones": {"spec.exploration.resampling": {"dars": {"maxSamples": 32}}},
        }.items()
    ),
    _bad(
        "nothing-but-comparisons-on-held-out-prompts",
        {"spec.rewards": _COMPARED, "spec.data.evaluation": _BASE},
        "data.evaluation",
        "data.evaluation must not be set when every reward is pairwiseJudge: held-out prompts have one completion, "
        "with nothing to compare it with; add a component with another verifier, if need be of weight 0",
    ),
    _bad(
        "comparing-judge-that-sees-one",
        {
            "spec.rewards": _reward(
                {"pairwiseJudge": {"url": "http://j/", "chatCompletions": {"model": "m", "template": "{first}"}}}
            )
        },
        "rewards[0].verifier.pairwiseJudge.chatCompletions.template",
        "template must contain {first} and {second}, where the compared texts are put",
    ),
)

_OF_SEARCHES = (
    _bad(
        "thresholds-between-which-there-is-nothing",
        {
            "spec.shaping": [
                {
                    "constrained": {
                        "constraints": [{"component": "correct", "threshold": 0.5}],
                        "thresholdSearch": {"component": "correct", "lowest": 0.5, "highest": 0.6},
                    }
                }
            ]
        },
        "shaping[0].constrained.thresholdSearch.highest",
        "lowest and highest must be more than step apart: there would be nothing to search",
    ),
)

_OF_THE_SCHEMA = (
    _bad(
        "prof-without-component",
        {"spec.exploration.selection": {"prof": {}}},
        "exploration.selection.prof.component",
        "is required",
        "bounds",
    ),
    _bad(
        "nine-steps-of-shaping",
        {"spec.shaping": [{"truncated": {}}] * 9},
        "shaping",
        "has 9 items, more than the maximum of 8",
        "bounds",
    ),
    _bad(
        "reward-without-verifier", {"spec.rewards.0.verifier": REMOVED}, "rewards[0].verifier", "is required", "bounds"
    ),
)

BAD_RLVR_SPECS = (
    *_OF_METHODS,
    *_OF_BATCHES,
    *_OF_BLOCKS,
    *_OF_ROLLOUT_ENGINES,
    *_OF_GUIDANCE,
    *_COMPONENTS_THAT_DO_NOT_EXIST,
    *_OF_COMPARED_COMPLETIONS,
    *_OF_SEARCHES,
    *_OF_THE_SCHEMA,
)
