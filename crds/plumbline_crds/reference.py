"""`docs/api.md`: the API reference, from the models."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pydantic.fields import FieldInfo

from plumbline_api import API_VERSION
from plumbline_api.base import ApiModel, Choice
from plumbline_api.conditions import REASONS, ConditionType, Phase, Reason
from plumbline_api.contract import EXIT_REASONS, RETRYABLE_EXIT_CODES, ExitCode
from plumbline_api.job import MUTABLE_SPEC_FIELDS, JobSpec
from plumbline_api.messages import nested_model
from plumbline_api.methods.advantage.choice import AdvantageChoice
from plumbline_api.methods.critic import CriticChoice, ValueLossChoice
from plumbline_api.methods.curriculum.choice import CurriculumChoice
from plumbline_api.methods.entropy import EntropyChoice
from plumbline_api.methods.exploration.choice import (
    ReplayChoice,
    ResamplingChoice,
    RescueChoice,
    SampleBudgetChoice,
    SampleSelectionChoice,
)
from plumbline_api.methods.kl import KlChoice
from plumbline_api.methods.off_policy import OffPolicyCorrectionChoice
from plumbline_api.methods.optimization import OptimizerChoice, PeftChoice, ScheduleChoice
from plumbline_api.methods.pairing_choice import PairingChoice
from plumbline_api.methods.policy.choice import PolicyObjectiveChoice
from plumbline_api.methods.policy_aggregation import PolicyAggregationChoice
from plumbline_api.methods.preference.choice import PreferenceObjectiveChoice
from plumbline_api.methods.prompt_generator import PromptGeneratorChoice
from plumbline_api.methods.rollout_engine import RolloutEngineChoice, WeightSyncChoice
from plumbline_api.methods.shaping.choice import ShapingChoice
from plumbline_api.methods.token_selection import TokenSelectionChoice
from plumbline_api.methods.verifiers.choice import VerifierChoice
from plumbline_api.preference_job import PreferenceJobSpec
from plumbline_api.rlvr_job import RLVRJobSpec
from plumbline_api.runtime import TrainerRuntimeSpec
from plumbline_api.sources import SourceChoice
from plumbline_api.status import JobStatus
from plumbline_crds.manifest import KINDS
from plumbline_crds.schema import Schema, structural_schema

METHODS: tuple[tuple[str, type[Choice]], ...] = (
    ("Preference objectives: `PreferenceJob.spec.objective`", PreferenceObjectiveChoice),
    ("Policy objectives: `RLVRJob.spec.objective`", PolicyObjectiveChoice),
    ("Aggregation of token losses: `RLVRJob.spec.aggregation`", PolicyAggregationChoice),
    ("KL penalties: `RLVRJob.spec.kl`", KlChoice),
    ("Advantages: `RLVRJob.spec.advantage`", AdvantageChoice),
    ("Critics: `RLVRJob.spec.critic`", CriticChoice),
    ("Losses of critics: `RLVRJob.spec.critic.*.loss`", ValueLossChoice),
    ("Control of entropy: `RLVRJob.spec.entropy`", EntropyChoice),
    ("Selection of tokens: `RLVRJob.spec.tokenSelection`", TokenSelectionChoice),
    ("Off-policy corrections: `RLVRJob.spec.offPolicyCorrection`", OffPolicyCorrectionChoice),
    ("Rollout engines: `RLVRJob.spec.rollout.engine`", RolloutEngineChoice),
    ("Weights of a rollout server: `RLVRJob.spec.rollout.engine.vllm.weightSync`", WeightSyncChoice),
    ("Shaping of rewards: `RLVRJob.spec.shaping[]`", ShapingChoice),
    ("Curricula: `RLVRJob.spec.curriculum`", CurriculumChoice),
    ("Sample budgets: `RLVRJob.spec.exploration.budget`", SampleBudgetChoice),
    ("Resampling: `RLVRJob.spec.exploration.resampling`", ResamplingChoice),
    ("Rescue of failed prompts: `RLVRJob.spec.exploration.rescue`", RescueChoice),
    ("Selection of samples: `RLVRJob.spec.exploration.selection`", SampleSelectionChoice),
    ("Replay: `RLVRJob.spec.exploration.replay`", ReplayChoice),
    ("Generators of prompts: `RLVRJob.spec.data.*.generator`", PromptGeneratorChoice),
    ("Pairings: `PreferenceJob.spec.data.pairing`", PairingChoice),
    ("Verifiers: `RLVRJob.spec.rewards[].verifier`", VerifierChoice),
    ("Optimizers: `spec.optimizer`", OptimizerChoice),
    ("Schedules: `spec.schedule`", ScheduleChoice),
    ("Adapters: `spec.peft`", PeftChoice),
    ("Sources: `spec.model.source`, `spec.reference.source`, `spec.data.*.source`", SourceChoice),
)

INTRODUCTION = f"""\
<!-- Generated from the models in crds/plumbline_api by `python -m plumbline_crds generate`; edit those. -->

# API reference: `{API_VERSION}`

`kubectl explain` shows the same text for each field, for example `kubectl explain prefjob.spec.objective.dpo`.

A **choice** is an object with exactly one key: the key selects the method and its value holds the method's
parameters, as in `objective: {{dpo: {{beta: 0.1}}}}`. A method without parameters to set is written with an empty
object, as in `objective: {{sft: {{}}}}`.

The API server refuses what breaks a bound or a rule. Rules are CEL and need Kubernetes 1.25 or newer; the operator
checks bounds and rules again before it accepts a job, so on an older server the same message appears in the condition
`Accepted=False` with reason `SpecInvalid`.

Servers before 1.25 drop the rules from the definitions, and kubectl's own check there calls them an unknown field:
install the definitions with Helm, or with `kubectl apply --validate=false -f crds/`.
"""


def api_reference() -> str:
    """The whole page as Markdown."""
    lines = [
        INTRODUCTION,
        *_kinds(),
        "## Fields of both kinds of job",
        "",
        _mutability(),
        "",
        *_table(JobSpec),
        "## PreferenceJob",
        "",
        "The fields above and:",
        "",
        *_table(PreferenceJobSpec, without=JobSpec),
        "## RLVRJob",
        "",
        "The fields above and:",
        "",
        *_table(RLVRJobSpec, without=JobSpec),
        "## TrainerRuntime and ClusterTrainerRuntime",
        "",
        *_table(TrainerRuntimeSpec),
        "## Methods",
        "",
        *(line for title, choice in METHODS for line in _methods(title, choice)),
        "## Status of a job",
        "",
        *_table(JobStatus, status=True),
        *_conditions(),
        *_exit_codes(),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _kinds() -> Iterator[str]:
    yield from ("## Kinds", "", "| kind | short name | scope | what it is |", "|---|---|---|---|")
    for kind in KINDS:
        yield f"| {kind.name} | `{kind.short_name}` | {kind.scope.lower()} | {_sentence(kind.model)} |"
    yield ""


def _mutability() -> str:
    mutable = " and ".join(f"`{name}`" for name in MUTABLE_SPEC_FIELDS)
    return f"Only {mutable} may be changed after creation (`runPolicy.terminationGracePeriodSeconds` may not)."


def _methods(title: str, choice: type[Choice]) -> Iterator[str]:
    yield from (f"### {title}", "")
    for member in choice.family.members():
        yield from (f"#### `{member.member_key}`", "", _sentence(member), "")
        if member.model_fields:
            yield from _table(member)
        else:
            yield from ("No parameters.", "")


def _table(model: type[ApiModel], without: type[ApiModel] | None = None, status: bool = False) -> Iterator[str]:
    """A table of the model's fields, nested blocks included, and the list of its rules."""
    schema = structural_schema(model)
    rows = list(_rows(model, schema, "", without, status=status))
    yield from (
        ("| field | type | meaning |", "|---|---|---|")
        if status
        else ("| field | type | default | bounds | meaning |", "|---|---|---|---|---|")
    )
    yield from rows
    yield ""
    known = {message for _, message in _rules(without, "")} if without else set()
    rules = [(path, message) for path, message in _rules(model, "") if message not in known]
    if rules:
        yield from ("Rules:", "")
        yield from (f"- {f'in `{path}`: ' if path else ''}{message}" for path, message in rules)
        yield ""


def _rows(
    model: type[ApiModel], schema: Schema, prefix: str, without: type[ApiModel] | None, status: bool
) -> Iterator[str]:
    for name, declared in model.model_fields.items():
        wire_name = declared.alias or name
        inner = schema["properties"][wire_name]
        path = f"{prefix}{wire_name}"
        nested = nested_model(declared.annotation)
        known = without.model_fields.get(name) if without else None
        if known is not None:
            general = nested_model(known.annotation)
            if nested and general and nested is not general:  # the block of that name has more fields here
                yield from _rows(nested, inner, f"{path}.", general, status)
            continue
        cells = [f"`{path}`", _type(declared, inner, nested)]
        if not status:
            cells += [_default(wire_name, schema, inner), _bounds(inner)]
        yield "| " + " | ".join([*cells, _escape(declared.description or "")]) + " |"
        if nested and not issubclass(nested, Choice):
            items = inner.get("items", inner)
            suffix = "[]." if inner["type"] == "array" else "."
            yield from _rows(nested, items, path + suffix, None, status)


def _rules(model: type[ApiModel], prefix: str) -> Iterator[tuple[str, str]]:
    yield from ((prefix, rule.message) for rule in model.rules)
    for name, declared in model.model_fields.items():
        nested = nested_model(declared.annotation)
        if nested and not issubclass(nested, Choice):
            wire_name = declared.alias or name
            yield from _rules(nested, f"{prefix}.{wire_name}" if prefix else wire_name)


def _type(declared: FieldInfo, schema: Schema, nested: type[ApiModel] | None) -> str:
    if nested and issubclass(nested, Choice):
        return "choice: " + ", ".join(f"`{key}`" for key in nested.model_fields)
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "x-kubernetes-int-or-string" in schema:
        return "quantity"
    if schema["type"] == "array":
        return f"list of {schema['items']['type']}s"
    if "additionalProperties" in schema:
        return f"map of {schema['additionalProperties']['type']}s"
    if schema.get("format") == "date-time":
        return "time"
    return str(schema["type"])


def _default(name: str, parent: Schema, schema: Schema) -> str:
    if name in parent.get("required", ()):
        return "required"
    default = schema.get("default")
    if default is None or default == {}:
        return ""
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


def _bounds(schema: Schema) -> str:
    parts = []
    if "minimum" in schema:
        parts.append(f"{'>' if schema.get('exclusiveMinimum') else '>='} {schema['minimum']:g}")
    if "maximum" in schema:
        parts.append(f"{'<' if schema.get('exclusiveMaximum') else '<='} {schema['maximum']:,.10g}")
    if "maxLength" in schema:
        parts.append(f"at most {schema['maxLength']:,} characters")
    if "maxItems" in schema:
        least = f"{schema['minItems']} to " if schema.get("minItems") else "at most "
        parts.append(f"{least}{schema['maxItems']} items")
    if "maxProperties" in schema and "additionalProperties" in schema:
        parts.append(f"at most {schema['maxProperties']} keys")
    if "pattern" in schema:
        parts.append(f"`{_escape(schema['pattern'])}`")
    return ", ".join(parts)


def _conditions() -> Iterator[str]:
    yield from ("## Phases, conditions and reasons", "")
    yield from ("Phases, for people: " + ", ".join(f"`{phase}`" for phase in Phase) + ".", "")
    yield from ("Conditions, for programs: " + ", ".join(f"`{kind}`" for kind in ConditionType) + ".", "")
    yield from ("`kubectl wait --for=condition=Complete` waits for the end of a job.", "")
    yield from ("| reason | meaning |", "|---|---|")
    yield from (f"| `{reason}` | {REASONS[reason]} |" for reason in Reason)
    yield ""


def _exit_codes() -> Iterator[str]:
    yield from ("## Exit codes of the trainer", "", "| code | reason | tried again |", "|---|---|---|")
    for code in ExitCode:
        if code is ExitCode.DONE:
            again = "finished"
        elif code in (ExitCode.STOPPED_SAVED, ExitCode.STOPPED_NOT_SAVED):
            again = "resumes when it may"
        else:
            again = "up to `backoffLimit`" if code in RETRYABLE_EXIT_CODES else "no"
        yield f"| {code.value} | `{EXIT_REASONS[code]}` | {again} |"


def _sentence(model: type[ApiModel]) -> str:
    return _escape(" ".join((model.__doc__ or "").split("\n\n")[0].split()))


def _escape(text: str) -> str:
    return text.replace("|", "\\|")
