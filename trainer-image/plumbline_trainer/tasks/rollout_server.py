"""The vLLM server of a job: asked at the start whether it fits, and given the policy's weights."""

from __future__ import annotations

from hashlib import blake2b

from torch import nn
from transformers import PreTrainedTokenizerBase as Tokenizer

from plumbline_api.contract import TrainerConfig
from plumbline_api.methods.rollout_engine import NoSync, Vllm
from plumbline_api.methods.sampling import Sampling
from plumbline_api.methods.shaping.progress import Progress
from plumbline_api.rlvr_job import RLVRJobSpec
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.rollout.limits import Limits
from plumbline_trainer.rollout.vllm_engine import VllmEngine
from plumbline_trainer.rollout.vllm_server import Server
from plumbline_trainer.rollout.vllm_weights import ServedWeights


class RolloutServer:
    """The server of `rollout.engine.vllm`."""

    def __init__(
        self, config: TrainerConfig, spec: RLVRJobSpec, parameters: Vllm, tokenizer: Tokenizer, ranks: Ranks
    ) -> None:
        """Rank 0 asks the server whether it can serve the job.

        Raises `ConfigError` where it cannot and `InfrastructureError` where it does not answer, on every rank.
        """
        self._server = Server(parameters)
        self._weights = ServedWeights(parameters, self._server, owner_of(config))
        self._ranks = ranks
        self.has_the_policy = not isinstance(parameters.weight_sync.value, NoSync)
        """Whether its weights are those of the policy, and not weights of its own."""

        longest = longest_sequence(spec, tokenizer)
        ranks.on_main(lambda: self._weights.check(longest, ranks.stop.raise_if_requested))

    def engine(self, limits: Limits, constraint: Sampling) -> VllmEngine:
        """Generates within `limits` what `constraint` allows."""
        return VllmEngine(self._server, self._weights, limits, constraint)

    def bring(self, model: nn.Module, version: int) -> None:
        """Gives the server the weights of `model`, unless it has those of `version`. A collective of the ranks."""
        self._weights.bring(model, version, self._ranks, self._ranks.stop.raise_if_requested)

    def close(self) -> None:
        """Deletes the weights that were written for the server."""
        if self._ranks.is_main:
            self._weights.close()


def owner_of(config: TrainerConfig) -> str:
    """A name for the job's folder and adapters on a server that other jobs may use as well."""
    identity = config.uid or f"{config.namespace}/{config.name}/{config.paths.output}"
    return f"{config.name}-{blake2b(identity.encode(), digest_size=4).hexdigest()}"


def longest_sequence(spec: RLVRJobSpec, tokenizer: Tokenizer) -> int:
    """Most tokens of a prompt and its completion, with answers that are forced after beginnings of completions."""
    longest = spec.training.max_prompt_tokens + spec.training.max_completion_tokens
    forced = [
        len(tokenizer.encode(step.value.forced_answer, add_special_tokens=False)) + step.value.max_probe_tokens
        for step in spec.shaping
        if isinstance(step.value, Progress)
    ]
    return longest + max(forced, default=0)
