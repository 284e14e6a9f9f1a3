"""Which methods of an RLVRJob go together, and what each of them needs of the others.

The rules ask the methods' classes what they need (`needs_group`, `guides` and so on), so that a new method is covered
by saying so in its class.
"""

from __future__ import annotations

import plumbline_api.methods.shaping.choice
import plumbline_api.methods.verifiers.choice  # noqa: F401  (importing both declares their members)
from plumbline_api.default_advantages import estimating, keeping_scale
from plumbline_api.methods.advantage.family import Advantage
from plumbline_api.methods.policy.family import PolicyObjective
from plumbline_api.methods.shaping.family import Shaping
from plumbline_api.methods.verifiers.family import Verifier
from plumbline_api.rules import Rule, any_of, every_has, field, has, some, some_has

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


METHOD_RULES: tuple[Rule, ...] = (
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
