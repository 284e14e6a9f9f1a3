"""A model with the head that guides it, as a job with the objective `qSharp` leaves them in its output directory.

from plumbline_trainer.guided_model import GuidedModel

model = GuidedModel("/results/q-sharp")
[[text]] = model.generate(["What is 17 + 25?"], max_tokens=16)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plumbline_api.methods.sampling import Sampling
from plumbline_trainer.data.batches import TokenSequence, pad_sequences
from plumbline_trainer.data.rendering import Renderer
from plumbline_trainer.data.rows import Prompt
from plumbline_trainer.modeling.loading import load_policy, load_tokenizer, resolve_directory, select_device
from plumbline_trainer.modeling.logprobs import logits_function, predicting_states
from plumbline_trainer.modeling.success_head import load_success_head
from plumbline_trainer.rollout.engine import Engine
from plumbline_trainer.rollout.guidance import Guide
from plumbline_trainer.rollout.limits import Limits, ends_of
from plumbline_trainer.rollout.requests import Request
from plumbline_trainer.rollout.sampling import Stream


class GuidedModel:
    """Generates from the guided policy, and says how likely it is to write a text.

    The model alone, which any program can load from the same directory, knows nothing of its guidance.
    """

    def __init__(self, location: str, *, dtype: str = "auto", device: torch.device | None = None) -> None:
        """Loads from a directory or a URI; `dtype` as in `spec.model.dtype`. Raises `ModelError`."""
        directory = resolve_directory(location)
        device = device or select_device()
        self._model = load_policy(str(directory), dtype=dtype, device=device).eval()
        head, settings = load_success_head(directory, device)
        self._guide = Guide(head, settings["eta"], int(settings["candidates"]), settings["temperature"])
        self._renderer = Renderer(load_tokenizer(directory))

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        max_tokens: int,
        samples: int | None = None,
        seed: int = 0,
        max_batch_size: int = 128,
    ) -> list[list[str]]:
        """The likeliest completion of each prompt, or `samples` drawn ones at the temperature of the job.

        Prompts are texts or conversations, as in a data set. The same `seed` gives the same completions.
        """
        if not prompts:
            return []
        ends = ends_of(self._model, self._renderer, prompts[0])
        tokenizer = self._renderer.tokenizer
        engine = Engine(self._model, tokenizer, Limits(max_tokens, max_batch_size, ends), self._guide)
        requests = [
            Request(ids, [Stream(seed, "guided", 0, number, sample) for sample in range(samples or 1)])
            for number, ids in enumerate(self._renderer.prompt_ids(prompts))
        ]
        sampling = None if samples is None else Sampling(temperature=self._guide.temperature)
        return [
            tokenizer.batch_decode(
                [completion.tokens for completion in group],
                skip_special_tokens=True,
                clean_up_tokenization_spaces=False,
            )
            for group in engine.generate(requests, sampling)
        ]

    @torch.no_grad()
    def logprobs(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> Tensor:
        """[T] float32: the guided policy's log-probability of each token of a completion.

        At the temperature of the job; minus infinity for a token that was no candidate.
        """
        sequence = TokenSequence(prompt_ids, completion_ids)
        batch = pad_sequences([sequence], self._renderer.tokenizer.pad_token_id).to(self._model.device)
        states = predicting_states(self._model, batch)
        scores = self._guide.scores(logits_function(self._model)(states), states) / self._guide.temperature
        return scores.log_softmax(dim=-1).gather(1, batch.targets[batch.mask][:, None]).squeeze(1).cpu()
