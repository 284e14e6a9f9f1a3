"""The RLVR task on a real, tiny model: it learns, it resumes exactly, and it refuses what cannot work."""

import json
import socket

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from plumbline_api.contract import TrainerConfig
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.failures import CheckpointUnreadable, DataError, RewardFunctionError
from plumbline_trainer.stopping import StopRequest, StopRequested
from plumbline_trainer.tasks.rlvr import build
from plumbline_trainer.tasks.rlvr_data import check_inputs
from tests.trainer.rlvr_rank import start_rank

WORDS = ["<eos>", "<unk>", *"abcdefgh", *"01234567"]
PROMPTS = [{"prompt": " ".join(pair), "answer": str(number)} for number, pair in enumerate(["ab", "cd", "ef", "gh"])]


def write_model(directory, **changes):
    """A directory with a random two-layer Llama of 18 words."""
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", unk_token="<unk>").save_pretrained(directory)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        eos_token_id=0,
        bos_token_id=None,
        **changes,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


class Job:
    """The configuration of a run in a folder of its own."""

    def __init__(self, folder, model):
        self.folder, self.model = folder, model
        self.rows = list(PROMPTS)
        self.code = {}
        self.spec = {
            "runtimeRef": {"name": "torch-cpu"},
            "model": {"source": {"path": {"path": str(model)}}},
            "data": {"train": {"source": {"path": {"path": "train.jsonl"}}}},
            "objective": {"grpo": {}},
            "rollout": {"groupSize": 8},
            "rewards": [{"name": "right", "verifier": {"exactMatch": {"extract": "[0-7]"}}}],
            "training": {"steps": 4, "batchSize": 32, "maxPromptTokens": 8, "maxCompletionTokens": 2, "seed": 3},
            "output": {"path": str(folder / "output")},
        }

    def config(self, evaluation=False):
        train = self.folder / "train.jsonl"
        train.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        if evaluation:
            self.spec["data"]["evaluation"] = self.spec["data"]["train"]
        paths = {
            "model": str(self.model),
            "train": str(train),
            "evaluation": str(train) if evaluation else None,
            "rewards": {name: str(path) for name, path in self.code.items()},
            "checkpoints": str(self.folder / "checkpoints"),
            "output": str(self.folder / "output"),
        }
        return TrainerConfig.model_validate({"kind": "RLVRJob", "name": "test", "rlvr": self.spec, "paths": paths})

    def python_reward(self, source, **reward):
        path = self.folder / "reward.py"
        path.write_text(source)
        self.code["code"] = path
        verifier = {"python": {"path": str(path)}}
        self.spec["rewards"] = [{"name": "code", "verifier": verifier, **reward}]


@pytest.fixture
def job(tmp_path, tiny_model):
    return Job(tmp_path, tiny_model)


@pytest.fixture
def open_task():
    """Builds tasks and ends their worker processes when the test is over."""
    opened = []

    def build_task(config, stop=None):
        stop = stop or StopRequest()
        task = build(config, Ranks(stop, torch.device("cpu")), stop)
        opened.append(task)
        return task

    yield build_task
    for task in opened:
        task.close()


class Trainer:
    """The least that turns a task's steps into updates: AdamW, no clipping."""

    def __init__(self, task, learning_rate=3e-3):
        self.task = task
        parameters = [parameter for parameter in task.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)

    def step(self, number):
        batch = self.task.prepare(number)
        losses, parts = [], [batch.metrics]
        for micro_batch in batch.micro_batches:
            loss, metrics = self.task.loss(micro_batch)
            loss.backward()
            losses.append(loss.item())
            parts.append(metrics)
        if losses:
            self.optimizer.step()
            self.optimizer.zero_grad()
        return sum(losses), parts


def value(parts, name):
    return next(part[name].value for part in parts if name in part)


def weights(task):
    return torch.cat([parameter.detach().flatten() for parameter in task.model.parameters()]).clone()


@pytest.mark.parametrize(
    ("objective", "advantage"),
    [("grpo", "groupRelative"), ("drGrpo", "leaveOneOut"), ("reinforce", "leaveOneOut")],
)
def test_it_learns_the_right_answer_to_every_prompt(job, open_task, objective, advantage):
    job.spec["objective"] = {objective: {}}
    job.spec["advantage"] = {advantage: {}}
    job.spec["rollout"] = {"groupSize": 16}
    job.spec["training"] |= {"batchSize": 64, "maxCompletionTokens": 1}
    task = open_task(job.config(evaluation=True))
    trainer = Trainer(task, learning_rate=1e-2)
    before = task.evaluate()["accuracy"]
    first = value(trainer.step(0)[1], "reward/mean")
    for step in range(1, 60):
        last = value(trainer.step(step)[1], "reward/mean")
    assert before <= 0.25
    assert first < 0.3
    assert last > 0.9
    assert task.evaluate()["accuracy"] == 1.0


def test_the_first_update_has_ratio_one_and_the_samplers_logprobs(job, open_task):
    job.spec["rollout"] |= {"updatesPerRollout": 2, "sampling": {"temperature": 0.7}}
    trainer = Trainer(open_task(job.config()))
    _, parts = trainer.step(0)
    ratios = [part["ratio"] for part in parts if "ratio" in part]
    assert all(ratio.value == 1.0 for ratio in ratios)
    assert all(part["sampler_gap"].value < 1e-5 for part in parts if "sampler_gap" in part)
    _, parts = trainer.step(1)
    assert any(part["ratio"].value != 1.0 for part in parts if "ratio" in part)


@pytest.mark.parametrize("updates", [1, 3])
@pytest.mark.parametrize("interrupted_after", [1, 2, 3, 4])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(job, open_task, updates, interrupted_after):
    job.spec["kl"] = {"loss": {"coefficient": 0.05}}
    job.spec["rollout"] |= {"updatesPerRollout": updates}
    config = job.config()
    whole = Trainer(open_task(config))
    for step in range(5):
        whole.step(step)

    first = Trainer(open_task(config))
    for step in range(interrupted_after):
        first.step(step)
    saved = json.loads(json.dumps(first.task.state_dict()))
    second = Trainer(open_task(config))
    second.task.model.load_state_dict(first.task.model.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.task.load_state_dict(saved)
    for step in range(interrupted_after, 5):
        second.step(step)
    assert torch.equal(weights(second.task), weights(whole.task))
    assert not torch.equal(weights(whole.task), weights(open_task(config)))


def test_an_adapter_learns_and_its_reference_is_the_model_without_it(job, open_task, tmp_path):
    # embeddings and head stay random: they must differ enough between words for an adapter to work with
    job.model = write_model(tmp_path / "model", initializer_range=0.15)
    job.spec["kl"] = {"loss": {"coefficient": 0.01}}
    job.spec["peft"] = {"lora": {"rank": 8, "alpha": 32}}
    job.spec["training"] |= {"batchSize": 64, "maxCompletionTokens": 1}
    job.spec["rollout"] = {"groupSize": 16}
    task = open_task(job.config())
    base = {name: value.clone() for name, value in task.model.named_parameters() if not value.requires_grad}
    trainer = Trainer(task, learning_rate=1e-2)
    divergence, rewards = [], []
    for step in range(40):
        _, parts = trainer.step(step)
        divergence.append(value(parts, "kl"))
        rewards.append(value(parts, "reward/mean"))
    assert rewards[0] < 0.2
    assert min(rewards[-3:]) > 0.6
    assert divergence[0] == 0, "an adapter starts at no effect"
    assert divergence[-1] > 0.5
    after = dict(task.model.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in base.items())


def test_a_checkpoint_without_the_rollout_in_use_is_refused(job, open_task):
    job.spec["rollout"] |= {"updatesPerRollout": 2}
    task = open_task(job.config())
    with pytest.raises(CheckpointUnreadable, match="rollout 0"):
        task.prepare(1)


def test_a_checkpoint_of_other_rows_is_refused(job, open_task):
    state = open_task(job.config()).state_dict()
    job.rows = job.rows[:3]
    job.spec["training"]["batchSize"] = 24
    with pytest.raises(DataError, match="has changed since the checkpoint"):
        open_task(job.config()).load_state_dict(state)


def test_loss_and_gradient_do_not_depend_on_the_micro_batches(job, open_task):
    gradients = []
    for size in (1, 5, 32):
        job.spec["training"]["microBatchSize"] = size
        task = open_task(job.config())
        batch = task.prepare(0)
        assert max(micro_batch.sequences.size for micro_batch in batch.micro_batches) <= size
        sum(task.loss(micro_batch)[0] for micro_batch in batch.micro_batches).backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in task.model.parameters()]))
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-7, rtol=1e-4)
    torch.testing.assert_close(gradients[2], gradients[0], atol=1e-7, rtol=1e-4)


def test_two_ranks_make_the_rollout_and_the_gradient_of_one(job, open_task, free_port):
    job.spec["rollout"] |= {"updatesPerRollout": 2}
    config = job.config()
    (job.folder / "config.json").write_text(config.model_dump_json(by_alias=True, exclude_none=True))
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port), "WORLD_SIZE": "2"}
    processes = [start_rank(job.folder / "config.json", rank, **address) for rank in range(2)]
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0, 0]
    both = [torch.load(job.folder / f"{rank}.pt", weights_only=True) for rank in range(2)]

    task = open_task(config)
    for micro_batch in task.prepare(0).micro_batches:
        task.loss(micro_batch)[0].backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in task.model.parameters()])
    for found in both:
        torch.testing.assert_close(found["gradient"], gradient, atol=1e-7, rtol=1e-4)
    assert both[0]["state"] == both[1]["state"], "rank 0 saves the rollout of all ranks"
    assert written(both[0]["state"]) == written(task.state_dict())


@pytest.fixture
def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def written(state):
    """What a saved rollout holds of each completion, apart from the last bits of log-probabilities."""
    rollout = state["rollout"]
    entries = {
        (entry["slot"], entry["sample"]): (entry["tokens"], entry["advantages"]) for entry in rollout["experiences"]
    }
    return rollout["sequences"], entries


def test_completions_without_signal_are_skipped_unless_a_kl_penalty_needs_them(job, open_task):
    job.python_reward(returning("1.0 if prompt != 'a b' else len(completion)"))
    job.spec["rollout"]["sampling"] = {"temperature": 2.0}
    batch = open_task(job.config()).prepare(0)
    assert batch.metrics["advantages/zero_groups"].value == 0.75
    trained = sum(micro_batch.sequences.size for micro_batch in batch.micro_batches)
    assert 0 < trained <= 8
    assert {micro_batch.counts.sequences for micro_batch in batch.micro_batches} == {32.0}, "they still count"
    job.spec["kl"] = {"loss": {"coefficient": 0.1}}
    batch = open_task(job.config()).prepare(0)
    assert sum(micro_batch.sequences.size for micro_batch in batch.micro_batches) == 32


def test_failed_calls_are_left_out_of_the_loss_and_counted(job, open_task):
    source = """
def verify(prompt, completion, answer, row):
    if prompt == "a b":
        raise RuntimeError("cannot judge this one")
    return len(completion) % 3
"""
    job.python_reward(source, maxErrorFraction=0.25)
    job.spec["kl"] = {"loss": {"coefficient": 0.1}}
    batch = open_task(job.config()).prepare(0)
    assert batch.metrics["reward_errors/code"].value == 0.25
    assert sum(micro_batch.sequences.size for micro_batch in batch.micro_batches) == 24
    assert {micro_batch.counts.sequences for micro_batch in batch.micro_batches} == {24.0}


def test_a_component_that_fails_too_often_ends_the_run_with_its_traceback(job, open_task):
    job.python_reward(returning("1 / 0"))
    with pytest.raises(RewardFunctionError, match=r"(?s)reward code: 4 of .*division by zero.*return 1 / 0"):
        open_task(job.config()).prepare(0)


def test_a_stop_request_ends_generation_and_verification(job, open_task):
    stop = StopRequest()
    task = open_task(job.config(), stop)
    stop.request("SIGTERM")
    with pytest.raises(StopRequested):
        task.prepare(0)


def test_phases_and_metrics_of_a_step(job, open_task):
    batch = open_task(job.config()).prepare(0)
    assert set(batch.phase_seconds) == {"generate", "verify"}
    assert set(batch.metrics) == {
        "reward/mean",
        "reward/right",
        "reward_errors/right",
        "reward_timeouts/right",
        "reward_seconds/right",
        "accuracy",
        "completions/length",
        "completions/truncated",
        "completions/slowest_share",
        "tokens_per_second/prefill",
        "tokens_per_second/decode",
        "advantages/zero",
        "advantages/zero_groups",
        "entropy",
    }
    assert 0 < batch.metrics["entropy"].value < 5
    assert batch.tokens > 32 * 3


def test_preflight_accepts_a_good_job(job):
    report = check_inputs(job.config(evaluation=True))
    assert (report.training_rows, report.evaluation_rows) == (4, 4)


def returning(expression):
    return f"import os\ndef verify(prompt, completion, answer, row):\n    return {expression}\n"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (returning("row['nothing']"), r"reward code failed on train\.jsonl:1: KeyError: 'nothing'"),
        (returning("float('nan')"), "returned nan, which is not finite"),
        (returning("'good'"), "returned 'good', which is not a number"),
        (returning("[None for x in iter(int, 1)]"), r"did not return within 0\.5 s"),
        (returning("os._exit(3)"), "the process ended with exit code 3"),
        ("import nothing_of_this_name\n", r"(?s)could not be loaded: ModuleNotFoundError.*nothing_of_this_name"),
        ("def verify(:\n", "could not be loaded: SyntaxError"),
        ("def score(): pass\n", "defines no function 'verify'"),
    ],
)
def test_preflight_refuses_broken_reward_code_and_says_where_it_breaks(job, source, message):
    job.python_reward(source, timeoutSeconds=0.5)
    with pytest.raises(RewardFunctionError, match=message):
        check_inputs(job.config())


def test_preflight_refuses_rows_without_the_answer_that_a_component_needs(job):
    job.rows = [PROMPTS[0], {"prompt": "c d"}]
    with pytest.raises(DataError, match=r"train\.jsonl:2: answer is missing; reward right needs it"):
        check_inputs(job.config())


def test_preflight_refuses_an_answer_that_its_verifier_cannot_read(job):
    job.rows = [PROMPTS[0], {"prompt": "c d", "answer": "many"}]
    job.spec["rewards"] = [{"name": "value", "verifier": {"numeric": {}}}]
    with pytest.raises(DataError, match=r"train\.jsonl:2: reward value cannot be computed: .*'many' is not a number"):
        check_inputs(job.config())
