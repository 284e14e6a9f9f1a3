"""Completions of this rank's prompts, and their scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase as Tokenizer

from plumbline_api.rlvr_job import RLVRJobSpec
from plumbline_trainer.data.rows import PromptRow
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.reporting.metrics import Metric, merge
from plumbline_trainer.rewards.scoring import Sample, Scorer, Scores, check_error_shares
from plumbline_trainer.rollout.guidance import switches
from plumbline_trainer.rollout.protocol import CompletionEngine
from plumbline_trainer.rollout.requests import Completion, GenerationFigures, Request
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
    max_tokens: int | None = None
    """Longest completion, where it is less than the job's."""


class Sampler:
    """Generates and scores completions of one data set's prompts."""

    def __init__(
        self,
        spec: RLVRJobSpec,
        engine: CompletionEngine,
        scorer: Scorer,
        tokenizer: Tokenizer,
        rows: Sequence[PromptRow],
        poll: Callable[[], None],
    ) -> None:
        """`poll` is called again and again and ends a call by raising."""
        self._spec, self._engine, self._scorer = spec, engine, scorer
        self._tokenizer, self._rows, self._poll = tokenizer, rows, poll
        self._figures = GenerationFigures()
        self.begin_step()

    def begin_step(self) -> None:
        """Counts failed calls anew."""
        self._calls_of_step = 0
        self._about_step: dict[str, Metric] = {}

    def sample(
        self,
        wanted: Sequence[Wanted],
        purpose: str,
        number: int,
        *,
        greedy: bool = False,
        numbers: Sequence[int] | None = None,
        guided_within: int | None = None,
    ) -> list[Candidate]:
        """Candidates in the order of `wanted`.

        Where something guides the model it does so before a token drawn evenly below `guided_within` for each
        completion, or throughout.
        Random numbers belong to (seed, purpose, number, slot, sample), or to `numbers` in place of slots.
        """
        seed = self._spec.training.seed
        owners = [one.slot for one in wanted] if numbers is None else [value % 2**32 for value in numbers]
        requests = []
        for one, owner in zip(wanted, owners, strict=True):
            streams = [Stream(seed, purpose, number, owner, one.first + sample) for sample in range(one.samples)]
            guided = None if guided_within is None else switches(streams, guided_within)
            requests.append(Request(one.prompt_ids, streams, one.max_tokens, guided))
        groups = self._engine.generate(requests, None if greedy else self._spec.rollout.sampling, self._poll)
        self._figures += self._engine.last_figures
        texts = self.texts([completion for group in groups for completion in group])
        candidates: list[Candidate] = []
        for one, group in zip(wanted, groups, strict=True):
            for offset, completion in enumerate(group):
                text = texts[len(candidates)]
                candidates.append(Candidate(one.slot, one.first + offset, one.row, completion, text, one.hinted))
        return candidates

    def take_figures(self) -> GenerationFigures:
        """What was generated since the last call, and where its time went."""
        taken, self._figures = self._figures, GenerationFigures()
        return taken

    def texts(self, completions: Sequence[Completion]) -> list[str]:
        """What the completions say, without special tokens."""
        return self.texts_of([completion.tokens for completion in completions])

    def texts_of(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """What sequences of tokens say, without special tokens."""
        if not tokens:
            return []  # the tokenizer takes it for one empty sequence
        found: list[str] = self._tokenizer.batch_decode(
            list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return found

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """What each token says by itself."""
        return self.texts_of([[token] for token in tokens])

    def token_ids(self, text: str) -> list[int]:
        """The tokens of a text, without those that begin or end a sequence."""
        found: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return found

    def score(self, candidates: Sequence[Candidate], calls: int | None = None) -> Scores:
        """What the components of the reward say; `calls` counts the calls of a component over all ranks."""
        return self.score_texts([(candidate.row, candidate.text) for candidate in candidates], calls)

    def score_together(
        self, texts: Sequence[tuple[int, str]], ranks: Ranks, groups: Sequence[int] | None = None
    ) -> Scores:
        """As `score_texts`, of the texts of all ranks, each of which scores its own: a collective.

        How often a component may fail follows from all calls of the step so far, and so neither from how texts lie on
        ranks nor from what a step calls it for. Raises `RewardFunctionError` if it failed more often.
        """
        calls = sum(ranks.gather(len(texts)))
        scores = self.score_texts(texts, self._calls_of_step + calls, groups)
        self._about_step = merge([self._about_step, ranks.sum_metrics(scores.metrics)])
        self._calls_of_step += calls
        check_error_shares(self._spec.rewards, self._about_step)
        return scores

    def score_texts(
        self, texts: Sequence[tuple[int, str]], calls: int | None = None, groups: Sequence[int] | None = None
    ) -> Scores:
        """As `score`, of a text for the prompt of a row each.

        `groups` says which of them are samples of one prompt, all of whose samples are there; without it components
        that compare samples have no part in the scores.
        """
        samples = []
        for place, (row, text) in enumerate(texts):
            prompt, group = self._rows[row], None if groups is None else groups[place]
            samples.append(Sample(prompt.prompt, text, prompt.answer, prompt.columns, group))
        return self._scorer.score(samples, self._poll, calls, in_groups=groups is not None)
