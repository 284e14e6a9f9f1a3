"""A reward model as a component of the reward: the scores that transformers itself gives, whatever the batch."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from plumbline_api.methods.verifiers.learned import RewardModelScore
from plumbline_api.sources import Reward
from plumbline_trainer.configuration import config_of_manifest
from plumbline_trainer.data.batches import Layout
from plumbline_trainer.data.rendering import Renderer
from plumbline_trainer.failures import ModelError
from plumbline_trainer.inputs import digest_inputs
from plumbline_trainer.rewards.components import open_batch_components
from plumbline_trainer.rewards.pool import VerifierPool
from plumbline_trainer.rewards.reward_model import RewardModelComponent, check_reward_model
from plumbline_trainer.rewards.scoring import Sample, Scorer
from plumbline_trainer.tasks.rlvr_data import check_inputs

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def directory(llama_directory, chat_tokenizer, tmp_path_factory):
    """What a PreferenceJob with a reward objective exports."""
    folder = tmp_path_factory.mktemp("reward")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = AutoModelForSequenceClassification.from_pretrained(llama_directory, num_labels=1, dtype=torch.float32)
        torch.nn.init.normal_(model.score.weight)
    model.config.pad_token_id = chat_tokenizer.pad_token_id
    model.save_pretrained(folder)
    chat_tokenizer.save_pretrained(folder)
    return folder


def samples():
    prompts = ["what is up?", [{"role": "user", "content": "say a longer thing"}]]
    return [Sample(prompt, text, None, {}) for prompt in prompts for text in ("yes", "no, not at all", "", "yes yes")]


def component(directory, **options):
    return RewardModelComponent(str(directory), parameters(directory, **options), CPU)


def parameters(directory, **options):
    return RewardModelScore(source={"path": {"path": str(directory)}}, dtype="float32", **options)


def expected(directory):
    """Scores of transformers' own forward pass, one sequence at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(directory, dtype=torch.float32).eval()
    renderer = Renderer(AutoTokenizer.from_pretrained(directory))
    scores = []
    for sample in samples():
        [prompt], [completion] = (
            renderer.prompt_ids([sample.prompt]),
            renderer.completion_ids([sample.prompt], [sample.completion]),
        )
        with torch.no_grad():
            scores.append(model(torch.tensor([[*prompt, *completion]])).logits.item())
    return scores


def test_scores_are_those_of_transformers(directory):
    outcomes = component(directory).score(samples())
    assert [outcome.value for outcome in outcomes] == pytest.approx(expected(directory), abs=1e-5)
    assert len({round(outcome.value, 4) for outcome in outcomes}) > 4, "the texts differ, and so must their scores"


@pytest.mark.parametrize("budget", [1, 30, 10_000])
@pytest.mark.parametrize("shares", [True, False])
def test_scores_do_not_depend_on_the_batch(directory, budget, shares):
    model = component(directory)
    model._layout = Layout(model._layout.pad_id, shares, one_row=True, token_budget=budget)
    polls = []
    outcomes = model.score(samples(), lambda: polls.append(1))
    assert [outcome.value for outcome in outcomes] == pytest.approx(expected(directory), abs=1e-5)
    assert (len(polls) == 1) == (budget == 10_000)


@pytest.mark.parametrize(("squash", "function"), [("sigmoid", torch.sigmoid), ("tanh", torch.tanh)])
def test_scores_may_be_squashed(directory, squash, function):
    values = [outcome.value for outcome in component(directory, squash=squash, scale=0.5).score(samples())]
    raw = torch.tensor(expected(directory), dtype=torch.float64)
    assert values == pytest.approx(function(0.5 * raw).tolist(), abs=1e-5)


def test_a_text_that_is_too_long_is_an_error_and_the_others_are_scored(directory):
    model = component(directory)
    model._longest = 40
    outcomes = model.score([Sample("up?", "yes " * 50, None, {}), Sample("up?", "yes", None, {})])
    assert "the reward model has 40 positions" in outcomes[0].error
    assert outcomes[1].value is not None


def test_no_completions_are_no_work(directory):
    assert component(directory).score([]) == []


def test_a_language_model_is_refused_by_name(llama_directory):
    with pytest.raises(ModelError, match="it is no reward model: the weights have no head `score`"):
        check_reward_model(llama_directory)
    with pytest.raises(ModelError, match="it is no reward model"):
        component(llama_directory)


def test_it_is_a_component_of_the_reward(directory):
    rewards = [
        Reward(name="short", verifier={"regex": {"pattern": "yes"}}),
        Reward(name="liked", verifier={"rewardModel": parameters(directory).to_document()}, weight=2.0),
    ]
    with VerifierPool(rewards[:1], {}, workers=1) as pool:
        scorer = Scorer(rewards, pool, open_batch_components(rewards, {"liked": str(directory)}, CPU))
        scores = scorer.score(samples())
    short = torch.tensor([float(sample.completion == "yes") for sample in samples()], dtype=torch.float64)
    raw = torch.tensor(expected(directory), dtype=torch.float64)
    assert torch.allclose(scores.totals, short + 2 * raw, atol=1e-4)
    assert scores.metrics["reward_seconds/liked"].value > 0


def manifest(llama_directory, directory, folder):
    rows = folder / "train.jsonl"
    rows.write_text('{"prompt": "up?"}\n' * 8)
    return {
        "apiVersion": "plumbline.dev/v1alpha1",
        "kind": "RLVRJob",
        "metadata": {"name": "liked"},
        "spec": {
            "runtimeRef": {"name": "torch-cpu"},
            "model": {"source": {"path": {"path": str(llama_directory)}}},
            "data": {"train": {"source": {"path": {"path": str(rows)}}}},
            "objective": {"grpo": {}},
            "rewards": [{"name": "liked", "verifier": {"rewardModel": parameters(directory).to_document()}}],
            "training": {"steps": 1, "batchSize": 8, "maxPromptTokens": 16, "maxCompletionTokens": 4},
            "output": {"path": str(folder / "output")},
        },
    }


def test_a_job_names_its_reward_model_and_pre_flight_looks_at_it(llama_directory, directory, tmp_path):
    config = config_of_manifest(manifest(llama_directory, directory, tmp_path), "job.yaml")
    assert config.paths.reward_models == {"liked": str(directory)}
    assert check_inputs(config).training_rows == 8
    plain = config_of_manifest(manifest(llama_directory, llama_directory, tmp_path), "job.yaml")
    with pytest.raises(ModelError, match="it is no reward model"):
        check_inputs(plain)


def test_the_reward_model_is_part_of_what_went_into_a_run(llama_directory, directory, tmp_path):
    """A job that goes on with another reward model would mix two rewards."""
    digests = [
        digest_inputs(config_of_manifest(manifest(llama_directory, model, tmp_path), "job.yaml").paths).rewards
        for model in (directory, directory, llama_directory)
    ]
    assert digests[0] == digests[1] != digests[2]
    assert digests[0].startswith("sha256:")
