"""The scalar head: scores are read at the last token, as transformers itself reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from plumbline_api.methods.optimization import Lora
from plumbline_trainer.data.batches import TokenSequence, pad_sequences, share_prompts
from plumbline_trainer.modeling.adapters import add_lora
from plumbline_trainer.modeling.reward_head import HEAD, load_reward_model, sequence_scores

CPU = torch.device("cpu")
SEQUENCES = [
    TokenSequence([1, 3, 6, 9, 9], [7, 8, 2]),
    TokenSequence([1, 9], [10, 2]),
    TokenSequence([1, 4], [5, 5, 5, 5, 5, 2]),
]


def reward_model(directory: Path, pad: int = 0, seed: int = 0) -> torch.nn.Module:
    return load_reward_model(str(directory), pad_token_id=pad, seed=seed, device=CPU)


def test_scores_do_not_depend_on_padding(llama_directory: Path) -> None:
    model = reward_model(llama_directory)
    together = sequence_scores(model, pad_sequences(SEQUENCES, 0))
    alone = torch.cat([sequence_scores(model, pad_sequences([sequence], 0)) for sequence in SEQUENCES])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    assert together.unique().numel() == 3


@pytest.mark.parametrize("pad", [0, 2])
def test_scores_are_those_of_the_exported_model_even_where_eos_is_the_padding(
    llama_directory: Path, tmp_path: Path, pad: int
) -> None:
    model = reward_model(llama_directory, pad)
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    exported = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    batch = pad_sequences(SEQUENCES, pad)
    attention = torch.arange(batch.input_ids.shape[1]) < batch.lengths[:, None]
    theirs = exported(input_ids=batch.input_ids, attention_mask=attention.long()).logits.squeeze(-1)
    torch.testing.assert_close(sequence_scores(model, batch), theirs, rtol=1e-5, atol=1e-6)
    assert exported.config.num_labels == 1


def test_the_last_token_is_the_last_that_is_not_padding() -> None:
    sequences = [TokenSequence([5, 6], [7, 0]), TokenSequence([5, 6], [7, 8, 9]), TokenSequence([5], [0])]
    assert pad_sequences(sequences, 0).ends.tolist() == [2, 9, 10]
    assert share_prompts(sequences, 0, one_row=True).ends.tolist() == [2, 6, 7]


def test_scores_do_not_depend_on_a_shared_prompt(llama_directory: Path) -> None:
    model = reward_model(llama_directory)
    siblings = [TokenSequence([5, 6], [7, 8]), TokenSequence([5, 6], [9]), TokenSequence([4], [9, 3])]
    apart = sequence_scores(model, pad_sequences(siblings, 0))
    together = sequence_scores(model, share_prompts(siblings, 0, one_row=True))
    torch.testing.assert_close(together, apart)


def test_a_new_head_depends_on_the_seed_alone_and_a_trained_one_is_kept(llama_directory: Path, tmp_path: Path) -> None:
    def head(directory: Path, seed: int) -> torch.Tensor:
        torch.rand(seed + 1)  # whatever was drawn from the global generator before
        return reward_model(directory, seed=seed).score.weight.detach()  # type: ignore[union-attr,operator]

    assert torch.equal(head(llama_directory, 1), head(llama_directory, 1))
    assert not torch.equal(head(llama_directory, 1), head(llama_directory, 2))
    reward_model(llama_directory, seed=1).save_pretrained(tmp_path)  # type: ignore[operator]
    assert torch.equal(head(tmp_path, 2), head(llama_directory, 1))


def test_the_head_is_trained_beside_an_adapter(llama_directory: Path) -> None:
    plain = sequence_scores(reward_model(llama_directory), pad_sequences(SEQUENCES, 0))
    adapted = add_lora(reward_model(llama_directory), Lora(rank=4), seed=0, scalar_head=HEAD)  # type: ignore[arg-type]
    scores = sequence_scores(adapted, pad_sequences(SEQUENCES, 0))
    torch.testing.assert_close(scores, plain)
    scores.sum().backward()
    trained = {name: parameter.grad for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert any(HEAD in name for name in trained)
    assert all("lora_" in name or HEAD in name for name in trained)
    assert all(gradient is not None for gradient in trained.values())
