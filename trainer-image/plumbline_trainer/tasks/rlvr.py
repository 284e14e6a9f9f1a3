"""The steps of an RLVR job: prompts in, completions, rewards, advantages, loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase as Tokenizer

from plumbline_api.contract import TrainerConfig
from plumbline_api.methods.policy.conservative_bellman import ConservativeBellman
from plumbline_api.methods.policy.decoupled import PpoEwma
from plumbline_api.rlvr_job import RLVRJobSpec
from plumbline_trainer.data.order import DataOrder
from plumbline_trainer.data.rendering import Renderer
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.failures import CheckpointUnreadable
from plumbline_trainer.modeling.adapters import add_lora
from plumbline_trainer.modeling.compilation import compile_layers
from plumbline_trainer.modeling.loading import load_policy
from plumbline_trainer.modeling.logprobs import check_head
from plumbline_trainer.modeling.moving_reference import MovingReference
from plumbline_trainer.modeling.reference import Reference, open_moving_reference, open_reference
from plumbline_trainer.objectives.policy.entropy import POLICY_ENTROPY, EntropyState, first_state, next_state
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.rewards.scoring import Scores, check_error_shares
from plumbline_trainer.rollout.experience import Rollout, decode_rollout, encode_rollout
from plumbline_trainer.rollout.limits import ends_of
from plumbline_trainer.rollout.protocol import CompletionEngine
from plumbline_trainer.shaping import held_out_metrics
from plumbline_trainer.stopping import StopRequest
from plumbline_trainer.tasks.collecting import Collector
from plumbline_trainer.tasks.critic import Critic, CriticInputs
from plumbline_trainer.tasks.data_sets import load_data_sets, open_renderer, refuse_other_rows, rows_state
from plumbline_trainer.tasks.exploring import Explorer
from plumbline_trainer.tasks.generation import Generators, open_server
from plumbline_trainer.tasks.guidance import GuidedRounds, attach_guidance
from plumbline_trainer.tasks.judging import Candidate, Judgement
from plumbline_trainer.tasks.kept_solutions import KeptSolutions
from plumbline_trainer.tasks.layouts import model_layout
from plumbline_trainer.tasks.phases import timed
from plumbline_trainer.tasks.prompting import TrainingPrompts, sampling_prompts
from plumbline_trainer.tasks.proximal_average import ProximalAverage
from plumbline_trainer.tasks.reranking import ValueRanking, picked_accuracy
from plumbline_trainer.tasks.rlvr_columns import check_columns, check_held_out_columns, curriculum_of
from plumbline_trainer.tasks.rlvr_data import PromptData, load_prompts, open_pool, open_scorer, spec_of, uses_reference
from plumbline_trainer.tasks.rlvr_metrics import correct, judged, length_metrics, pass_at, score_metrics
from plumbline_trainer.tasks.sampling import Sampler, Wanted
from plumbline_trainer.tasks.task import Batch
from plumbline_trainer.tasks.updating import MicroBatch, Updates

_REFERENCE = "reference/"
"""What the names of a checkpoint's tensors of the reference begin with."""


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
        spec = self._spec = _reordered(config)
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
        check_columns(spec, self.train.rows)
        self.train = sampling_prompts(spec, self.train, renderer)
        if self.evaluation is not None:
            check_held_out_columns(spec, self.evaluation.rows)
            self.evaluation = sampling_prompts(spec, self.evaluation, renderer)
        parts = [self.train] if self.evaluation is None else [self.train, self.evaluation]
        self.data_status = self.train.status
        self.warnings = [warning for part in parts for warning in part.warnings]
        """What the user should know about the inputs."""

        server = open_server(config, spec, renderer.tokenizer, self.ranks)
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
        guide = attach_guidance(spec, self.model)
        self._moving: MovingReference | None = None
        self._reference = self._open_reference(config, spec) if uses_reference(spec) else None
        self._critic = self._open_critic(config, spec, renderer)
        longest = spec.training.max_prompt_tokens + spec.training.max_completion_tokens
        layout = model_layout(self.model, renderer.tokenizer.pad_token_id, longest=longest)
        prompts = TrainingPrompts(spec, self.train, renderer)
        self._updates = Updates(spec, self.model, layout, prompts, self.ranks.device, self._critic)
        objective = spec.objective.value
        self._ranking: ValueRanking | None = None
        """What picks one of several samples in evaluations; None where no values are learnt by which to do so."""

        if isinstance(objective, ConservativeBellman) and self._critic is not None:
            self._ranking = ValueRanking(objective, self.model, layout, self._critic, self.ranks.device)
        self._average = ProximalAverage(self.model, objective.decay) if isinstance(objective, PpoEwma) else None
        self._scorer = open_scorer(config, self._pool, self.ranks.device)
        ends = stop_tokens(self.model, renderer, self.train)
        self._generators = Generators(spec, self.model, self.tokenizer, ends, server, guide)
        sampler = self._sampler(self.train, self._generators.sampling_engine())
        logprobs = partial(self._updates.old_logprobs, poll=self.stop.raise_if_requested)
        self._collector = Collector(
            spec,
            self.ranks,
            self.train,
            sampler,
            self._updates,
            curriculum_of(spec, self.train.rows),
            Explorer(spec, self.ranks, self.train, renderer, sampler, logprobs),
            KeptSolutions(spec, self.ranks, sampler, logprobs),
            GuidedRounds(spec, self.ranks),
            reference=self._reference,
            critic=self._critic,
            max_steps=self.max_steps,
        )
        self._unguided_metrics: dict[str, float] | None = None
        """Held-out metrics of the model without guidance, which are the same in every evaluation."""

        self._entropy: EntropyState | None = None
        """The controller's state; None without one."""

        if spec.entropy is not None:
            self._entropy = first_state(spec.entropy.value)
        self._measured_entropy = Metric(0.0, 0.0)
        self._rollout: Rollout | None = None
        self._encoded: dict[str, Any] | None = None
        self._collector_state = self._collector.state_dict()
        self._loaded: dict[str, Any] = {}
        self._steps_done = 0
        self._updates_done = 0
        """Of this process: tells the weights apart that a server is brought."""

    def prepare(self, step: int) -> Batch:
        """The batch of optimizer step `step`: a new rollout, or the next update on the present one."""
        number, update = divmod(step, self._spec.rollout.updates_per_rollout)
        phases: dict[str, float] = {}
        tokens = None
        if update == 0:
            if self._generators.on_server:
                with timed(phases, "sync"):
                    self._generators.bring(self._updates_done)
            self._rollout, tokens = self._collector.collect(number, phases)
            self._keep()
        rollout = self._rollout
        if rollout is None or rollout.number != number:
            raise CheckpointUnreadable(f"the checkpoint lacks rollout {number}, which step {step + 1} continues")
        if self._average is not None:
            self._stay_near_average(self._average, rollout)
        self._steps_done = step + 1
        self._measured_entropy = Metric(0.0, 0.0)
        batches = self._updates.micro_batches(rollout, fresh=update == 0)
        trained = sum(batch.sequences.tokens for batch in batches)
        return Batch(
            batches,
            trained if tokens is None else tokens,
            trained_tokens=trained,
            metrics=dict(rollout.metrics),
            phase_seconds=phases,
        )

    def loss(self, micro_batch: MicroBatch) -> tuple[Tensor, dict[str, Metric]]:
        """The micro-batch's share of the step's loss, and its metrics."""
        coefficient = None if self._entropy is None else self._entropy.applied
        share, metrics = self._updates.loss(micro_batch, coefficient)
        if POLICY_ENTROPY in metrics:
            self._measured_entropy += metrics[POLICY_ENTROPY]
        return share, metrics

    def evaluate(self) -> dict[str, float]:
        """Rewards of greedy completions of the held-out prompts; the same on every rank.

        `accuracy` is the share of completions that every judging component (`rlvr_metrics.judges`) gives at least 1.
        Metrics of shaping steps that measure held-out completions, and pass rates of sampled ones, stand beside it.
        Where a head guides the model all are of the guided policy, and `unguided/accuracy` is the model's own.
        """
        if self.evaluation is None:
            return {}
        rows = range(self.ranks.rank, len(self.evaluation.rows), self.ranks.world_size)
        self._generators.bring(self._updates_done)
        sampler = self._sampler(self.evaluation, self._generators.measuring_engine())
        wanted = [Wanted(row, row, 0, 1, self.evaluation.prompt_ids[row]) for row in rows]
        candidates = sampler.sample(wanted, "evaluation", 0, greedy=True)
        scores = sampler.score(candidates, len(self.evaluation.rows))
        completions = [candidate.completion for candidate in candidates]
        own = {**score_metrics(self._spec, scores), **length_metrics(completions)}
        if candidates:
            own |= self._shaping_metrics(self.evaluation, candidates, scores)
        own |= self._pass_rates(sampler, wanted)
        metrics = self.ranks.sum_metrics(own)
        check_error_shares(self._spec.rewards, metrics)
        found = {name: metric.value for name, metric in metrics.items()}
        return {**found, **self._unguided(sampler, wanted, len(self.evaluation.rows))}

    def step_done(self, step: int) -> None:
        """Updates the critic, the reference, and the coefficient of entropy by what was measured in the step."""
        self._updates_done += 1
        if self._critic is not None and self._critic.learns:
            self._critic.apply(step, self.ranks)
        if self._average is not None:
            self._average.update()
        if self._moving is not None:
            self._moving.follow(self.model, step)
        if self._entropy is not None and self._spec.entropy is not None:
            measured = self.ranks.sum_metrics({POLICY_ENTROPY: self._measured_entropy})[POLICY_ENTROPY]
            if float(measured.count):
                self._entropy = next_state(self._spec.entropy.value, self._entropy, measured.value)

    def state_dict(self) -> dict[str, Any]:
        """The digest of the training rows, what later rollouts depend on, and the rollout that the next step needs."""
        pending = self._steps_done % self._spec.rollout.updates_per_rollout != 0
        return {
            **rows_state(self.train.digest, len(self.train.rows)),
            "rollout": self._encoded if pending else None,
            "collector": self._collector_state,
            "critic": {} if self._critic is None else self._critic.state_dict(),
            "average": {} if self._average is None else self._average.state_dict(),
            "entropy": None if self._entropy is None else vars(self._entropy).copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`. Refuses other rows than those the checkpoint was trained on."""
        refuse_other_rows(state, self.train.digest, len(self.train.rows))
        self._updates_done += 1  # of other weights as well
        self._encoded = state["rollout"]
        if self._encoded is not None:
            self._rollout = decode_rollout(self._encoded, self.ranks.rank, self.ranks.world_size)
        self._collector_state = state["collector"]
        self._collector.load_state_dict(self._collector_state)
        self._loaded = state
        if state["entropy"] is not None:
            self._entropy = EntropyState(**{**state["entropy"], "recent": tuple(state["entropy"]["recent"])})

    def tensors(self) -> dict[str, Tensor]:
        """Those of the critic, of the average of weights and of a reference that moves."""
        owners = [owner for owner in (self._critic, self._average) if owner is not None]
        found = {name: value for owner in owners for name, value in owner.tensors().items()}
        if self._moving is not None:
            found |= {f"{_REFERENCE}{name}": value for name, value in self._moving.tensors(self.model).items()}
        return found

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restores `tensors`."""
        if self._critic is not None:
            self._critic.load(tensors, self._loaded["critic"])
        if self._average is not None:
            self._average.load(tensors, self._loaded["average"])
        if self._moving is not None:
            moved = {name: value for name, value in tensors.items() if name.startswith(_REFERENCE)}
            self._moving.load({name.removeprefix(_REFERENCE): value for name, value in moved.items()})

    def close(self) -> None:
        """Ends the verifiers' processes, and leaves a rollout server."""
        self._pool.close()
        self._generators.close()

    def _open_reference(self, config: TrainerConfig, spec: RLVRJobSpec) -> Reference:
        update = None if spec.reference is None else spec.reference.update
        if update is None:
            return open_reference(config, self.model)
        self._moving = open_moving_reference(config, self.model, update, spec.training.seed)
        return Reference(self._moving.model, own_adapter=True)

    def _shaping_metrics(self, data: PromptData, candidates: Sequence[Candidate], scores: Scores) -> dict[str, Metric]:
        judgement = Judgement()
        judgement.add(candidates, scores)
        columns = [row.columns for row in data.rows]
        rollout = judgement.rollout(self._spec, columns, self._steps_done, self.max_steps)
        return held_out_metrics([choice.value for choice in self._spec.shaping], rollout)

    def _unguided(self, sampler: Sampler, wanted: Sequence[Wanted], calls: int) -> dict[str, float]:
        """The accuracy of the model itself, where a head guides it; measured once, since it stays as it is."""
        if not self._spec.objective.value.guides:
            return {}
        if self._unguided_metrics is None:
            candidates = sampler.sample(wanted, "evaluation", 0, greedy=True, guided_within=0)
            own = score_metrics(self._spec, sampler.score(candidates, calls))
            metrics = self.ranks.sum_metrics({"unguided/accuracy": own["accuracy"]})
            self._unguided_metrics = {name: metric.value for name, metric in metrics.items()}
        return self._unguided_metrics

    def _pass_rates(self, sampler: Sampler, prompts: Sequence[Wanted]) -> dict[str, Metric]:
        """Of sampled completions, whose random numbers are the same in every evaluation."""
        samples = self._spec.evaluation.samples
        if not samples:
            return {}
        candidates = sampler.sample([replace(one, samples=samples) for one in prompts], "evaluation samples", 0)
        scores = sampler.score_together([(one.row, one.text) for one in candidates], self.ranks)
        slots = torch.tensor([candidate.slot for candidate in candidates])
        right, with_verdict = correct(self._spec, scores), judged(self._spec, scores)
        found = pass_at(right, with_verdict, slots)
        if self._ranking is not None:
            assert self.evaluation is not None
            ranks = self._ranking.scores(candidates, self.evaluation.prompt_ids, self.stop.raise_if_requested)
            found["reranked_accuracy"] = picked_accuracy(ranks, right, with_verdict, slots)
        return found

    def _stay_near_average(self, average: ProximalAverage, rollout: Rollout) -> None:
        """Takes ratios to the average of weights as it is now, in every update."""
        with average.in_place():
            self._updates.old_logprobs(rollout.experiences, self.stop.raise_if_requested)
        for experience in rollout.experiences:
            experience.stale = True

    def _keep(self) -> None:
        """What a checkpoint needs of the rollout that was just made."""
        self._collector_state = self._collector.state_dict()
        if self._spec.rollout.updates_per_rollout > 1:
            assert self._rollout is not None
            everyone = [one for share in self.ranks.gather(self._rollout.experiences) for one in share]
            self._encoded = encode_rollout(self._rollout, everyone, self.ranks.sum_metrics(self._rollout.metrics))

    def _open_critic(self, config: TrainerConfig, spec: RLVRJobSpec, renderer: Renderer) -> Critic | None:
        if spec.critic is None:
            return None
        inputs = CriticInputs(
            self.model,
            config.paths.critic or config.paths.model,
            renderer.tokenizer.pad_token_id,
            spec.training.seed,
            spec.model.dtype,
            self.ranks.device,
            spec.training.activation_checkpointing,
        )
        clip = spec.training.gradient_clip
        return Critic(spec.critic.value, inputs, max_steps=self.max_steps, gradient_clip=clip)

    def _sampler(self, data: PromptData, engine: CompletionEngine) -> Sampler:
        return Sampler(self._spec, engine, self._scorer, self.tokenizer, data.rows, self.stop.raise_if_requested)


def _reordered(config: TrainerConfig) -> RLVRJobSpec:
    """The spec with the seed of this run: everything that a rollout draws follows from it, prompts and rows do not."""
    spec = spec_of(config)
    if config.order_seed is None:
        return spec
    return spec.model_copy(update={"training": spec.training.model_copy(update={"seed": config.order_seed})})


def stop_tokens(model: nn.Module, renderer: Renderer, data: PromptData) -> frozenset[int]:
    """The tokens that end a completion of the data's prompts."""
    return ends_of(model, renderer, data.rows[0].prompt)


def build(config: TrainerConfig, ranks: Ranks, stop: StopRequest) -> RLVRTask:
    """Loads model, tokenizer, prompts and reward code."""
    return RLVRTask(config, ranks, stop)
