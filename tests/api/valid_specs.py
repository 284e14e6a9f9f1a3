"""Smallest valid objects of each kind, and the means to change them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from plumbline_api.base import ApiModel, Choice, Family
from plumbline_api.methods.advantage.choice import AdvantageChoice
from plumbline_api.methods.advantage.family import Advantage
from plumbline_api.methods.aggregation import LossAggregationChoice
from plumbline_api.methods.auxiliary import AuxiliaryLossChoice
from plumbline_api.methods.critic import Critic, CriticChoice, ValueLoss, ValueLossChoice
from plumbline_api.methods.curriculum.choice import CurriculumChoice
from plumbline_api.methods.curriculum.family import Curriculum
from plumbline_api.methods.entropy import EntropyChoice
from plumbline_api.methods.exploration.choice import (
    ReplayChoice,
    ResamplingChoice,
    RescueChoice,
    SampleBudgetChoice,
    SampleSelectionChoice,
)
from plumbline_api.methods.exploration.family import SampleSelection
from plumbline_api.methods.kl import KlChoice
from plumbline_api.methods.off_policy import OffPolicyCorrectionChoice
from plumbline_api.methods.optimization import OptimizerChoice, PeftChoice, ScheduleChoice
from plumbline_api.methods.pairing import Pairing
from plumbline_api.methods.pairing_choice import PairingChoice
from plumbline_api.methods.policy.choice import PolicyObjectiveChoice
from plumbline_api.methods.policy.family import PolicyObjective
from plumbline_api.methods.policy_aggregation import PolicyAggregationChoice
from plumbline_api.methods.preference.choice import PreferenceObjectiveChoice
from plumbline_api.methods.prompt_generator import PromptGenerator, PromptGeneratorChoice
from plumbline_api.methods.rollout_engine import RolloutEngine, RolloutEngineChoice, WeightSync, WeightSyncChoice
from plumbline_api.methods.shaping.choice import ShapingChoice
from plumbline_api.methods.shaping.family import Shaping
from plumbline_api.methods.token_selection import TokenSelectionChoice
from plumbline_api.methods.verifiers.choice import VerifierChoice
from plumbline_api.methods.verifiers.family import Verifier
from plumbline_api.methods.weighting import PairWeightingChoice
from plumbline_api.preference_job import PreferenceJob
from plumbline_api.rlvr_job import RLVRJob
from plumbline_api.runtime import ClusterTrainerRuntime, TrainerRuntime
from plumbline_api.sources import SourceChoice

Document = dict[str, Any]

MODELS: dict[str, type[ApiModel]] = {
    model.__name__: model for model in (PreferenceJob, RLVRJob, TrainerRuntime, ClusterTrainerRuntime)
}
REMOVED = object()
"""As the value of a patch: takes the field away."""

_JOB_SPEC: Document = {
    "runtimeRef": {"name": "torch-cpu"},
    "model": {"source": {"volume": {"claimName": "models", "path": "tiny"}}},
    "data": {"train": {"source": {"volume": {"claimName": "data", "path": "train.jsonl"}}}},
    "training": {"steps": 10},
    "output": {"volume": {"claimName": "results"}},
}
_RUNTIME_SPEC: Document = {"image": "registry.example/plumbline-trainer:0.1.0"}
_SPECS: dict[str, Document] = {
    "PreferenceJob": {**_JOB_SPEC, "objective": {"dpo": {}}},
    "RLVRJob": {
        **_JOB_SPEC,
        "objective": {"grpo": {}},
        "rewards": [{"name": "correct", "verifier": {"exactMatch": {}}}],
    },
    "TrainerRuntime": _RUNTIME_SPEC,
    "ClusterTrainerRuntime": _RUNTIME_SPEC,
}


def valid(kind: str, patch: Mapping[str, Any] | None = None) -> Document:
    """The smallest valid object of a kind, changed by a patch from dotted paths (numbers are indices) to values."""
    document = {
        "apiVersion": "plumbline.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": "example"},
        "spec": copy.deepcopy(_SPECS[kind]),
    }
    for path, value in (patch or {}).items():
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        node: Any = document
        for part in parents:
            node = node[part] if isinstance(part, int) else node.setdefault(part, {})
        if value is REMOVED:
            node.pop(last, None)
        else:
            node[last] = copy.deepcopy(value)
    return document


_FILE = {"volume": {"claimName": "data", "path": "train.jsonl"}}
_PARAMETERS_WITHOUT_DEFAULT: dict[str, Document] = {
    "mixture": {"terms": [{"objective": {"dpo": {}}}, {"weight": 0.2, "objective": {"sft": {}}}]},
    "feasible": {"epsilon": 0.5},
    "resilientFeasible": {"epsilon": 0.5},
    "volume": {"claimName": "data", "path": "train.parquet"},
    "configMap": {"name": "data", "key": "train.jsonl"},
    "uri": {"uri": "s3://bucket/train.jsonl"},
    "path": {"path": "/opt/train.jsonl"},
}


_OBJECTIVE_OF_PAIRING: dict[str, Document] = {"lists": {"dpo": {}}, "trees": {"stepDpo": {}}, "steps": {"stepDpo": {}}}

OTHER_BLOCKS: dict[str, Document] = {
    "several-sources": {
        "spec.data": {
            "mixture": [{"name": name, "weight": weight, "source": _FILE} for name, weight in (("a", 1), ("b", 0.5))]
        }
    },
    "filters": {
        "spec.data.filters": {
            "dropEqualTexts": True,
            "dropDuplicates": True,
            "minPromptTokens": 2,
            "minCompletionTokens": 2,
            "maxLengthRatio": 3,
        }
    },
    "filters-of-lists": {"spec.objective": {"rrhf": {}}, "spec.data.filters": {"maxLengthRatio": 3}},
    "length-instruction": {"spec.data.lengthInstruction": {}},
    "best-checkpoint": {
        "spec.data.evaluation": {"source": _FILE},
        "spec.evaluation.everySteps": 5,
        "spec.checkpoint.best": {"metric": "loss", "mode": "min", "export": True},
    },
    "pairing-with-scores": {"spec.objective": {"odpo": {}}, "spec.data.pairing": {"gapSampled": {}}},
    "advantages-of-steps": {"spec.objective": {"advantageDpo": {}}, "spec.data.pairing": {"stepAdvantage": {}}},
    "everything-on-pairs": {
        "spec.objective": {"mixture": _PARAMETERS_WITHOUT_DEFAULT["mixture"]},
        "spec.data.pairing": {"bestWorst": {}},
        "spec.weighting": {"wpo": {}},
        "spec.aggregation": {"feasible": {"epsilon": 0.5}},
        "spec.auxiliary": {"preferenceDegree": {}},
        "spec.peft": {"lora": {}},
    },
}
"""Patches of valid PreferenceJobs: blocks that are no methods, and what may stand together."""


_PARAMETERS_OF_GENERATORS: dict[str, Document] = {"reasoningGym": {"task": "chain_sum", "config": {"max_terms": 3}}}


_FROZEN = {"source": {"volume": {"claimName": "models", "path": "values"}}}
_PARAMETERS_OF_CRITICS: dict[str, Document] = {"shared": {"shared": {}}, "frozen": {"frozen": _FROZEN}}
_WEIGHTS = {"directory": "/plumbline/output/rollout"}
ROLLOUT_SERVER: Document = {"url": "http://vllm:8000", "model": "policy", "weightSync": {"reload": _WEIGHTS}}
_PARAMETERS_BY_FAMILY: dict[type[Family], dict[str, Document]] = {
    PromptGenerator: _PARAMETERS_OF_GENERATORS,
    RolloutEngine: {"vllm": ROLLOUT_SERVER},
    WeightSync: {"reload": _WEIGHTS, "lora": _WEIGHTS},
    Critic: {"frozen": _FROZEN},
    Curriculum: {"selfEvolving": {"categoryColumn": "kind"}},
    SampleSelection: {"prof": {"component": "correct"}},
    Verifier: {
        "regex": {"pattern": "^[0-9]+$"},
        "python": {"configMap": "rewards"},
        "command": {"command": ["lake", "env", "lean", "--stdin"]},
        "httpJudge": {"url": "http://judge/v1/chat/completions", "chatCompletions": {"model": "judge"}},
        "pairwiseJudge": {"url": "http://judge/compare", "opponents": 3},
        "rewardModel": {"source": {"volume": {"claimName": "models", "path": "reward"}}},
        "jsonSchema": {"schema": {"type": "object", "required": ["name"]}},
        "instructions": {"words": {"atLeast": 1, "atMost": 20}, "noCommas": True},
    },
    Shaping: {
        "constrained": {
            "constraints": [{"component": "correct", "threshold": 0.5}],
            "thresholdSearch": {"component": "correct"},
        },
        "componentGate": {"component": "correct"},
        "exactLengthTarget": {"tokens": 100},
        "maximumLengthTarget": {"column": "length"},
        "posterior": {"component": "correct"},
        "trust": {"component": "correct"},
        "sigmoidGate": {"component": "correct"},
        "refinementGain": {"rounds": ["correct", "brief"]},
        "hypervolumeWeighting": {"objectives": [{"component": "correct"}, {"component": "brief"}]},
        "gradientWeighting": {"components": ["correct", "brief"]},
    },
}


def _parameters(member: type[Family]) -> Document:
    for family, known in _PARAMETERS_BY_FAMILY.items():
        if issubclass(member, family):
            return known.get(member.member_key, {})
    return _PARAMETERS_WITHOUT_DEFAULT.get(member.member_key, {})


def _advantage_for(member: type[Shaping]) -> str:
    if member.removed_by_baselines:
        return "none"
    return "leaveOneOut" if member.changes_scale else "groupRelative"


def _around(member: type[Family]) -> Document:
    """What else a job needs for this member."""
    if issubclass(member, Shaping):
        brief = {"name": "brief", "weight": 0, "verifier": {"regex": {"pattern": ".{0,9}"}}}
        return {
            "spec.shaping": [{}],
            "spec.rewards": [*_SPECS["RLVRJob"]["rewards"], brief],
            "spec.advantage": {_advantage_for(member): {}},
        }
    if issubclass(member, Advantage) and member.needs_values:
        return {"spec.critic": _PARAMETERS_OF_CRITICS["frozen" if member.needs_frozen_values else "shared"]}
    if issubclass(member, (Critic, ValueLoss)):
        return {"spec.advantage": {"frozenValue": {}} if member.member_key == "frozen" else {"gae": {}}}
    if issubclass(member, PolicyObjective) and member.learns_values:
        return {"spec.critic": _PARAMETERS_OF_CRITICS["shared"]}
    if issubclass(member, WeightSync):
        needed = {"lora": {"spec.peft": {"lora": {}}}, "none": {"spec.offPolicyCorrection": {"truncated": {}}}}
        return {"spec.rollout.engine": {"vllm": ROLLOUT_SERVER}, **needed.get(member.member_key, {})}
    if issubclass(member, PromptGenerator):
        return {"spec.data.train.source": REMOVED}
    return {"spec.objective": _OBJECTIVE_OF_PAIRING[member.reads]} if issubclass(member, Pairing) else {}


PLACES: tuple[tuple[str, str, type[Choice]], ...] = (
    ("PreferenceJob", "spec.objective", PreferenceObjectiveChoice),
    ("PreferenceJob", "spec.data.pairing", PairingChoice),
    ("PreferenceJob", "spec.weighting", PairWeightingChoice),
    ("PreferenceJob", "spec.aggregation", LossAggregationChoice),
    ("PreferenceJob", "spec.auxiliary", AuxiliaryLossChoice),
    ("RLVRJob", "spec.objective", PolicyObjectiveChoice),
    ("RLVRJob", "spec.aggregation", PolicyAggregationChoice),
    ("RLVRJob", "spec.kl", KlChoice),
    ("RLVRJob", "spec.entropy", EntropyChoice),
    ("RLVRJob", "spec.tokenSelection", TokenSelectionChoice),
    ("RLVRJob", "spec.offPolicyCorrection", OffPolicyCorrectionChoice),
    ("RLVRJob", "spec.rollout.engine", RolloutEngineChoice),
    ("RLVRJob", "spec.rollout.engine.vllm.weightSync", WeightSyncChoice),
    ("RLVRJob", "spec.critic", CriticChoice),
    ("RLVRJob", "spec.critic.shared.loss", ValueLossChoice),
    ("RLVRJob", "spec.shaping.0", ShapingChoice),
    ("RLVRJob", "spec.curriculum", CurriculumChoice),
    ("RLVRJob", "spec.exploration.budget", SampleBudgetChoice),
    ("RLVRJob", "spec.exploration.resampling", ResamplingChoice),
    ("RLVRJob", "spec.exploration.rescue", RescueChoice),
    ("RLVRJob", "spec.exploration.selection", SampleSelectionChoice),
    ("RLVRJob", "spec.exploration.replay", ReplayChoice),
    ("RLVRJob", "spec.advantage", AdvantageChoice),
    ("RLVRJob", "spec.data.train.generator", PromptGeneratorChoice),
    ("RLVRJob", "spec.rewards.0.verifier", VerifierChoice),
    ("PreferenceJob", "spec.optimizer", OptimizerChoice),
    ("PreferenceJob", "spec.schedule", ScheduleChoice),
    ("PreferenceJob", "spec.peft", PeftChoice),
    ("PreferenceJob", "spec.data.train.source", SourceChoice),
)
"""Where each family stands in a job: kind, path, choice."""


def every_method() -> dict[str, Document]:
    """One object for each member of each family, with the member's defaults, and `OTHER_BLOCKS`; keys name the test."""
    methods = {
        f"{kind}.{path.removeprefix('spec.')}.{member.member_key}": valid(
            kind, {**_around(member), path: {member.member_key: _parameters(member)}}
        )
        for kind, path, choice in PLACES
        for member in choice.family.members()
    }
    return methods | {f"PreferenceJob.{name}": valid("PreferenceJob", patch) for name, patch in OTHER_BLOCKS.items()}
