"""The steps of a preference job: rows in, log-probabilities or scores, objective, loss."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase as Tokenizer

from plumbline_api.contract import TrainerConfig
from plumbline_api.methods.aggregation import MeanLoss
from plumbline_api.methods.preference.unpaired import Bco, Kto
from plumbline_api.methods.weighting import NoWeighting
from plumbline_trainer.data.batches import SequenceBatch, TokenSequence
from plumbline_trainer.data.order import DataOrder
from plumbline_trainer.data.rendering import Renderer
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.modeling.masked_likelihood import mask_token_id
from plumbline_trainer.modeling.moving_reference import MovingReference
from plumbline_trainer.modeling.scoring import evaluating, score_rows
from plumbline_trainer.objectives import preference  # noqa: F401  (registers the objectives)
from plumbline_trainer.objectives.aggregation import sequence_mean, token_mean
from plumbline_trainer.objectives.feasible import initial_multipliers, row_weights, updated_multipliers
from plumbline_trainer.objectives.preference.inputs import Demonstrations, Pairs, Unpaired
from plumbline_trainer.objectives.preference.unpaired import kto_reference_point, updated_running_reward
from plumbline_trainer.objectives.preference.weighting import PAIR_WEIGHTINGS
from plumbline_trainer.objectives.registry import implementation_of
from plumbline_trainer.reporting.metrics import Metric, merge
from plumbline_trainer.stopping import StopRequest
from plumbline_trainer.tasks.data_sets import load_data_sets, open_renderer, refuse_other_rows, rows_state
from plumbline_trainer.tasks.degrees import DegreeLoss
from plumbline_trainer.tasks.held_out import calibration_of, stated_rewards
from plumbline_trainer.tasks.likelihoods import Causal, Likelihoods, Masked, Scores, divergence_reference
from plumbline_trainer.tasks.objective_inputs import SequenceValues, StepFacts, row_inputs
from plumbline_trainer.tasks.preference_data import PreferenceData, load_data, mismatched_sequences, spec_of
from plumbline_trainer.tasks.preference_models import layout_of, load_trained_model, reference_logprobs
from plumbline_trainer.tasks.reference_samples import add_reference_samples
from plumbline_trainer.tasks.scored_rows import ScoredRows
from plumbline_trainer.tasks.task import Batch


@dataclass(frozen=True)
class MicroBatch:
    """Some rows of one step in one forward pass."""

    sequences: SequenceBatch
    """The sequences of all rows, in order."""

    rows: list[int]
    """Their numbers in the training set."""

    facts: StepFacts

    step: int

    total_rows: int
    """Rows of the whole step, over all micro-batches and ranks."""

    total_tokens: int
    """Tokens to imitate of the whole step, over all micro-batches and ranks."""


@dataclass(frozen=True)
class RowLosses:
    """What an objective says about some rows."""

    losses: torch.Tensor
    """[B], or [B, T] where it is about tokens."""

    metrics: dict[str, Metric]

    mask: torch.Tensor | None
    """[B, T] bool: the tokens that count; None for losses of rows."""

    rewards: torch.Tensor | None
    """[B]: see `held_out.stated_rewards`."""


class PreferenceTask:
    """Implements `tasks.task.Task` for every preference objective."""

    def __init__(self, config: TrainerConfig, ranks: Ranks, stop: StopRequest) -> None:
        spec = spec_of(config)
        self.ranks, self.stop = ranks, stop
        self.objective = spec.objective.value
        self._parts = self.objective.parts()
        self._implementation = implementation_of(self.objective)
        self._weighting = NoWeighting() if spec.weighting is None else spec.weighting.value
        self._aggregation = MeanLoss() if spec.aggregation is None else spec.aggregation.value
        renderer = open_renderer(config)
        self.tokenizer: Tokenizer = renderer.tokenizer
        train, held_out = load_data_sets(config, partial(load_data, spec=spec, renderer=renderer))
        self.warnings = [warning for data in (train, held_out) if data is not None for warning in data.warnings]
        """What the user should know about the inputs."""

        self.data_status = train.status
        """What became of the training rows."""

        pad = self.tokenizer.pad_token_id
        self.model = load_trained_model(config, pad, ranks.device)
        layout = layout_of(config, self.model, pad)
        self._scoring = replace(layout, max_rows=spec.evaluation.batch_size)
        most = spec.training.micro_batch_size
        self._layout = layout if most is None else replace(layout, max_rows=most, token_budget=sys.maxsize)
        self._auxiliary = None
        if spec.auxiliary is not None:
            self._auxiliary = DegreeLoss(spec.auxiliary.value, self.model, renderer, layout, seed=spec.training.seed)
        self._moving = self._open_moving_reference(config)
        self._likelihoods = self._open_likelihoods(config)
        for name, data in {"train": train, "evaluation": held_out}.items():
            if data is not None:
                self._add_sequences(config, renderer, data, name)
        self.train = ScoredRows(train, layout)
        self.evaluation = None if held_out is None else ScoredRows(held_out, layout)
        training = spec.training
        seed = training.seed if config.order_seed is None else config.order_seed
        self.order = DataOrder(len(train.rows), training.batch_size, seed, spec.data.shuffle, train.parts)
        self.max_steps = self.order.max_steps(steps=training.steps, epochs=training.epochs)
        self.score_name = "loss" if self.objective.data_shape == "completions" else "rewards/accuracy"
        self._multipliers = initial_multipliers(len(self.train)) if self._aggregation.keeps_multipliers else None
        self._step_losses: dict[int, float] = {}
        self._running = torch.zeros(2, 2, dtype=torch.float64)
        """BCO's means (row 0) and counts (row 1) of rewards of desirable and undesirable rows."""

        self._next_running = self._running
        self._prepare_references(config)

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
        facts = self._facts(self.train, everyone, step)
        total_tokens = self.train.row_tokens(everyone)
        self._step_losses = {}
        batches = []
        for group in self._layout.passes([self.train.sizes[row] for row in mine]):
            rows = [mine[item] for item in group]
            sequences = self._layout.batch([self.train.sequences[row] for row in rows])
            batches.append(MicroBatch(sequences, rows, facts, step, len(everyone), total_tokens))
        return Batch(
            batches,
            tokens=sum(batch.sequences.tokens for batch in batches),
            padded_tokens=sum(batch.sequences.padded_tokens for batch in batches),
            phase_seconds={"prepare": time.perf_counter() - started},
        )

    def loss(self, micro_batch: MicroBatch) -> tuple[torch.Tensor, dict[str, Metric]]:
        """The micro-batch's share of the step's loss, and its metrics."""
        sequences = micro_batch.sequences.to(self.ranks.device)
        found = self._losses(self.train, micro_batch.rows, sequences, micro_batch.facts, micro_batch.step)
        losses, metrics = found.losses, found.metrics
        if found.mask is not None:
            return token_mean(losses, found.mask, tokens=micro_batch.total_tokens), metrics
        if self._multipliers is not None:
            self._step_losses.update(zip(micro_batch.rows, losses.detach().tolist(), strict=True))
            losses = losses * row_weights(self._aggregation, self._multipliers[micro_batch.rows]).to(losses)
        return sequence_mean(losses, sequences=micro_batch.total_rows), metrics

    def step_done(self, step: int) -> None:
        """Moves what follows the policy: multipliers of rows, the running reward, the reference."""
        if self._multipliers is not None:
            losses = {row: loss for share in self.ranks.gather(self._step_losses) for row, loss in share.items()}
            rows = sorted(losses)
            self._multipliers[rows] = updated_multipliers(
                self._aggregation, self._multipliers[rows], torch.tensor([losses[row] for row in rows])
            )
        self._running = self._next_running
        if self._moving is not None:
            self._moving.follow(self.model, step)

    def evaluate(self) -> dict[str, float]:
        """Loss and metrics of the held-out rows under the present parameters; the same on every rank."""
        part = self.evaluation
        if part is None:
            return {}
        rows = list(range(len(part)))
        rewards = torch.full((len(part),), torch.nan, dtype=torch.float64)
        measured = []
        with evaluating(self.model), torch.no_grad():
            facts = self._facts(part, rows, "evaluation")
            for group in self._scoring.passes(part.sizes)[self.ranks.rank :: self.ranks.world_size]:
                self.stop.raise_if_requested()
                sequences = self._scoring.batch([part.sequences[row] for row in group])
                found = self._losses(part, group, sequences.to(self.ranks.device), facts, "evaluation")
                counted = found.losses if found.mask is None else found.losses[found.mask]
                measured.append(found.metrics | {"loss": Metric.mean_of(counted)})
                if found.rewards is not None:
                    rewards[group] = found.rewards
        shares = self.ranks.gather((_numbers(merge(measured)), rewards))
        metrics = {name: metric.value for name, metric in merge(share for share, _ in shares).items()}
        stated = torch.stack([share for _, share in shares]).nan_to_num(nan=-torch.inf).amax(dim=0)
        return metrics | ({} if stated.isinf().any() else calibration_of(stated, part.desirable))

    def state_dict(self) -> dict[str, Any]:
        """The digest of the training rows: steps are positions in these rows and in no others."""
        return rows_state(self.data_digest, len(self.train.data.rows)) | {"running": self._running.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Refuses to go on with other rows than those the checkpoint was trained on."""
        refuse_other_rows(state, self.data_digest, len(self.train.data.rows))
        self._running = torch.tensor(state["running"], dtype=torch.float64)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Multipliers of rows and the parameters of a reference that moves, where the job has them."""
        found = {} if self._multipliers is None else {"multipliers": self._multipliers}
        if self._moving is not None:
            found |= {f"reference/{name}": value for name, value in self._moving.tensors(self.model).items()}
        return found

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Restores `tensors`."""
        if self._multipliers is not None:
            self._multipliers = tensors["multipliers"].clone()
        if self._moving is not None:
            moved = {name.removeprefix("reference/"): value for name, value in tensors.items() if "/" in name}
            self._moving.load(moved)

    def close(self) -> None:
        """Nothing was started."""

    @property
    def _needs_tokens(self) -> bool:
        return self._weighting.needs_tokens or any(part.needs_tokens for part in self._parts)

    def _sets(self) -> Iterator[ScoredRows]:
        yield self.train
        if self.evaluation is not None:
            yield self.evaluation

    def _open_moving_reference(self, config: TrainerConfig) -> MovingReference | None:
        if not self.objective.moves_reference:
            return None
        start = config.model_copy(deep=True)
        start.paths.model = config.paths.reference or config.paths.model
        model = load_trained_model(start, self.tokenizer.pad_token_id, self.ranks.device)
        return MovingReference(model, self.objective.mix, self.objective.every_steps)

    def _open_likelihoods(self, config: TrainerConfig) -> Likelihoods:
        if self.objective.trains_scalar_head:
            return Scores(self.model)
        if self.objective.masked_likelihood:
            return Masked(config, self.model, mask_token_id(self.tokenizer), self.ranks.device)
        return Causal(
            self.model,
            by_token=self._needs_tokens,
            alignment=getattr(self._weighting, "alignment", "none"),
            moving=None if self._moving is None else self._moving.model,
            divergence_from=divergence_reference(config, self.model),
        )

    def _add_sequences(self, config: TrainerConfig, renderer: Renderer, data: PreferenceData, name: str) -> None:
        """Appends to every row what its objective scores besides the row's own completions."""
        if self.objective.draws_samples:
            add_reference_samples(config, self.model, self.tokenizer, data, self.ranks, f"reference samples {name}")

    def _prepare_references(self, config: TrainerConfig) -> None:
        """Computes the log-probabilities of a reference that stays as it is, once."""
        fixed = self._moving is None and not self.objective.masked_likelihood
        if not fixed or not any(part.needs_reference for part in self._parts):
            return
        by_token = any(part.needs_tokens and part.needs_reference for part in self._parts)
        score = partial(reference_logprobs, config, self.model, layout=self._scoring, ranks=self.ranks)
        for part in self._sets():
            if by_token:
                part.reference_by_token = score(part.sequences, by_token=True)
                totals = torch.cat([part.reference_by_token.new_zeros(1), part.reference_by_token.double().cumsum(0)])
                part.reference = (totals[part.first_token[1:]] - totals[part.first_token[:-1]]).float()
            else:
                part.reference = score(part.sequences, by_token=False)
            if isinstance(self.objective, Kto):
                mismatched = [[sequence] for sequence in mismatched_sequences(part.data)]
                part.mismatched = mismatched, score(mismatched, by_token=False)

    def _facts(self, part: ScoredRows, rows: list[int], turn: int | str) -> StepFacts:
        """What the losses of `rows` take from all of them; all ranks take part."""
        point = whole = reward = positions = None
        if part.mismatched is not None:
            sequences, reference = part.mismatched
            point = kto_reference_point(self._score([sequences[row] for row in rows]), reference[rows])
        if any(objective.needs_whole_step for objective in self._parts):
            values = self._score([part.sequences[row] for row in rows])
            whole = row_inputs(self.objective, part, rows, SequenceValues(values), StepFacts())
            positions = {row: place for place, row in enumerate(rows)}
        if isinstance(self.objective, Bco) and isinstance(whole, Unpaired):
            running = self._running
            if part is self.train:
                self._next_running = torch.stack(updated_running_reward(self.objective, running[0], running[1], whole))
                running = self._next_running
            reward = running[0]
        return StepFacts(point, reward, whole, positions)

    def _losses(
        self, part: ScoredRows, rows: list[int], sequences: SequenceBatch, facts: StepFacts, turn: int | str
    ) -> RowLosses:
        """What the objective says about `rows`."""
        inputs = row_inputs(self.objective, part, rows, self._likelihoods(sequences, rows, turn), facts)
        losses, metrics = self._implementation(self.objective, inputs)
        if isinstance(inputs, Pairs) and not isinstance(self._weighting, NoWeighting):
            weights = PAIR_WEIGHTINGS.of(self._weighting)(self._weighting, inputs)
            losses, metrics = losses * weights, metrics | {"weight": Metric.mean_of(weights)}
        if self._auxiliary is not None:
            turn = self.order.position(turn)[0] if isinstance(turn, int) else turn
            added, more = self._auxiliary([part.data.rows[row] for row in rows], rows, turn, losses.device)
            losses, metrics = losses + added, metrics | more
        mask = None
        if losses.dim() == 2 and isinstance(inputs, Demonstrations) and inputs.completion.by_token is not None:
            mask = inputs.completion.by_token.mask
        return RowLosses(losses, metrics, mask, stated_rewards(self.objective, inputs))

    def _score(self, rows: list[list[TokenSequence]]) -> torch.Tensor:
        """[S] on the CPU: the policy's values of all sequences of `rows`, without gradients and without dropout."""
        with evaluating(self.model):
            return score_rows(lambda batch: self._likelihoods(batch, [], "").values, rows, self._scoring, self.ranks)


def build(config: TrainerConfig, ranks: Ranks, stop: StopRequest) -> PreferenceTask:
    """Loads model, tokenizer and rows, and computes the reference's log-probabilities."""
    return PreferenceTask(config, ranks, stop)


def _numbers(metrics: dict[str, Metric]) -> dict[str, Metric]:
    """The same metrics as plain numbers, which travel between ranks."""
    return {name: Metric(float(metric.total), float(metric.count)) for name, metric in metrics.items()}
