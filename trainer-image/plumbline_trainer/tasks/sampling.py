"""Completions of this rank's prompts, and their scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase as Tokenizer

from plumbline_api.rlvr_job import RLVRJobSpec
from plumbline_trainer.data.rows import PromptRow
from plumbline_trainer.rewards.scoring import Sample, Scorer, Scores
from plumbline_trainer.rollout.engine import Completion, Engine, Request
from plumbline_trainer.rollout.sampling import Stream
from plumbline_trainer.tasks.judging import Candidate


@dataclass(frozen=True)
class Wanted:
    """Samples of one prompt."""

    slot: int
    row: int
    """The prompt's row in the data set."""

    first: int
    """Number of the first sample among those of the prompt."""

    samples: int
    prompt_ids: Sequence[int]
    """What the model reads."""

    hinted: bool = False


class Sampler:
    """Generates and scores completions of one data set's prompts."""

    def __init__(
        self,
        spec: RLVRJobSpec,
        engine: Engine,
        scorer: Scorer,
        tokenizer: Tokenizer,
        rows: Sequence[PromptRow],
        poll: Callable[[], None],
    ) -> None:
        """`poll` is called again and again and ends a call by raising."""
        self._spec, self._engine, self._scorer = spec, engine, scorer
        self._tokenizer, self._rows, self._poll = tokenizer, rows, poll

    def sample(self, wanted: Sequence[Wanted], purpose: str, number: int, *, greedy: bool = False) -> list[Candidate]:
        """Candidates in the order of `wanted`. Random numbers belong to (seed, purpose, number, slot, sample)."""
        seed = self._spec.training.seed
        requests = [
            Request(
                one.prompt_ids,
                [Stream(seed, purpose, number, one.slot, one.first + sample) for sample in range(one.samples)],
            )
            for one in wanted
        ]
        groups = self._engine.generate(requests, None if greedy else self._spec.rollout.sampling, self._poll)
        texts = self.texts([completion for group in groups for completion in group])
        candidates: list[Candidate] = []
        for one, group in zip(wanted, groups, strict=True):
            for offset, completion in enumerate(group):
                text = texts[len(candidates)]
                candidates.append(Candidate(one.slot, one.first + offset, one.row, completion, text, one.hinted))
        return candidates

    def texts(self, completions: Sequence[Completion]) -> list[str]:
        """What the completions say, without special tokens."""
        found: list[str] = self._tokenizer.batch_decode(
            [completion.tokens for completion in completions],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        return found

    def score(self, candidates: Sequence[Candidate], calls: int | None = None) -> Scores:
        """What the components of the reward say; `calls` counts the calls of a component over all ranks."""
        return self.score_texts([(candidate.row, candidate.text) for candidate in candidates], calls)

    def score_texts(self, texts: Sequence[tuple[int, str]], calls: int | None = None) -> Scores:
        """As `score`, of a text for the prompt of a row each."""
        samples = []
        for row, text in texts:
            prompt = self._rows[row]
            samples.append(Sample(prompt.prompt, text, prompt.answer, prompt.columns))
        return self._scorer.score(samples, self._poll, calls)
