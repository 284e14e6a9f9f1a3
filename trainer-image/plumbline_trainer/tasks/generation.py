"""What generates a job's completions: the engine inside the trainer, or a vLLM server with the policy's weights.

The client of a server takes half a second to import, so it is imported by the first job that needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from transformers import PreTrainedTokenizerBase as Tokenizer

from plumbline_api.contract import TrainerConfig
from plumbline_api.methods.rollout_engine import Vllm
from plumbline_api.rlvr_job import RLVRJobSpec
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.rollout.engine import Engine
from plumbline_trainer.rollout.guidance import Guide
from plumbline_trainer.rollout.limits import Limits, limits_of
from plumbline_trainer.rollout.protocol import CompletionEngine

if TYPE_CHECKING:
    from plumbline_trainer.tasks.rollout_server import RolloutServer


class Generators:
    """Makes the engines of a job, and keeps the weights of its server up to date."""

    def __init__(
        self,
        spec: RLVRJobSpec,
        model: nn.Module,
        tokenizer: Tokenizer,
        stop_tokens: frozenset[int],
        server: RolloutServer | None,
        guide: Guide | None = None,
    ) -> None:
        """`stop_tokens` are the model's own. Without a `server` the trainer generates with `model` itself, which a
        `guide` may guide."""
        self._spec, self._model, self._tokenizer = spec, model, tokenizer
        self._stop_tokens, self._server, self._guide = stop_tokens, server, guide

    @property
    def on_server(self) -> bool:
        """Whether completions come from a server."""
        return self._server is not None

    def sampling_engine(self) -> CompletionEngine:
        """For rollouts."""
        limits = self._limits(self._spec.rollout.max_batch_size)
        return self._embedded(limits) if self._server is None else self._served(self._server, limits)

    def measuring_engine(self) -> CompletionEngine:
        """For evaluations, which are of the policy: a server with weights of its own takes no part."""
        limits = self._limits(self._spec.evaluation.batch_size)
        if self._server is None or not self._server.has_the_policy:
            return self._embedded(limits)
        return self._served(self._server, limits)

    def bring(self, version: int) -> None:
        """Gives the server the weights of the model, unless it has those of `version`. A collective of the ranks."""
        if self._server is not None:
            self._server.bring(self._model, version)

    def close(self) -> None:
        """Leaves nothing behind where weights were written for a server."""
        if self._server is not None:
            self._server.close()

    def _embedded(self, limits: Limits) -> CompletionEngine:
        return Engine(self._model, self._tokenizer, limits, self._guide)

    def _served(self, server: RolloutServer, limits: Limits) -> CompletionEngine:
        return server.engine(limits, self._spec.rollout.sampling)

    def _limits(self, max_batch_size: int) -> Limits:
        return limits_of(
            self._spec.rollout.sampling,
            self._tokenizer,
            self._stop_tokens,
            max_tokens=self._spec.training.max_completion_tokens,
            max_batch_size=max_batch_size,
        )


def open_server(config: TrainerConfig, spec: RLVRJobSpec, tokenizer: Tokenizer, ranks: Ranks) -> RolloutServer | None:
    """The job's server, which has been asked whether it fits; None where the trainer generates.

    Raises `ConfigError` for one that does not fit, `InfrastructureError` for one that does not answer.
    """
    engine = spec.rollout.engine.value
    if not isinstance(engine, Vllm):
        return None
    from plumbline_trainer.tasks.rollout_server import RolloutServer

    return RolloutServer(config, spec, engine, tokenizer, ranks)
