"""The steps of an RLVR job: prompts in, completions, rewards, advantages, loss."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase as Tokenizer

from plumbline_api.contract import TrainerConfig
from plumbline_api.rlvr_job import RLVRJobSpec
from plumbline_trainer.advantages import advantages
from plumbline_trainer.data.batches import SequenceBatch, TokenSequence
from plumbline_trainer.data.order import DataOrder
from plumbline_trainer.data.rendering import Renderer
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.failures import CheckpointUnreadable
from plumbline_trainer.modeling.adapters import add_lora
from plumbline_trainer.modeling.compilation import compile_layers
from plumbline_trainer.modeling.loading import load_policy
from plumbline_trainer.modeling.logprobs import CompletionLogprobs, causal_model, check_head, completion_logprobs
from plumbline_trainer.modeling.reference import Reference, open_reference
from plumbline_trainer.modeling.scoring import evaluating
from plumbline_trainer.objectives.policy.inputs import PolicyTokens, StepCounts
from plumbline_trainer.objectives.policy.loss import policy_loss
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.rewards.scoring import Sample, Scorer, check_error_shares
from plumbline_trainer.rollout.engine import Completion, Engine, Limits, Request
from plumbline_trainer.rollout.experience import Experience, Rollout, decode_rollout, encode_rollout, padded
from plumbline_trainer.rollout.sampling import Stream
from plumbline_trainer.stopping import StopRequest
from plumbline_trainer.tasks.data_sets import load_data_sets, open_renderer, refuse_other_rows, rows_state
from plumbline_trainer.tasks.judging import gathered, judged_rollout
from plumbline_trainer.tasks.layouts import model_layout
from plumbline_trainer.tasks.rlvr_data import PromptData, load_prompts, open_pool, spec_of, uses_reference
from plumbline_trainer.tasks.rlvr_metrics import entropy, length_metrics, score_metrics, signal_metrics
from plumbline_trainer.tasks.task import Batch


@dataclass(frozen=True)
class MicroBatch:
    """Some completions of one step in one forward pass."""

    sequences: SequenceBatch
    experiences: Sequence[Experience]
    fresh: bool
    """Whether the policy is still the one that sampled."""

    counts: StepCounts


class RLVRTask:
    """Implements `tasks.task.Task` for every policy objective.

    Rollout r is made of the prompts of position r in the data's order and serves `rollout.updatesPerRollout`
    consecutive steps. In the first of them the policy is the one that sampled, so old log-probabilities are the
    present ones, detached, and every importance ratio is exactly 1 without a second forward pass. Later updates need
    the old ones as numbers: they are then computed once, by the trainer and not by the sampler, whose rounding
    differs. A rollout that is still in use cannot be made again once the policy has moved, so it is part of the
    checkpoint.
    """

    score_name = "accuracy"

    def __init__(self, config: TrainerConfig, ranks: Ranks, stop: StopRequest) -> None:
        spec = self._spec = spec_of(config)
        self.ranks, self.stop = ranks, stop
        self._pool = open_pool(config)
        try:
            self._load(config, spec)
        except BaseException:
            self._pool.close()
            raise

    def _load(self, config: TrainerConfig, spec: RLVRJobSpec) -> None:
        renderer = open_renderer(config)
        self.tokenizer: Tokenizer = renderer.tokenizer
        self.train, self.evaluation = load_data_sets(config, partial(load_prompts, spec=spec, renderer=renderer))
        parts = [self.train] if self.evaluation is None else [self.train, self.evaluation]
        self.data_status = self.train.status
        self.warnings = [warning for part in parts for warning in part.warnings]
        """What the user should know about the inputs."""

        prompts_each = spec.training.batch_size // spec.rollout.group_size
        self.order = DataOrder(len(self.train.rows), prompts_each, spec.training.seed, spec.data.shuffle)
        self.max_steps = spec.training.steps or (
            self.order.max_steps(steps=None, epochs=spec.training.epochs) * spec.rollout.updates_per_rollout
        )
        self.model: nn.Module = load_policy(
            config.paths.model,
            dtype=spec.model.dtype,
            device=self.ranks.device,
            activation_checkpointing=spec.training.activation_checkpointing,
        )
        check_head(self.model)
        if spec.training.compile:
            compile_layers(self.model)
        if spec.peft is not None:
            self.model = add_lora(self.model, spec.peft.value, seed=spec.training.seed)
        self.objective = spec.objective.value
        self._kl = None if spec.kl is None else spec.kl.value
        self._aggregation = None if spec.aggregation is None else spec.aggregation.value
        self._reference: Reference | None = open_reference(config, self.model) if uses_reference(spec) else None
        longest = spec.training.max_prompt_tokens + spec.training.max_completion_tokens
        self._layout = model_layout(self.model, renderer.tokenizer.pad_token_id, longest=longest)
        self._scorer = Scorer(spec.rewards, self._pool)
        self._stop_tokens = stop_tokens(self.model, renderer, self.train)
        self._keeps_all = self._reference is not None or self.objective.uses_zero_advantages
        """Whether a completion without advantage has a gradient, by a penalty or by the objective itself."""
        self._engine = self._new_engine(spec.rollout.max_batch_size)
        self._rollout: Rollout | None = None
        self._encoded: dict[str, Any] | None = None
        self._steps_done = 0

    def prepare(self, step: int) -> Batch:
        """The batch of optimizer step `step`: a new rollout, or the next update on the present one."""
        number, update = divmod(step, self._spec.rollout.updates_per_rollout)
        phases: dict[str, float] = {}
        tokens = None
        if update == 0:
            self._rollout, tokens = self._collect(number, phases)
        rollout = self._rollout
        if rollout is None or rollout.number != number:
            raise CheckpointUnreadable(f"the checkpoint lacks rollout {number}, which step {step + 1} continues")
        self._steps_done = step + 1
        batches = [self._micro_batch(group, rollout, fresh=update == 0) for group in self._passes(rollout.experiences)]
        trained = sum(batch.sequences.tokens for batch in batches)
        metrics = dict(rollout.metrics)
        return Batch(batches, trained if tokens is None else tokens, metrics=metrics, phase_seconds=phases)

    def loss(self, micro_batch: MicroBatch) -> tuple[Tensor, dict[str, Metric]]:
        """The micro-batch's share of the step's loss, and its metrics."""
        logprobs = self._logprobs(micro_batch.sequences)
        tokens = self._tokens(micro_batch, logprobs)
        share, metrics = policy_loss(
            self.objective, tokens, micro_batch.counts, kl=self._kl, aggregation=self._aggregation
        )
        if micro_batch.fresh and tokens.sampled_logprobs is not None:
            gap = (logprobs.values.detach() - tokens.sampled_logprobs).abs()
            metrics["sampler_gap"] = Metric.mean_of(gap, logprobs.mask)
        return share, metrics

    def _tokens(self, micro_batch: MicroBatch, logprobs: CompletionLogprobs) -> PolicyTokens:
        device = logprobs.values.device
        some = micro_batch.experiences

        def laid(values: Sequence[Tensor | None]) -> Tensor | None:
            return _moved(padded(values), device)

        advantages = laid([experience.advantages for experience in some])
        assert advantages is not None
        return PolicyTokens(
            logprobs.values,
            logprobs.mask,
            advantages,
            old_logprobs=None if micro_batch.fresh else laid([experience.old_logprobs for experience in some]),
            sampled_logprobs=laid([experience.sampled_logprobs for experience in some]),
            reference_logprobs=laid([experience.reference_logprobs for experience in some]),
            rewards=torch.tensor([experience.reward for experience in some], device=device),
            groups=torch.tensor([experience.slot for experience in some], device=device),
        )

    def evaluate(self) -> dict[str, float]:
        """Rewards of greedy completions of the held-out prompts; the same on every rank.

        `accuracy` is the share of completions that every judging component (`rlvr_metrics.judges`) gives at least 1.
        """
        if self.evaluation is None:
            return {}
        mine = list(range(self.ranks.rank, len(self.evaluation.rows), self.ranks.world_size))
        seed = self._spec.training.seed
        requests = [Request(self.evaluation.prompt_ids[row], [Stream(seed, "evaluation", 0, row, 0)]) for row in mine]
        engine = self._new_engine(self._spec.evaluation.batch_size)
        completions = [group[0] for group in engine.generate(requests, None, self.stop.raise_if_requested)]
        samples = self._samples([self.evaluation.rows[row] for row in mine], completions)
        scores = self._scorer.score(samples, self.stop.raise_if_requested, len(self.evaluation.rows))
        metrics = self.ranks.sum_metrics({**score_metrics(self._spec, scores), **length_metrics(completions)})
        check_error_shares(self._spec.rewards, metrics)
        return {name: metric.value for name, metric in metrics.items()}

    def step_done(self, step: int) -> None:
        """Nothing follows the parameters."""

    def state_dict(self) -> dict[str, Any]:
        """The digest of the training rows, and the rollout that the next step continues."""
        pending = self._steps_done % self._spec.rollout.updates_per_rollout != 0
        return {
            **rows_state(self.train.digest, len(self.train.rows)),
            "rollout": self._encoded if pending else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the rollout in use. Refuses other rows than those the checkpoint was trained on."""
        refuse_other_rows(state, self.train.digest, len(self.train.rows))
        self._encoded = state["rollout"]
        if self._encoded is not None:
            self._rollout = decode_rollout(self._encoded, self.ranks.rank, self.ranks.world_size)

    def tensors(self) -> dict[str, Tensor]:
        """No state is kept in tensors."""
        return {}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """There are none."""

    def close(self) -> None:
        """Ends the verifiers' processes."""
        self._pool.close()

    def _collect(self, number: int, phases: dict[str, float]) -> tuple[Rollout, int]:
        """Makes rollout `number`; returns it and the tokens that this rank read and wrote for it."""
        slots = list(enumerate(self.order.rows_of(number)))
        mine = slots[self.ranks.rank :: self.ranks.world_size]
        size = self._spec.rollout.group_size
        with _timed(phases, "generate"):
            completions = self._generate(number, mine)
        with _timed(phases, "verify"):
            rows = [self.train.rows[row] for _, row in mine for _ in range(size)]
            scores = self._scorer.score(
                self._samples(rows, completions), self.stop.raise_if_requested, len(slots) * size
            )
            totals = self.ranks.sum_metrics(scores.metrics)
            check_error_shares(self._spec.rewards, totals)
        slots_of_mine = [slot for slot, _ in mine for _ in range(size)]
        own = judged_rollout(
            self._spec,
            scores,
            completions,
            slots_of_mine,
            number * self._spec.rollout.updates_per_rollout,
            self.max_steps,
        )
        everyone, share = gathered(self.ranks, own)
        estimated = advantages(self._spec.advantage.value, everyone)[share]
        experiences = [
            Experience(
                slot,
                sample,
                row,
                completion.tokens,
                torch.tensor(completion.logprobs),
                advantage[: len(completion.tokens)].float().clone(),
                float(reward),
            )
            for (slot, row, sample), completion, advantage, reward, valid in zip(
                [(slot, row, sample) for slot, row in mine for sample in range(size)],
                completions,
                _by_token(estimated, own.logprobs.shape[1]),
                scores.totals,
                scores.valid,
                strict=True,
            )
            # without a penalty an advantage of 0 has no gradient; a completion without reward is left out anyway
            if valid and (self._keeps_all or bool((advantage != 0).any()))
        ]
        metrics = {
            **score_metrics(self._spec, scores),
            **length_metrics(completions),
            **signal_metrics(estimated, scores.valid, size),
            "entropy": entropy(completions),
        }
        sequences = float(everyone.valid.sum())
        tokens = float(everyone.lengths[everyone.valid].sum())
        rollout = Rollout(number, experiences, sequences, tokens, metrics)
        self._add_frozen_logprobs(rollout, phases)
        prompt_tokens = sum(len(self.train.prompt_ids[row]) for _, row in mine) * size
        return rollout, prompt_tokens + sum(len(completion.tokens) for completion in completions)

    def _generate(self, number: int, mine: Sequence[tuple[int, int]]) -> list[Completion]:
        """Completions of this rank's prompts (slot, row), group by group."""
        requests = [
            Request(
                self.train.prompt_ids[row],
                [
                    Stream(self._spec.training.seed, "rollout", number, slot, sample)
                    for sample in range(self._spec.rollout.group_size)
                ],
            )
            for slot, row in mine
        ]
        groups = self._engine.generate(requests, self._spec.rollout.sampling, self.stop.raise_if_requested)
        return [completion for group in groups for completion in group]

    def _add_frozen_logprobs(self, rollout: Rollout, phases: dict[str, float]) -> None:
        """What updates compare with: log-probabilities under the reference, and the present ones for later updates."""
        groups = self._passes(rollout.experiences)
        if self._reference is not None:
            temperature = self._spec.rollout.sampling.temperature
            with _timed(phases, "reference"):
                for group in groups:
                    values = self._reference.completion_logprobs(self._batch(group), temperature=temperature)
                    for experience, row in zip(group, _rows(values), strict=True):
                        experience.reference_logprobs = row
                    self.stop.raise_if_requested()
        if self._spec.rollout.updates_per_rollout == 1:
            return
        with _timed(phases, "old_logprobs"), evaluating(self.model), torch.no_grad():
            for group in groups:
                for experience, row in zip(group, _rows(self._logprobs(self._batch(group))), strict=True):
                    experience.old_logprobs = row
                self.stop.raise_if_requested()
        everyone = [experience for share in self.ranks.gather(rollout.experiences) for experience in share]
        metrics = self.ranks.sum_metrics(rollout.metrics)
        self._encoded = encode_rollout(rollout, everyone, metrics)

    def _passes(self, experiences: Sequence[Experience]) -> list[list[Experience]]:
        """The completions of each forward pass: the same ones in every update of a rollout.

        With `microBatchSize` passes are counted in completions, else in tokens, and completions of one prompt, which
        share its computation, stay together as far as they fit. Where the loss compares them they stay together.
        """
        most = self._spec.training.micro_batch_size
        prompts = [list(group) for _, group in groupby(experiences, key=lambda experience: experience.slot)]
        if not self.objective.needs_whole_groups:
            prompts = [part for group in prompts for part in self._parts(group, most)]
        sizes = [self._layout.size([self._sequence(experience) for experience in group]) for group in prompts]
        layout = self._layout if most is None else replace(self._layout, token_budget=sys.maxsize, max_rows=most)
        return [[experience for item in items for experience in prompts[item]] for items in layout.passes(sizes)]

    def _parts(self, group: list[Experience], most: int | None) -> list[list[Experience]]:
        """A prompt's completions in runs that fit into a pass."""
        if most is not None:
            return [[experience] for experience in group]
        runs: list[list[Experience]] = [[]]
        for experience in group:
            longer = [self._sequence(one) for one in [*runs[-1], experience]]
            if runs[-1] and self._layout.size(longer).tokens > self._layout.token_budget:
                runs.append([])
            runs[-1].append(experience)
        return runs

    def _micro_batch(self, group: Sequence[Experience], rollout: Rollout, *, fresh: bool) -> MicroBatch:
        counts = StepCounts(rollout.sequences, rollout.tokens, self._spec.training.max_completion_tokens)
        return MicroBatch(self._batch(group), group, fresh, counts)

    def _batch(self, group: Sequence[Experience]) -> SequenceBatch:
        prompts = groupby(group, key=lambda experience: experience.slot)
        return self._layout.batch([[self._sequence(one) for one in some] for _, some in prompts]).to(self.ranks.device)

    def _sequence(self, experience: Experience) -> TokenSequence:
        return TokenSequence(self.train.prompt_ids[experience.row], experience.tokens)

    def _logprobs(self, sequences: SequenceBatch) -> CompletionLogprobs:
        return completion_logprobs(self.model, sequences, temperature=self._spec.rollout.sampling.temperature)

    def _new_engine(self, max_batch_size: int) -> Engine:
        limits = Limits(
            self._spec.training.max_completion_tokens,
            max_batch_size,
            self._stop_tokens,
            tuple(self._spec.rollout.sampling.stop),
        )
        return Engine(self.model, self.tokenizer, limits)

    def _samples(self, rows: Sequence[Any], completions: Sequence[Completion]) -> list[Sample]:
        texts = self.tokenizer.batch_decode(
            [completion.tokens for completion in completions],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        return [Sample(row.prompt, text, row.answer, row.columns) for row, text in zip(rows, texts, strict=True)]


def stop_tokens(model: nn.Module, renderer: Renderer, data: PromptData) -> frozenset[int]:
    """The tokens that end a completion: EOS, those of the model's generation settings, and the end of a turn."""
    found = {renderer.tokenizer.eos_token_id}
    settings = getattr(causal_model(model), "generation_config", None)
    configured = getattr(settings, "eos_token_id", None)
    if configured is not None:
        found |= set(configured if isinstance(configured, list) else [configured])
    [turn] = renderer.completion_ids([data.rows[0].prompt], ["x"])
    found.add(turn[-1])
    return frozenset(found)


def build(config: TrainerConfig, ranks: Ranks, stop: StopRequest) -> RLVRTask:
    """Loads model, tokenizer, prompts and reward code."""
    return RLVRTask(config, ranks, stop)


def _rows(logprobs: CompletionLogprobs) -> Iterator[Tensor]:
    """Each completion's own values, on the CPU."""
    for values, mask in zip(logprobs.values.cpu(), logprobs.mask.cpu(), strict=True):
        yield values[mask]


def _by_token(advantages: Tensor, width: int) -> Tensor:
    """[N, T] from one advantage a completion [N], or as it is."""
    return advantages if advantages.dim() == 2 else advantages[:, None].expand(-1, width)


def _moved(values: Tensor | None, device: torch.device) -> Tensor | None:
    return None if values is None else values.to(device, non_blocking=True)


@contextmanager
def _timed(phases: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    phases[name] = time.perf_counter() - started
