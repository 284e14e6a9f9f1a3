"""What generates the completions of a rollout: the trainer itself, or a server that is told of every update."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from plumbline_api.base import Choice, Family
from plumbline_api.methods.advantage import choice as _all_advantages  # noqa: F401  (declares the members)
from plumbline_api.methods.advantage.family import Advantage
from plumbline_api.rules import Rule, any_of, field, has

_DIRECTORY = r"^/[^\s:*?\"<>|]*[^/\s:*?\"<>|]$"


class WeightSync(Family):
    """How a server gets the weights of the policy."""


class SharedDirectory(WeightSync):
    """What goes through a directory that trainer and server both mount."""

    directory: str = Field(
        min_length=2,
        max_length=1024,
        pattern=_DIRECTORY,
        description="Directory in the trainer's pods, on a volume that the server mounts as well, such as /plumbline/output/rollout; the job makes a folder of its own in it and keeps the newest update only.",
    )
    server_directory: str | None = Field(
        None,
        min_length=2,
        max_length=1024,
        pattern=_DIRECTORY,
        description="The same directory as the server sees it; default: under the same path.",
    )


class Reload(SharedDirectory, key="reload"):
    """All weights are written to a directory that the server reads as well, and the server is told to reload from there (POST /collective_rpc, method reload_weights) and to forget its prefix cache. The server must run with VLLM_SERVER_DEV_MODE=1."""


class AdapterSync(SharedDirectory, key="lora"):
    """The LoRA adapter alone is written to a directory that the server reads as well, and loaded under a new name for every update (POST /v1/load_lora_adapter). The server must run with --enable-lora, a --max-lora-rank that is large enough, and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True; it serves the unchanged model."""


class NoSync(WeightSync, key="none"):
    """The server keeps the weights that it has: a fixed behaviour policy, whose completions need an off-policy correction."""


class WeightSyncChoice(Choice, family=WeightSync):
    """How the server gets the weights of the policy: exactly one way."""


class RolloutEngine(Family):
    """Generates the completions of a rollout."""


class Transformers(RolloutEngine, key="transformers"):
    """The engine inside the trainer: it generates with the very weights that are trained, so nothing is sent anywhere and log-probabilities are the trainer's own."""


class Vllm(RolloutEngine, key="vllm"):
    """A vLLM server by its address, over its OpenAI-compatible protocol, with token ids and log-probabilities in every reply; it gets the weights before every rollout. One server, not a balancer in front of several: weights reach only the one that answers."""

    rules: ClassVar = (
        Rule(
            ~field("url").matches(r"/v1/?$"),
            "url must be the root of the server, without /v1",
            path="url",
        ),
    )

    url: str = Field(
        min_length=8,
        max_length=2048,
        pattern=r"^https?://[^\s/?#]+(/[^\s?#]*)?$",
        description="Root of the server, such as http://vllm.models.svc:8000.",
    )
    model: str = Field(
        min_length=1,
        max_length=256,
        description="Name under which the server serves the model that the job trains (--served-model-name).",
    )
    weight_sync: WeightSyncChoice = Field(description="How the server gets the weights of the policy.")
    logprobs_mode: Literal["raw", "processed"] = Field(
        "raw",
        description="What the server was started with as --logprobs-mode: raw_logprobs (vLLM's default) are those of the model, right at temperature 1; processed_logprobs are those after temperature and truncation, right without truncation.",
    )
    timeout_seconds: float = Field(
        1800.0,
        gt=0,
        le=86_400,
        description="Limit for one request with all of its attempts, and for the loading of weights.",
    )
    attempts: int = Field(
        5,
        ge=1,
        le=20,
        description="How often a request is sent before the attempt of the job ends as an infrastructure error: after errors of the connection, replies that are no JSON, and the statuses 408, 425, 429 and 5xx.",
    )
    backoff_seconds: float = Field(
        1.0,
        ge=0,
        le=600,
        description="Pause before the second attempt; it doubles with every further one, and a server that sends Retry-After is obeyed.",
    )
    max_concurrent_requests: int = Field(
        64,
        ge=1,
        le=4096,
        description="Most requests at the same time, from each pod; a request asks for all samples of a prompt.",
    )
    api_key_variable: str | None = Field(
        None,
        min_length=1,
        max_length=253,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Environment variable of the runtime, set from a Secret, that holds the server's API key.",
    )


class RolloutEngineChoice(Choice, family=RolloutEngine):
    """What generates the completions: exactly one engine."""


_RAW = has("engine.vllm") & field("engine.vllm.logprobsMode").equals("raw")
_PROCESSED = has("engine.vllm") & field("engine.vllm.logprobsMode").equals("processed")

ROLLOUT_RULES: tuple[Rule, ...] = (
    Rule(
        field("sampling.temperature").equals(1.0).when(_RAW),
        "sampling.temperature must be 1 with engine.vllm and logprobsMode raw: the server's log-probabilities are those before temperature",
        path="sampling.temperature",
    ),
    Rule(
        (
            field("sampling.topP").equals(1.0)
            & ~has("sampling.topK")
            & field("sampling.minP").equals(0.0)
            & field("sampling.repetitionPenalty").equals(1.0)
            & (field("sampling.minTokens") <= 1)
        ).when(_PROCESSED),
        "sampling.topP, topK, minP, repetitionPenalty and minTokens must be left out with engine.vllm and logprobsMode processed: the server's log-probabilities are those after them",
        path="sampling",
    ),
    Rule(
        (~has("sampling.entropyDescent")).when(has("engine.vllm")),
        "sampling.entropyDescent must not be set with engine.vllm, which cannot change logits in this way",
        path="sampling.entropyDescent",
    ),
)
"""What an engine cannot do, as rules on the rollout."""

_WITH_POLICY_LOGPROBS = [member.member_key for member in Advantage.members() if member.needs_policy_logprobs]
_WEIGHS_BY_THE_SAMPLER = [
    has("offPolicyCorrection"),
    has("objective.decoupledPpo"),
    has("objective.ppoEwma"),
]
_READS_THE_SAMPLER = [
    *_WEIGHS_BY_THE_SAMPLER,
    has("exploration.replay"),
    has("exploration.rescue.guidance"),
    has("exploration.budget.gradientVariance"),
    has("kl.reward"),
    *(has(f"advantage.{key}") for key in _WITH_POLICY_LOGPROBS),
]
"""What uses the sampler's log-probabilities, other than to show them."""

_IN_A_GRAMMAR = has("rollout.engine.vllm") & any_of([has("rollout.sampling.regex"), has("rollout.sampling.jsonSchema")])
_KEEPS_ITS_WEIGHTS = has("rollout.engine.vllm.weightSync.none")

ROLLOUT_ENGINE_JOB_RULES: tuple[Rule, ...] = (
    Rule(
        has("peft.lora").when(has("rollout.engine.vllm.weightSync.lora")),
        "peft.lora must be set with rollout.engine.vllm.weightSync.lora, which sends the adapter",
        path="peft",
    ),
    Rule(
        (~has("peft")).when(has("rollout.engine.vllm.weightSync.reload")),
        "peft must not be set with rollout.engine.vllm.weightSync.reload: send the adapter by weightSync.lora",
        path="peft",
    ),
    Rule(
        any_of(_WEIGHS_BY_THE_SAMPLER).when(_KEEPS_ITS_WEIGHTS),
        "offPolicyCorrection, or the objective decoupledPpo or ppoEwma, must be set with rollout.engine.vllm.weightSync.none: the server's weights are not the policy's",
        path="offPolicyCorrection",
    ),
    Rule(
        (~has("kl.reward")).when(_KEEPS_ITS_WEIGHTS),
        "kl.reward must not be set with rollout.engine.vllm.weightSync.none: it would compare the server's weights with the reference, and not the policy's",
        path="kl",
    ),
    Rule(
        (~any_of(_READS_THE_SAMPLER)).when(_IN_A_GRAMMAR),
        f"offPolicyCorrection, kl.reward, exploration.replay, rescue.guidance and budget.gradientVariance, the objectives decoupledPpo and ppoEwma, and the advantages {', '.join(_WITH_POLICY_LOGPROBS)} must not be set with rollout.engine.vllm and a regex or jsonSchema: the server's log-probabilities are those within the grammar",
        path="rollout.sampling",
    ),
)
"""What else a job needs with an engine, as rules on its spec."""
