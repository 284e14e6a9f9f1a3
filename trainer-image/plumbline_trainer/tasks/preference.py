"""The steps of a preference job: rows in, log-probabilities or scores, objective, loss."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase as Tokenizer

from plumbline_api.contract import TrainerConfig
from plumbline_api.methods.preference.unpaired import Kto
from plumbline_trainer.data.batches import (
    SequenceBatch,
    TokenSequence,
    default_token_budget,
    micro_batches,
    pad_sequences,
)
from plumbline_trainer.data.order import DataOrder
from plumbline_trainer.data.rows import UnpairedRow
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.modeling.adapters import add_lora
from plumbline_trainer.modeling.loading import load_policy
from plumbline_trainer.modeling.logprobs import check_head, completion_logprobs
from plumbline_trainer.modeling.reference import open_reference
from plumbline_trainer.modeling.reward_head import HEAD, load_reward_model, sequence_scores
from plumbline_trainer.modeling.scoring import evaluating, score_sequences
from plumbline_trainer.objectives import preference  # noqa: F401  (registers the objectives)
from plumbline_trainer.objectives.aggregation import sequence_mean, token_mean
from plumbline_trainer.objectives.preference.inputs import (
    Completions,
    Demonstrations,
    Pairs,
    Scores,
    TokenLogprobs,
    Unpaired,
)
from plumbline_trainer.objectives.preference.unpaired import kto_reference_point
from plumbline_trainer.objectives.registry import implementation_of
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.stopping import StopRequest
from plumbline_trainer.tasks.data_sets import load_data_sets, open_renderer, refuse_other_rows, rows_state
from plumbline_trainer.tasks.preference_data import (
    PreferenceData,
    load_data,
    mismatched_sequences,
    shape_of,
    spec_of,
)
from plumbline_trainer.tasks.task import Batch


@dataclass(frozen=True)
class MicroBatch:
    """B rows of one step in one forward pass."""

    sequences: SequenceBatch
    """k * B sequences: the first sequence of every row, then the second of every row."""

    rows: torch.Tensor
    """[B] int64: their numbers in the training set."""

    total_rows: int
    """Rows of the whole step, over all micro-batches and ranks."""

    total_tokens: int
    """Completion tokens of the whole step, over all micro-batches and ranks."""

    reference_point: torch.Tensor | None = None
    """KTO's z_0 of the whole step."""


class ScoredData:
    """A data set with what the reference says about it."""

    def __init__(self, data: PreferenceData) -> None:
        self.data = data
        self.width = len(data.sequences[0])
        """Sequences of a row, k."""

        self.tokens = torch.tensor(
            [[len(sequence.completion_ids) for sequence in row] for row in data.sequences], dtype=torch.float32
        )
        """[rows, k]: completion tokens."""

        self.longest = [max(len(sequence) for sequence in row) for row in data.sequences]
        """Tokens of each row's longest sequence."""

        self.desirable: torch.Tensor | None = None
        """[rows] bool, for unpaired rows."""

        self.reference: torch.Tensor | None = None
        """[rows, k]: log pi_ref(y|x)."""

        self.mismatched: list[TokenSequence] = []
        self.mismatched_reference: torch.Tensor | None = None
        """[rows]: log pi_ref of `mismatched`, for KTO's reference point."""

        if isinstance(data.rows[0], UnpairedRow):
            self.desirable = torch.tensor([row.label for row in data.rows])


class PreferenceTask:
    """Implements `tasks.task.Task` for every preference objective."""

    def __init__(self, config: TrainerConfig, ranks: Ranks, stop: StopRequest) -> None:
        spec = spec_of(config)
        self.ranks, self.stop = ranks, stop
        self.objective = spec.objective.value
        self._implementation = implementation_of(self.objective)
        self._scores_rows = self.objective.trains_scalar_head
        renderer = open_renderer(config)
        self.tokenizer: Tokenizer = renderer.tokenizer
        train, held_out = load_data_sets(config, partial(load_data, spec=spec, renderer=renderer))
        self.train = ScoredData(train)
        self.evaluation = None if held_out is None else ScoredData(held_out)
        self.warnings = [warning for part in self._parts() for warning in part.data.warnings]
        """What the user should know about the inputs."""

        self.order = DataOrder(len(train.rows), spec.training.batch_size, spec.training.seed, spec.data.shuffle)
        self.max_steps = self.order.max_steps(steps=spec.training.steps, epochs=spec.training.epochs)
        self.score_name = "loss" if shape_of(spec) == "completions" else "rewards/accuracy"
        self._micro_batch_size = spec.training.micro_batch_size
        self._token_budget = default_token_budget(ranks.device)
        self._evaluation_batch_size = spec.evaluation.batch_size
        self.model = self._load_model(config)
        self._prepare_reference(config)

    @property
    def data_digest(self) -> str:
        """Digest of the training rows."""
        return self.train.data.digest

    @property
    def evaluation_digest(self) -> str | None:
        """Digest of the held-out rows."""
        return None if self.evaluation is None else self.evaluation.data.digest

    def prepare(self, step: int) -> Batch:
        """The batch of optimizer step `step`: rows by seed and epoch, grouped by length, with the step's counts."""
        started = time.perf_counter()
        everyone = self.order.rows_of(step)
        mine = self.order.share_of(step, self.ranks.rank, self.ranks.world_size)
        total_tokens = int(self.train.tokens[everyone].sum())
        point = self._reference_point(self.train, everyone)
        groups = micro_batches(
            [self.train.longest[row] for row in mine],
            token_budget=self._token_budget if self._micro_batch_size is None else sys.maxsize,
            max_items=self._micro_batch_size,
            sequences_per_item=self.train.width,
        )
        batches = [
            self._micro_batch([mine[item] for item in group], len(everyone), total_tokens, point) for group in groups
        ]
        tokens = sum(batch.sequences.tokens for batch in batches)
        return Batch(batches, tokens, phase_seconds={"prepare": time.perf_counter() - started})

    def loss(self, micro_batch: MicroBatch) -> tuple[torch.Tensor, dict[str, Metric]]:
        """The micro-batch's share of the step's loss, and its metrics."""
        sequences = micro_batch.sequences.to(self.ranks.device)
        if self.objective.data_shape == "completions":
            logprobs = completion_logprobs(self.model, sequences)
            tokens = TokenLogprobs(logprobs.values, logprobs.mask)
            completions = Completions(logprobs.sums, logprobs.counts, by_token=tokens)
            losses, metrics = self._implementation(self.objective, Demonstrations(completions))
            return token_mean(losses, logprobs.mask, tokens=micro_batch.total_tokens), metrics
        values = self._values(sequences)
        losses, metrics = self._row_losses(self.train, micro_batch.rows, values, micro_batch.reference_point)
        return sequence_mean(losses, sequences=micro_batch.total_rows), metrics

    def evaluate(self) -> dict[str, float]:
        """Loss and metrics of the held-out rows under the present parameters; the same on every rank."""
        if self.evaluation is None:
            return {}
        held_out = self.evaluation
        values = self._score(held_out.data.flat_sequences())
        if self.objective.data_shape == "completions":
            return {"loss": -float(values.double().sum() / held_out.tokens.sum())}
        rows = torch.arange(len(held_out.data.rows))
        point = self._reference_point(held_out, rows.tolist())
        blocks = values.view(len(rows), held_out.width).T.reshape(-1)
        losses, metrics = self._row_losses(held_out, rows, blocks, point)
        return {"loss": float(losses.double().mean())} | {name: metric.value for name, metric in metrics.items()}

    def step_done(self, step: int) -> None:
        """Nothing follows the parameters."""

    def state_dict(self) -> dict[str, Any]:
        """The digest of the training rows: steps are positions in these rows and in no others."""
        return rows_state(self.data_digest, len(self.train.data.rows))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Refuses to go on with other rows than those the checkpoint was trained on."""
        refuse_other_rows(state, self.data_digest, len(self.train.data.rows))

    def tensors(self) -> dict[str, torch.Tensor]:
        """No state is kept in tensors."""
        return {}

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """There are none."""

    def close(self) -> None:
        """Nothing was started."""

    def _parts(self) -> Iterator[ScoredData]:
        yield self.train
        if self.evaluation is not None:
            yield self.evaluation

    def _load_model(self, config: TrainerConfig) -> nn.Module:
        spec = spec_of(config)
        checkpointing = spec.training.activation_checkpointing
        if self._scores_rows:
            model = load_reward_model(
                config.paths.model,
                pad_token_id=self.tokenizer.pad_token_id,
                seed=spec.training.seed,
                dtype=spec.model.dtype,
                device=self.ranks.device,
                activation_checkpointing=checkpointing,
            )
        else:
            model = load_policy(
                config.paths.model,
                dtype=spec.model.dtype,
                device=self.ranks.device,
                activation_checkpointing=checkpointing,
            )
            check_head(model)
        if spec.peft is None:
            return model
        head = HEAD if self._scores_rows else None
        return add_lora(model, spec.peft.value, seed=spec.training.seed, scalar_head=head)

    def _prepare_reference(self, config: TrainerConfig) -> None:
        """Computes the reference's log-probabilities of all rows, once.

        Without `spec.reference` the reference is the policy as it is now, before its first update and before any
        checkpoint is restored, so no second model is held in memory.
        """
        if isinstance(self.objective, Kto):
            for part in self._parts():
                part.mismatched = mismatched_sequences(part.data)
        if not self.objective.needs_reference:
            return
        model = self.model if config.paths.reference is None else open_reference(config, self.model).model
        for part in self._parts():
            part.reference = self._score(part.data.flat_sequences(), model).view(-1, part.width)
            if part.mismatched:
                part.mismatched_reference = self._score(part.mismatched, model)

    def _reference_point(self, part: ScoredData, rows: list[int]) -> torch.Tensor | None:
        """KTO's z_0 over `rows`, from a pass without gradients over their mismatched sequences; all ranks take part."""
        if part.mismatched_reference is None:
            return None
        policy = self._score([part.mismatched[row] for row in rows])
        return kto_reference_point(policy, part.mismatched_reference[rows])

    def _micro_batch(
        self, rows: list[int], total_rows: int, total_tokens: int, point: torch.Tensor | None
    ) -> MicroBatch:
        sequences = [self.train.data.sequences[row][column] for column in range(self.train.width) for row in rows]
        padded = pad_sequences(sequences, self.tokenizer.pad_token_id)
        return MicroBatch(padded, torch.tensor(rows), total_rows, total_tokens, point)

    def _values(self, sequences: SequenceBatch, model: nn.Module | None = None) -> torch.Tensor:
        """[S]: log pi(y|x) of every sequence, or its scalar score for a reward model."""
        if self._scores_rows:
            return sequence_scores(model or self.model, sequences)
        return completion_logprobs(model or self.model, sequences).sums

    def _score(self, sequences: Sequence[TokenSequence], model: nn.Module | None = None) -> torch.Tensor:
        """[S] on the CPU, without gradients and without dropout."""
        scorer = model or self.model
        with evaluating(scorer):
            return score_sequences(
                lambda batch: self._values(batch, scorer),
                sequences,
                pad_id=self.tokenizer.pad_token_id,
                token_budget=self._token_budget,
                max_rows=self._evaluation_batch_size,
                ranks=self.ranks,
            )

    def _row_losses(
        self, part: ScoredData, rows: torch.Tensor, values: torch.Tensor, point: torch.Tensor | None
    ) -> tuple[torch.Tensor, dict[str, Metric]]:
        """The objective on `values`, k blocks of [B], for the rows `rows` of `part`."""
        device = values.device
        columns = values.view(part.width, len(rows))
        reference = None if part.reference is None else part.reference[rows].T.to(device)
        if self._scores_rows:
            scores = columns.T
            return self._implementation(self.objective, Scores(scores, torch.ones_like(scores, dtype=torch.bool)))
        tokens = part.tokens[rows].T.to(device)
        completions = [
            Completions(column, tokens[index], None if reference is None else reference[index])
            for index, column in enumerate(columns)
        ]
        if part.desirable is not None:
            desirable = part.desirable[rows].to(device)
            point = None if point is None else point.to(device)
            return self._implementation(self.objective, Unpaired(completions[0], desirable, point))
        return self._implementation(self.objective, Pairs(completions[0], completions[1]))


def build(config: TrainerConfig, ranks: Ranks, stop: StopRequest) -> PreferenceTask:
    """Loads model, tokenizer and rows, and computes the reference's log-probabilities."""
    return PreferenceTask(config, ranks, stop)
