"""The table of bad specs: what is wrong, where the user is pointed, and what the user reads."""

from __future__ import annotations

from typing import Any

from plumbline_api.methods.advantage.choice import AdvantageChoice
from plumbline_api.methods.pairing import Pairing
from plumbline_api.methods.policy.choice import PolicyObjectiveChoice
from plumbline_api.methods.preference.choice import PreferenceObjectiveChoice, TermChoice
from tests.api.bad_guardrail_specs import BAD_GUARDRAIL_SPECS
from tests.api.bad_rlvr_specs import BAD_RLVR_SPECS
from tests.api.bad_spec_rows import BadSpec, BadUpdate, Patch
from tests.api.valid_specs import REMOVED

_MEMBERS = list(PreferenceObjectiveChoice.family.members())
_OBJECTIVES = ", ".join(member.member_key for member in _MEMBERS)
_POLICY_OBJECTIVES = ", ".join(PolicyObjectiveChoice.model_fields)
_ADVANTAGES = ", ".join(AdvantageChoice.model_fields)
_TERMS = ", ".join(TermChoice.model_fields)
_REFERENCE_FREE = ", ".join(member.member_key for member in _MEMBERS if not member.needs_reference)

PREF, RLVR, RUNTIME = "PreferenceJob", "RLVRJob", "TrainerRuntime"
_FILE = {"volume": {"claimName": "data", "path": "test.jsonl"}}
_MIXTURE = [{"name": name, "weight": 1, "source": _FILE} for name in ("a", "b")]
_REWARD = {"name": "correct", "verifier": {"exactMatch": {}}}
_REFERENCE = {"source": {"volume": {"claimName": "models", "path": "base"}}}


def _reward(verifier: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    return [{"name": "correct", "verifier": verifier, **fields}]


BAD_SPECS = (
    # unknown fields
    BadSpec(
        "unknown-field",
        PREF,
        {"spec.training.batchsize": 8},
        "spec.training.batchsize",
        "unknown field; did you mean batchSize?",
        "unknown",
    ),
    BadSpec(
        "snake-case",
        PREF,
        {"spec.training.batch_size": 8},
        "spec.training.batch_size",
        "unknown field; did you mean batchSize?",
        "unknown",
    ),
    BadSpec("unknown-block", RLVR, {"spec.teacher": {}}, "spec.teacher", "unknown field", "unknown"),
    BadSpec(
        "unknown-method-parameter",
        PREF,
        {"spec.objective": {"dpo": {"betta": 0.2}}},
        "spec.objective.dpo.betta",
        "unknown field; did you mean beta?",
        "unknown",
    ),
    BadSpec(
        "unknown-objective",
        RLVR,
        {"spec.objective": {"dpo": {}}},
        "spec.objective.dpo",
        f"unknown field; known are {_POLICY_OBJECTIVES}",
        "unknown",
    ),
    BadSpec(
        "unknown-field-of-a-reward",
        RLVR,
        {"spec.rewards.0.wieght": 2},
        "spec.rewards[0].wieght",
        "unknown field; did you mean weight?",
        "unknown",
    ),
    # wrong types
    BadSpec(
        "text-for-integer",
        PREF,
        {"spec.training.batchSize": "32"},
        "spec.training.batchSize",
        'must be an integer, not the string "32"',
    ),
    BadSpec(
        "fraction-for-integer", PREF, {"spec.training.steps": 1.5}, "spec.training.steps", "must be an integer, not 1.5"
    ),
    BadSpec(
        "text-for-number",
        PREF,
        {"spec.objective.dpo.beta": "high"},
        "spec.objective.dpo.beta",
        'must be a number, not the string "high"',
    ),
    BadSpec(
        "text-for-boolean",
        PREF,
        {"spec.runPolicy.suspend": "yes"},
        "spec.runPolicy.suspend",
        'must be true or false, not the string "yes"',
    ),
    BadSpec("number-for-text", PREF, {"spec.runtimeRef.name": 7}, "spec.runtimeRef.name", "must be a string, not 7"),
    BadSpec(
        "object-for-list",
        RLVR,
        {"spec.rewards": {"correct": {}}},
        "spec.rewards",
        "must be a list, not an object",
    ),
    BadSpec(
        "text-for-choice",
        PREF,
        {"spec.objective": "dpo"},
        "spec.objective",
        'must be an object, not the string "dpo"',
    ),
    # missing
    BadSpec("no-objective", PREF, {"spec.objective": REMOVED}, "spec.objective", "is required"),
    BadSpec("no-model", PREF, {"spec.model": REMOVED}, "spec.model", "is required"),
    BadSpec("no-runtime", RLVR, {"spec.runtimeRef": REMOVED}, "spec.runtimeRef", "is required"),
    BadSpec("no-runtime-name", RLVR, {"spec.runtimeRef": {}}, "spec.runtimeRef.name", "is required"),
    BadSpec("no-rewards", RLVR, {"spec.rewards": REMOVED}, "spec.rewards", "is required"),
    BadSpec("empty-rewards", RLVR, {"spec.rewards": []}, "spec.rewards", "needs at least 1 item"),
    BadSpec(
        "no-pattern",
        RLVR,
        {"spec.rewards": _reward({"regex": {}})},
        "spec.rewards[0].verifier.regex.pattern",
        "is required",
    ),
    BadSpec("no-image", RUNTIME, {"spec.image": REMOVED}, "spec.image", "is required"),
    # choices
    BadSpec(
        "two-objectives",
        PREF,
        {"spec.objective": {"dpo": {}, "ipo": {}}},
        "spec.objective",
        f"exactly one of [{_OBJECTIVES}] must be set, but these are set: dpo, ipo",
    ),
    BadSpec(
        "empty-objective",
        PREF,
        {"spec.objective": {}},
        "spec.objective",
        f"exactly one of [{_OBJECTIVES}] must be set, but none is set",
    ),
    BadSpec(
        "objective-without-braces",
        PREF,
        {"spec.objective": {"sft": None}},
        "spec.objective",
        f"exactly one of [{_OBJECTIVES}] must be set, but none is set (to take the defaults of sft, write sft: {{}})",
    ),
    BadSpec(
        "two-advantages",
        RLVR,
        {"spec.advantage": {"groupRelative": {}, "none": {}}},
        "spec.advantage",
        f"exactly one of [{_ADVANTAGES}] must be set, but these are set: groupRelative, none",
    ),
    BadSpec(
        "two-optimizers",
        PREF,
        {"spec.optimizer": {"adamw": {}, "sgd": {}}},
        "spec.optimizer",
        "exactly one of [adamw, sgd] must be set, but these are set: adamw, sgd",
    ),
    BadSpec(
        "two-sources",
        PREF,
        {"spec.data.train.source.uri": {"uri": "s3://bucket/x"}},
        "spec.data.train.source",
        "exactly one of [volume, configMap, uri, path] must be set, but these are set: volume, uri",
    ),
    # bounds
    BadSpec(
        "batch-of-none",
        PREF,
        {"spec.training.batchSize": 0},
        "spec.training.batchSize",
        "0 is below the minimum of 1",
    ),
    BadSpec(
        "learning-rate-above-one",
        PREF,
        {"spec.optimizer": {"adamw": {"learningRate": 2}}},
        "spec.optimizer.adamw.learningRate",
        "2 is above the maximum of 1",
    ),
    BadSpec(
        "longer-trace-that-is-shorter",
        PREF,
        {"spec.data.pairing": {"solutionRounds": {"minLengthRatio": 0.5}}},
        "spec.data.pairing.solutionRounds.minLengthRatio",
        "0.5 is below the minimum of 1",
    ),
    BadSpec(
        "pattern-of-solutions-that-is-none",
        PREF,
        {"spec.data.pairing": {"solutionRounds": {"pattern": "("}}},
        "spec.data.pairing.solutionRounds.pattern",
        "'(' is not a regular expression: missing ), unterminated subpattern at position 0",
        "code",
    ),
    BadSpec("beta-of-zero", PREF, {"spec.objective.dpo.beta": 0}, "spec.objective.dpo.beta", "0 must be above 0"),
    BadSpec(
        "momentum-of-one",
        PREF,
        {"spec.optimizer": {"sgd": {"momentum": 1}}},
        "spec.optimizer.sgd.momentum",
        "1 must be below 1",
    ),
    BadSpec(
        "temperature-of-zero",
        RLVR,
        {"spec.rollout.sampling.temperature": 0},
        "spec.rollout.sampling.temperature",
        "0 must be above 0",
    ),
    BadSpec(
        "unknown-word",
        RLVR,
        {"spec.advantage": {"groupRelative": {"normalize": "var"}}},
        "spec.advantage.groupRelative.normalize",
        '"var" is not one of std, batchStd, none',
    ),
    BadSpec(
        "path-that-leaves-the-volume",
        PREF,
        {"spec.data.train.source.volume.path": "../other/train.jsonl"},
        "spec.data.train.source.volume.path",
        r'"../other/train.jsonl" does not match ^[^/.][^/]*(/[^/.][^/]*)*$',
    ),
    BadSpec(
        "location-without-scheme",
        PREF,
        {"spec.model.source": {"uri": {"uri": "bucket/model"}}},
        "spec.model.source.uri.uri",
        '"bucket/model" does not match ^[a-z][a-z0-9+.-]*://.+$',
    ),
    BadSpec(
        "memory-in-words",
        PREF,
        {"spec.resources.memory": "8 GB"},
        "spec.resources.memory",
        r'"8 GB" does not match ^([0-9]+(\.[0-9]+)?)(m|[kMGTPE]i?|[eE][+-]?[0-9]+)?$',
    ),
    BadSpec(
        "too-many-stop-strings",
        RLVR,
        {"spec.rollout.sampling.stop": [str(number) for number in range(17)]},
        "spec.rollout.sampling.stop",
        "has 17 items, more than the maximum of 16",
    ),
    BadSpec(
        "reward-name-too-long",
        RLVR,
        {"spec.rewards.0.name": "a" * 41},
        "spec.rewards[0].name",
        "has 41 characters, more than the maximum of 40",
    ),
    BadSpec(
        "two-rewards-of-one-name",
        RLVR,
        {"spec.rewards": [_REWARD, _REWARD]},
        "spec.rewards[1]",
        "name 'correct' is used twice",
    ),
    # rules of a job's name
    BadSpec(
        "name-too-long",
        PREF,
        {"metadata.name": "a" * 41},
        "metadata.name",
        "metadata.name must be at most 40 characters, so that the names of the job's pods fit",
        "rule",
    ),
    BadSpec(
        "name-with-dot",
        RLVR,
        {"metadata.name": "run.1"},
        "metadata.name",
        "metadata.name must start with a letter and consist of a-z, 0-9 and '-': it becomes the name of a Service",
        "rule",
    ),
    BadSpec(
        "name-with-leading-digit",
        PREF,
        {"metadata.name": "1st-run"},
        "metadata.name",
        "metadata.name must start with a letter and consist of a-z, 0-9 and '-': it becomes the name of a Service",
        "rule",
    ),
    # rules of both kinds
    BadSpec(
        "steps-and-epochs",
        PREF,
        {"spec.training.epochs": 1},
        "spec.training.steps",
        "exactly one of steps and epochs must be set",
        "rule",
    ),
    BadSpec(
        "neither-steps-nor-epochs",
        PREF,
        {"spec.training": {}},
        "spec.training.steps",
        "exactly one of steps and epochs must be set",
        "rule",
    ),
    BadSpec(
        "micro-batch-above-batch",
        PREF,
        {"spec.training.microBatchSize": 64},
        "spec.training.microBatchSize",
        "microBatchSize must not be above batchSize",
        "rule",
    ),
    BadSpec(
        "evaluation-without-rows",
        PREF,
        {"spec.evaluation.everySteps": 5},
        "spec.evaluation.everySteps",
        "evaluation.everySteps needs data.evaluation: without held-out rows nothing is evaluated",
        "rule",
    ),
    BadSpec(
        "limit-of-rows-that-are-not-there",
        RLVR,
        {"spec.evaluation.maxRows": 5},
        "spec.evaluation.maxRows",
        "evaluation.maxRows needs data.evaluation: without held-out rows nothing is evaluated",
        "rule",
    ),
    BadSpec(
        "best-checkpoint-of-no-evaluations",
        PREF,
        {"spec.checkpoint.best": {"metric": "loss", "mode": "min"}},
        "spec.checkpoint.best",
        "checkpoint.best needs evaluation.everySteps: without evaluations on the way there is nothing to compare",
        "rule",
    ),
    BadSpec(
        "data-set-is-a-volume",
        PREF,
        {"spec.data.train.source.volume.path": REMOVED},
        "spec.data.train.source.volume",
        "source.volume.path must be set: a data set is one file of the volume",
        "rule",
    ),
    BadSpec(
        "model-in-a-config-map",
        PREF,
        {"spec.model.source": {"configMap": {"name": "model", "key": "weights"}}},
        "spec.model.source.configMap",
        "source.configMap must not be set: a model is a directory, and a ConfigMap cannot hold one",
        "rule",
    ),
    BadSpec(
        "no-output",
        PREF,
        {"spec.output": {}},
        "spec.output",
        "exactly one of volume and path must be set",
        "rule",
    ),
    BadSpec(
        "output-in-the-pod",
        RLVR,
        {"spec.output": {"path": "/tmp/model"}},
        "spec.output.path",
        "path must not be set in a cluster, where it is gone with the pod; set volume",
        "rule",
    ),
    BadSpec(
        "checkpoints-in-the-output-folder",
        PREF,
        {
            "spec.output.volume.path": "runs/a",
            "spec.checkpoint.volume": {"claimName": "results", "path": "runs/a"},
        },
        "spec.checkpoint.volume",
        "checkpoint.volume must not be the folder of output.volume: the model would be written among the checkpoints",
        "rule",
    ),
    BadSpec(
        "checkpoints-in-the-default-output-folder",
        PREF,
        {"spec.checkpoint.volume": {"claimName": "results"}},
        "spec.checkpoint.volume",
        "checkpoint.volume must not be the folder of output.volume: the model would be written among the checkpoints",
        "rule",
    ),
    BadSpec(
        "backoff-upside-down",
        PREF,
        {"spec.runPolicy.backoff": {"initialSeconds": 100, "maxSeconds": 10}},
        "spec.runPolicy.backoff.initialSeconds",
        "initialSeconds must not be above maxSeconds",
        "rule",
    ),
    BadSpec(
        "toleration-of-every-value-with-a-value",
        PREF,
        {"spec.scheduling.tolerations": [{"key": "gpu", "operator": "Exists", "value": "a100"}]},
        "spec.scheduling.tolerations[0].value",
        "value must not be set with operator Exists, which tolerates every value",
        "rule",
    ),
    BadSpec(
        "toleration-without-key",
        PREF,
        {"spec.scheduling.tolerations": [{"effect": "NoSchedule"}]},
        "spec.scheduling.tolerations[0].key",
        "key must be set unless operator is Exists, which then tolerates every taint",
        "rule",
    ),
    BadSpec(
        "toleration-seconds-without-eviction",
        PREF,
        {"spec.scheduling.tolerations": [{"key": "gpu", "effect": "NoSchedule", "tolerationSeconds": 5}]},
        "spec.scheduling.tolerations[0].tolerationSeconds",
        "tolerationSeconds needs effect NoExecute: other effects never remove a pod",
        "rule",
    ),
    BadSpec(
        "restart-rule-that-matches-nothing",
        PREF,
        {"spec.runPolicy.restartRules": [{"match": {}, "action": "Fail"}]},
        "spec.runPolicy.restartRules[0].match",
        "at least one of exitCodes, reasons, roles and messages must be set",
        "rule",
    ),
    BadSpec(
        "restart-of-a-role-that-is-not-named",
        RLVR,
        {"spec.runPolicy.restartRules": [{"match": {"exitCodes": [75]}, "action": "RestartRole"}]},
        "spec.runPolicy.restartRules[0].match.roles",
        "action RestartRole needs match.roles: it restarts the pods of the roles that the rule names",
        "rule",
    ),
    BadSpec(
        "a-rule-that-fails-and-counts",
        PREF,
        {
            "spec.runPolicy.restartRules": [
                {"match": {"exitCodes": [75]}, "action": "RestartJob", "countsTowardsLimit": False},
                {"match": {"exitCodes": [70]}, "action": "Fail", "countsTowardsLimit": True},
            ]
        },
        "spec.runPolicy.restartRules[1].countsTowardsLimit",
        "countsTowardsLimit needs action RestartJob or RestartRole: nothing else could count",
        "rule",
    ),
    BadSpec(
        "a-rule-about-success",
        PREF,
        {"spec.runPolicy.restartRules": [{"match": {"exitCodes": [0]}, "action": "Fail"}]},
        "spec.runPolicy.restartRules[0].match.exitCodes[0]",
        "0 is below the minimum of 1",
    ),
    BadSpec(
        "a-rule-about-a-role-that-does-not-exist",
        PREF,
        {"spec.runPolicy.restartRules": [{"match": {"roles": ["rollout"]}, "action": "RestartRole"}]},
        "spec.runPolicy.restartRules[0].match.roles[0]",
        '"rollout" is not one of trainer',
    ),
    BadSpec(
        "a-rule-about-any-text",
        PREF,
        {"spec.runPolicy.restartRules": [{"match": {"messages": ["**"]}, "action": "Ignore"}]},
        "spec.runPolicy.restartRules[0].match.messages[0]",
        '"**" does not match ^[^\\n]*[^*\\n][^\\n]*$',
    ),
    BadSpec(
        "a-rule-about-a-reason-that-ends-nothing",
        PREF,
        {"spec.runPolicy.restartRules": [{"match": {"reasons": ["Training"]}, "action": "Fail"}]},
        "spec.runPolicy.restartRules[0].match.reasons[0]",
        "Training is not a reason for which an attempt ends; docs/operations.md lists them",
    ),
    BadSpec(
        "a-node-excluded-for-no-time",
        PREF,
        {"spec.runPolicy.nodeExclusion": {"seconds": 0}},
        "spec.runPolicy.nodeExclusion.seconds",
        "0 is below the minimum of 60",
    ),
    BadSpec(
        "a-place-in-no-queue",
        PREF,
        {"spec.scheduling.workloadPriorityClassName": "research"},
        "spec.scheduling.workloadPriorityClassName",
        "workloadPriorityClassName needs queue: it orders the jobs that wait in queues",
        "rule",
    ),
    BadSpec(
        "managed-by-nobody-in-particular",
        PREF,
        {"spec.managedBy": "somebody"},
        "spec.managedBy",
        '"somebody" does not match ^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$',
    ),
    # rules of methods
    BadSpec(
        "labels-that-say-nothing",
        PREF,
        {"spec.objective.dpo.labelSmoothing": 0.5},
        "spec.objective.dpo.labelSmoothing",
        "labelSmoothing must be below 0.5: at 0.5 the labels say nothing",
        "rule",
    ),
    *(
        BadSpec(
            f"labels-that-say-nothing-to-{objective}",
            PREF,
            {"spec.objective": {objective: {"labelSmoothing": 0.5}}},
            f"spec.objective.{objective}.labelSmoothing",
            "labelSmoothing must be below 0.5: at 0.5 the labels say nothing",
            "rule",
        )
        for objective in ("exo", "aot", "aotUnpaired", "typo", "rewardModel", "rewardStep")
    ),
    BadSpec(
        "labels-flipped-half-of-the-time",
        PREF,
        {"spec.objective": {"robust": {"flipRate": 0.5}}},
        "spec.objective.robust.flipRate",
        "flipRate must be below 0.5: at 0.5 the labels say nothing",
        "rule",
    ),
    BadSpec(
        "alpha-divergence-without-alpha",
        PREF,
        {"spec.objective.dpo.divergence": "alpha"},
        "spec.objective.dpo.divergenceAlpha",
        "divergence alpha needs divergenceAlpha, its coefficient between 0 and 1",
        "rule",
    ),
    BadSpec(
        "alpha-of-another-divergence",
        PREF,
        {"spec.objective.dpo": {"divergence": "forwardKl", "divergenceAlpha": 0.5}},
        "spec.objective.dpo.divergenceAlpha",
        "divergenceAlpha is the coefficient of divergence alpha; set divergence to alpha or leave it out",
        "rule",
    ),
    BadSpec(
        "length-normalized-forward-kl",
        PREF,
        {"spec.objective.dpo": {"divergence": "forwardKl", "lengthNormalized": True}},
        "spec.objective.dpo.lengthNormalized",
        "lengthNormalized is defined for divergence reverseKl only",
        "rule",
    ),
    BadSpec(
        "scores-upside-down",
        PREF,
        {"spec.objective": {"scoreDpo": {"lowestScore": 5, "highestScore": 1}}},
        "spec.objective.scoreDpo.lowestScore",
        "lowestScore must be below highestScore: they are mapped to 0 and 1",
        "rule",
    ),
    BadSpec(
        "undesirable-rows-that-nothing-holds",
        PREF,
        {"spec.objective": {"pmpo": {"beta": 0}}},
        "spec.objective.pmpo.beta",
        "beta must be above 0 where alpha is below 1: nothing else bounds how far undesirable completions fall",
        "rule",
    ),
    BadSpec(
        "mixture-of-one-objective",
        PREF,
        {"spec.objective": {"mixture": {"terms": [{"objective": {"dpo": {}}}]}}},
        "spec.objective.mixture.terms",
        "needs at least 2 items",
    ),
    BadSpec(
        "term-that-is-no-objective-on-pairs",
        PREF,
        {"spec.objective": {"mixture": {"terms": [{"objective": {"dpo": {}}}, {"objective": {"kto": {}}}]}}},
        "spec.objective.mixture.terms[1].objective.kto",
        f"unknown field; known are {_TERMS}",
        "unknown",
    ),
    BadSpec(
        "rule-of-a-term",
        PREF,
        {
            "spec.objective": {
                "mixture": {"terms": [{"objective": {"sft": {}}}, {"objective": {"dpo": {"labelSmoothing": 0.5}}}]}
            }
        },
        "spec.objective.mixture.terms[1].objective.dpo.labelSmoothing",
        "labelSmoothing must be below 0.5: at 0.5 the labels say nothing",
        "rule",
    ),
    BadSpec(
        "feasible-without-bound",
        PREF,
        {"spec.aggregation": {"feasible": {}}},
        "spec.aggregation.feasible.epsilon",
        "is required",
    ),
    BadSpec(
        "weights-that-jump",
        PREF,
        {"spec.aggregation": {"resilientFeasible": {"epsilon": 0.5, "dualLearningRate": 2, "alpha": 1}}},
        "spec.aggregation.resilientFeasible.dualLearningRate",
        "dualLearningRate must not be above alpha: weights would jump over the value at which they settle",
        "rule",
    ),
    BadSpec(
        "two-weightings",
        PREF,
        {"spec.weighting": {"none": {}, "wpo": {}}},
        "spec.weighting",
        "exactly one of [none, wpo] must be set, but these are set: none, wpo",
    ),
    BadSpec(
        "degree-of-one-level",
        PREF,
        {"spec.auxiliary": {"preferenceDegree": {"levels": 1}}},
        "spec.auxiliary.preferenceDegree.levels",
        "1 is below the minimum of 2",
    ),
    BadSpec(
        "nesterov-without-momentum",
        PREF,
        {"spec.optimizer": {"sgd": {"nesterov": True}}},
        "spec.optimizer.sgd.nesterov",
        "nesterov needs momentum above 0",
        "rule",
    ),
    BadSpec(
        "schedule-longer-than-the-run",
        PREF,
        {"spec.schedule": {"warmupStableDecay": {"warmupFraction": 0.6, "decayFraction": 0.5}}},
        "spec.schedule.warmupStableDecay.decayFraction",
        "warmupFraction and decayFraction together must not be above 1",
        "rule",
    ),
    BadSpec(
        "clip-range-upside-down",
        RLVR,
        {"spec.objective.grpo": {"clipLow": 0.3, "clipHigh": 0.2}},
        "spec.objective.grpo.clipLow",
        "clipLow must not be above clipHigh: the upper bound of the ratio is never the tighter one",
        "rule",
    ),
    BadSpec(
        "reward-code-from-nowhere",
        RLVR,
        {"spec.rewards": _reward({"python": {}})},
        "spec.rewards[0].verifier.python",
        "exactly one of configMap and path must be set",
        "rule",
    ),
    BadSpec(
        "reward-code-from-two-places",
        RLVR,
        {"spec.rewards": _reward({"python": {"configMap": "rewards", "path": "/opt/reward.py"}})},
        "spec.rewards[0].verifier.python",
        "exactly one of configMap and path must be set",
        "rule",
    ),
    BadSpec(
        "options-and-choices",
        RLVR,
        {"spec.rewards": _reward({"multipleChoice": {"options": 4, "choicesColumn": "choices"}})},
        "spec.rewards[0].verifier.multipleChoice.options",
        "options must not be set with choicesColumn, which says for each row how many there are",
        "rule",
    ),
    BadSpec(
        "schema-from-nowhere",
        RLVR,
        {"spec.rewards": _reward({"jsonSchema": {}})},
        "spec.rewards[0].verifier.jsonSchema",
        "exactly one of schema and schemaColumn must be set",
        "rule",
    ),
    BadSpec(
        "no-instructions",
        RLVR,
        {"spec.rewards": _reward({"instructions": {}})},
        "spec.rewards[0].verifier.instructions",
        "at least one rule must be set, or fromRows: true",
        "rule",
    ),
    BadSpec(
        "count-of-nothing",
        RLVR,
        {"spec.rewards": _reward({"instructions": {"words": {}}})},
        "spec.rewards[0].verifier.instructions.words",
        "at least one of atLeast and atMost must be set",
        "rule",
    ),
    BadSpec(
        "count-turned-round",
        RLVR,
        {"spec.rewards": _reward({"instructions": {"words": {"atLeast": 3, "atMost": 2}}})},
        "spec.rewards[0].verifier.instructions.words.atLeast",
        "atLeast must not be above atMost",
        "rule",
    ),
    BadSpec(
        "keyword-count-turned-round",
        RLVR,
        {"spec.rewards": _reward({"instructions": {"keywords": [{"text": "x", "atLeast": 3, "atMost": 2}]}})},
        "spec.rewards[0].verifier.instructions.keywords[0].atLeast",
        "atLeast must not be above atMost",
        "rule",
    ),
    BadSpec(
        "judge-of-batches-by-chat",
        RLVR,
        {
            "spec.rewards": _reward(
                {"httpJudge": {"url": "http://j/", "batchSize": 2, "chatCompletions": {"model": "m"}}}
            )
        },
        "spec.rewards[0].verifier.httpJudge.batchSize",
        "batchSize must be 1 with chatCompletions, which judges one completion a request",
        "rule",
    ),
    BadSpec(
        "half-a-scale",
        RLVR,
        {"spec.rewards": _reward({"httpJudge": {"url": "http://j/", "lowest": 1}})},
        "spec.rewards[0].verifier.httpJudge.lowest",
        "lowest and highest must be set together: they are the ends of the judge's scale",
        "rule",
    ),
    BadSpec(
        "scale-turned-round",
        RLVR,
        {"spec.rewards": _reward({"httpJudge": {"url": "http://j/", "lowest": 2, "highest": 1}})},
        "spec.rewards[0].verifier.httpJudge.lowest",
        "lowest must be below highest",
        "rule",
    ),
    BadSpec(
        "judge-that-sees-nothing",
        RLVR,
        {
            "spec.rewards": _reward(
                {"httpJudge": {"url": "http://j/", "chatCompletions": {"model": "m", "template": "{prompt}"}}}
            )
        },
        "spec.rewards[0].verifier.httpJudge.chatCompletions.template",
        "template must contain {completion}, where the judged text is put",
        "rule",
    ),
    BadSpec(
        "reward-model-in-a-config-map",
        RLVR,
        {"spec.rewards": _reward({"rewardModel": {"source": {"configMap": {"name": "m", "key": "m"}}}})},
        "spec.rewards[0].verifier.rewardModel.source.configMap",
        "source.configMap must not be set: a model is a directory, and a ConfigMap cannot hold one",
        "rule",
    ),
    BadSpec(
        "prompts-from-nowhere",
        RLVR,
        {"spec.data.train": {}},
        "spec.data.train",
        "exactly one of source and generator must be set",
        "rule",
    ),
    BadSpec(
        "prompts-from-two-places",
        RLVR,
        {"spec.data.train.generator": {"reasoningGym": {"task": "chain_sum"}}},
        "spec.data.train",
        "exactly one of source and generator must be set",
        "rule",
    ),
    BadSpec(
        "held-out-prompts-that-are-learned-from",
        RLVR,
        {
            "spec.data": {
                name: {"generator": {"reasoningGym": {"task": "chain_sum"}}} for name in ("train", "evaluation")
            }
        },
        "spec.data.evaluation",
        "evaluation.generator.reasoningGym.seed must differ from train.generator.reasoningGym.seed: "
        "the held-out prompts would be those learned from",
        "rule",
    ),
    # rules of PreferenceJob
    BadSpec(
        "reference-nobody-reads",
        PREF,
        {"spec.objective": {"simpo": {}}, "spec.reference": _REFERENCE},
        "spec.reference",
        f"reference must not be set: the objectives {_REFERENCE_FREE} do not use a reference model",
        "rule",
    ),
    BadSpec(
        "more-pods-than-rows",
        PREF,
        {"spec.resources.replicas": 4, "spec.training.batchSize": 3},
        "spec.training.batchSize",
        "training.batchSize must be at least resources.replicas: every pod works on at least one row of a step",
        "rule",
    ),
    *(
        BadSpec(
            f"{member.member_key}-with-one-row",
            PREF,
            {"spec.objective": {member.member_key: {}}, "spec.training.batchSize": 1},
            "spec.training.batchSize",
            f"training.batchSize must be at least 2 for objective.{member.member_key}",
            "rule",
        )
        for member in _MEMBERS
        if member.smallest_batch == 2
    ),
    *(
        BadSpec(
            f"{name}-of-{objective}",
            PREF,
            {"spec.objective": {objective: {}}, f"spec.{name}": value},
            f"spec.{name}",
            f"{name} must not be set: this objective does not take it (see docs/methods.md)",
            "rule",
        )
        for name, value, objectives in (
            ("weighting", {"wpo": {}}, ("kto", "rrhf", "rewardModel", "aot", "vrpo")),
            ("auxiliary", {"preferenceDegree": {}}, ("kto", "sft", "rewardModel", "vrpo")),
            ("aggregation", {"feasible": {"epsilon": 1}}, ("sft", "aot")),
        )
        for objective in objectives
    ),
    *BAD_RLVR_SPECS,
    *BAD_GUARDRAIL_SPECS,
    # rules of runtimes
    BadSpec(
        "variable-without-value",
        RUNTIME,
        {"spec.env": [{"name": "HF_HOME"}]},
        "spec.env[0]",
        "exactly one of value and secretKeyRef must be set",
        "rule",
    ),
    BadSpec(
        "variable-of-the-operator",
        "ClusterTrainerRuntime",
        {"spec.env": [{"name": "WORLD_SIZE", "value": "2"}]},
        "spec.env[0].name",
        "name must not be one of RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT "
        "or start with PLUMBLINE_: the operator sets these",
        "rule",
    ),
    # what only code can tell
    BadSpec(
        "pattern-that-does-not-compile",
        RLVR,
        {"spec.rewards": _reward({"regex": {"pattern": "("}})},
        "spec.rewards[0].verifier.regex.pattern",
        "'(' is not a regular expression: missing ), unterminated subpattern at position 0",
        "code",
    ),
    # rows of preference jobs
    BadSpec(
        "no-training-rows",
        PREF,
        {"spec.data": {}},
        "spec.data.train",
        "exactly one of train and mixture must be set",
        "rule",
    ),
    BadSpec(
        "one-file-and-a-mixture",
        PREF,
        {"spec.data.mixture": _MIXTURE},
        "spec.data.train",
        "exactly one of train and mixture must be set",
        "rule",
    ),
    BadSpec(
        "mixture-of-one",
        PREF,
        {"spec.data": {"mixture": _MIXTURE[:1]}},
        "spec.data.mixture",
        "needs at least 2 items",
    ),
    BadSpec(
        "source-without-weight",
        PREF,
        {"spec.data": {"mixture": [_MIXTURE[0], {"name": "b", "source": _FILE}]}},
        "spec.data.mixture[1].weight",
        "is required",
    ),
    BadSpec(
        "sources-of-one-name",
        PREF,
        {"spec.data": {"mixture": [_MIXTURE[0], _MIXTURE[0]]}},
        "spec.data.mixture[1]",
        "name 'a' is used twice",
    ),
    BadSpec(
        "mixture-of-prompts",
        RLVR,
        {"spec.data.mixture": _MIXTURE},
        "spec.data.mixture",
        "unknown field",
        "unknown",
    ),
    BadSpec(
        "pairs-for-an-objective-on-demonstrations",
        PREF,
        {"spec.objective": {"sft": {}}, "spec.data.pairing": {"bestWorst": {}}},
        "spec.data.pairing",
        "data.pairing must not be set: this objective does not learn from pairs",
        "rule",
    ),
    *(
        BadSpec(
            f"{pairing.member_key}-for-an-objective-that-needs-scores",
            PREF,
            {"spec.objective": {"odpo": {}}, "spec.data.pairing": {pairing.member_key: {}}},
            f"spec.data.pairing.{pairing.member_key}",
            f"data.pairing.{pairing.member_key} must not be set: its pairs have no scores, "
            "and this objective needs them",
            "rule",
        )
        for pairing in Pairing.members()
        if not pairing.gives_scores
    ),
    *(
        BadSpec(
            f"{pairing.member_key}-for-an-objective-on-steps",
            PREF,
            {"spec.objective": {"stepDpo": {}}, "spec.data.pairing": {pairing.member_key: {}}},
            f"spec.data.pairing.{pairing.member_key}",
            f"data.pairing.{pairing.member_key} must not be set: its pairs are whole answers, "
            "and this objective learns from steps",
            "rule",
        )
        for pairing in Pairing.members()
        if pairing.reads == "lists"
    ),
    BadSpec(
        "length-instruction-with-scores",
        PREF,
        {"spec.objective": {"odpo": {}}, "spec.data.lengthInstruction": {}},
        "spec.data.lengthInstruction",
        "data.lengthInstruction must not be set: it turns pairs round and needs an objective on pairs without scores",
        "rule",
    ),
    BadSpec(
        "length-instruction-without-limit",
        PREF,
        {"spec.data.lengthInstruction": {"text": "Be brief."}},
        "spec.data.lengthInstruction.text",
        "text must contain {limit}, where the number of words is put",
        "rule",
    ),
    BadSpec(
        "equal-texts-of-single-completions",
        PREF,
        {"spec.objective": {"kto": {}}, "spec.data.filters": {"dropEqualTexts": True}},
        "spec.data.filters.dropEqualTexts",
        "data.filters.dropEqualTexts must not be set: this objective does not learn from pairs",
        "rule",
    ),
    BadSpec(
        "length-ratio-of-single-completions",
        PREF,
        {"spec.objective": {"kto": {}}, "spec.data.filters": {"maxLengthRatio": 2}},
        "spec.data.filters.maxLengthRatio",
        "data.filters.maxLengthRatio must not be set: rows of this objective have one completion",
        "rule",
    ),
    BadSpec(
        "length-ratio-below-one",
        PREF,
        {"spec.data.filters": {"maxLengthRatio": 0.5}},
        "spec.data.filters.maxLengthRatio",
        "0.5 is below the minimum of 1",
    ),
)


def _fixed(name: str) -> str:
    return f"{name} is fixed once the job is created; delete the job and create it anew to change it"


BAD_UPDATES = (
    BadUpdate("change-a-number", PREF, {"spec.training.steps": 20}, "spec.training", _fixed("training")),
    BadUpdate("change-a-default", PREF, {"spec.training.seed": 1}, "spec.training", _fixed("training")),
    BadUpdate("change-the-method", PREF, {"spec.objective": {"ipo": {}}}, "spec.objective", _fixed("objective")),
    BadUpdate("change-the-data", RLVR, {"spec.data.train.source": _FILE}, "spec.data", _fixed("data")),
    BadUpdate(
        "change-a-reward",
        RLVR,
        {"spec.rewards.0.weight": 2},
        "spec.rewards",
        _fixed("rewards"),
    ),
    BadUpdate(
        "add-a-reward",
        RLVR,
        {"spec.rewards": [_REWARD, {"name": "format", "verifier": {"regex": {"pattern": "x"}}}]},
        "spec.rewards",
        _fixed("rewards"),
    ),
    BadUpdate("add-an-optional-block", PREF, {"spec.peft": {"lora": {}}}, "spec.peft", _fixed("peft")),
    BadUpdate(
        "remove-an-optional-block",
        PREF,
        {"spec.reference": REMOVED},
        "spec.reference",
        _fixed("reference"),
        before={"spec.reference": _REFERENCE},
    ),
    BadUpdate(
        "change-an-optional-block",
        PREF,
        {"spec.peft.lora.rank": 8},
        "spec.peft",
        _fixed("peft"),
        before={"spec.peft": {"lora": {}}},
    ),
    BadUpdate("change-the-size", PREF, {"spec.resources.replicas": 2}, "spec.resources", _fixed("resources")),
    BadUpdate(
        "change-the-runtime", RLVR, {"spec.runtimeRef.name": "torch-gpu"}, "spec.runtimeRef", _fixed("runtimeRef")
    ),
    BadUpdate(
        "change-who-runs-the-job",
        PREF,
        {"spec.managedBy": "kueue.x-k8s.io/multikueue"},
        "spec.managedBy",
        _fixed("managedBy"),
    ),
    BadUpdate(
        "change-the-grace-period",
        PREF,
        {"spec.runPolicy.terminationGracePeriodSeconds": 60},
        "spec.runPolicy.terminationGracePeriodSeconds",
        _fixed("terminationGracePeriodSeconds"),
    ),
)

GOOD_UPDATES: dict[str, tuple[str, Patch]] = {
    "suspend": (PREF, {"spec.runPolicy.suspend": True}),
    "set-a-deadline": (RLVR, {"spec.runPolicy.activeDeadlineSeconds": 3600}),
    "set-a-time-to-live": (RLVR, {"spec.runPolicy.ttlSecondsAfterFinished": 60}),
    "retry-more-often": (PREF, {"spec.runPolicy.backoffLimit": 9, "spec.runPolicy.backoff.maxSeconds": 30}),
    "change-the-priority": (PREF, {"spec.scheduling.priorityClassName": "low"}),
    "change-the-restart-rules": (
        RLVR,
        {"spec.runPolicy.restartRules": [{"match": {"messages": ["NCCL*timeout"]}, "action": "Ignore"}]},
    ),
    "change-the-queue": (PREF, {"spec.scheduling.queue": "research"}),
    "tolerate": (PREF, {"spec.scheduling.tolerations": [{"operator": "Exists"}]}),
}
