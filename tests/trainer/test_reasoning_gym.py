"""Problems of reasoning-gym as prompts: made by seed, scored by their task, in the pool as in a job."""

import pytest

from plumbline_api.contract import TrainerConfig
from plumbline_api.methods.prompt_generator import ReasoningGym
from plumbline_api.methods.verifiers.generated import ReasoningGymScore
from plumbline_api.sources import DatasetColumns, Reward
from plumbline_trainer.configuration import config_of_manifest
from plumbline_trainer.data.reasoning_gym import reasoning_gym_rows
from plumbline_trainer.failures import ConfigError, DataError
from plumbline_trainer.rewards.pool import Call, VerifierPool
from plumbline_trainer.rewards.verifiers import build_verifier
from plumbline_trainer.tasks.rlvr_data import check_inputs

reasoning_gym = pytest.importorskip("reasoning_gym")


def rows(task="chain_sum", max_rows=None, **parameters):
    return reasoning_gym_rows(ReasoningGym(task=task, **parameters), DatasetColumns(), max_rows)


def score(row, completion, **options):
    return build_verifier(ReasoningGymScore(**options))(row.values["prompt"], completion, None, row.values)


def test_rows_follow_from_the_seed_and_say_where_they_come_from():
    first, again, other = rows(size=20), rows(size=20), rows(size=20, seed=1)
    assert first == again
    assert first[2].place == "reasoning-gym chain_sum:3"
    assert first[2].values["answer"] == str(eval(first[2].values["prompt"].partition(":")[2].rstrip("= ")))
    assert not {row.values["prompt"] for row in first} & {row.values["prompt"] for row in other}, (
        "the library makes problem i of seed s and problem i - 1 of seed s + 1 equal; ours must not"
    )


def test_fewer_rows_are_the_first_of_more():
    assert rows(size=20, max_rows=5) == rows(size=20)[:5]


def test_columns_have_the_names_of_the_data_set():
    [row] = reasoning_gym_rows(
        ReasoningGym(task="chain_sum", size=1), DatasetColumns(prompt="question", answer="solution"), None
    )
    assert {"question", "solution"} <= set(row.values)


@pytest.mark.parametrize("task", ["chain_sum", "countdown", "knights_knaves", "arc_agi", "family_relationships"])
def test_the_task_scores_its_own_answer_with_1_and_nonsense_with_less(task):
    """arc_agi among them: its problems hold tuples, which would not survive as JSON."""
    for row in rows(task, size=3):
        assert score(row, f" {row.values['answer']}\n") == 1
        assert score(row, "nonsense") < 1
        assert score(row, "nonsense", partialCredit=False) == 0


def test_problems_with_many_solutions_are_judged_by_their_rules():
    [row] = rows("countdown", size=1, seed=3)
    numbers = reasoning_gym.create_dataset("countdown", seed=row.values["reasoningGym"]["seed"], size=1)[0]["metadata"]
    solution = row.values["answer"]
    assert score(row, f"({solution})") == 1, "another way to write it"
    assert score(row, str(numbers["target"])) < 1, "the target alone uses none of the numbers"


def test_a_pattern_finds_the_answer_in_the_completion():
    [row] = rows(size=1)
    options = {"extract": r"<answer>(.*?)</answer>"}
    answer = row.values["answer"]
    assert score(row, f"so <answer>no</answer> <answer>{answer} </answer>", **options) == 1
    assert score(row, answer, **options) == 0


def test_rows_of_another_origin_are_an_error():
    first, second = rows(size=2)
    with pytest.raises(ValueError, match="the row has no reasoningGym"):
        build_verifier(ReasoningGymScore())("p", "1", None, {"prompt": "p"})
    with pytest.raises(ValueError, match="problem 1 of chain_sum is another one"):
        build_verifier(ReasoningGymScore())(first.values["prompt"], "1", None, second.values)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"task": "no_such_task"}, "the task no_such_task cannot be made: .*not registered"),
        ({"config": {"no_such_parameter": 1}}, "no_such_parameter"),
        ({"config": {"min_terms": 5, "max_terms": 2}}, "the task chain_sum cannot be made"),
        ({"config": {"seed": 3}}, r"config\.seed must not be set"),
    ],
)
def test_what_the_library_refuses_is_a_configuration_error(parameters, message):
    with pytest.raises(ConfigError, match=message):
        rows(**parameters)


def test_parameters_reach_the_task_and_its_scorer_in_the_pool():
    [row] = rows(size=1, config={"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1})
    assert len(row.values["prompt"].partition(":")[2].split()) == 4
    reward = Reward(name="solved", verifier={"reasoningGym": {}}, timeout_seconds=30)
    with VerifierPool([reward], {}, workers=1) as pool:
        calls = [Call("solved", row.values["prompt"], text, None, row.values) for text in (row.values["answer"], "x")]
        outcomes = pool.run(calls)
    assert [outcome.error for outcome in outcomes] == ["", ""]
    assert outcomes[0].value == 1 > outcomes[1].value


def manifest(model, folder, **data):
    generator = {"task": "chain_sum", "size": 30, "config": {"max_terms": 2, "max_digits": 1}}
    return {
        "apiVersion": "plumbline.dev/v1alpha1",
        "kind": "RLVRJob",
        "metadata": {"name": "sums"},
        "spec": {
            "runtimeRef": {"name": "torch-cpu"},
            "model": {"source": {"path": {"path": str(model)}}},
            "data": {
                "train": {"generator": {"reasoningGym": generator}},
                "evaluation": {"generator": {"reasoningGym": {**generator, "seed": 1}}},
                **data,
            },
            "objective": {"grpo": {}},
            "rewards": [{"name": "solved", "verifier": {"reasoningGym": {}}, "timeoutSeconds": 30}],
            "training": {"steps": 1, "batchSize": 8, "maxPromptTokens": 200, "maxCompletionTokens": 2},
            "output": {"path": str(folder / "output")},
        },
    }


def test_preflight_makes_and_scores_rows_without_any_file(llama_directory, tmp_path):
    config = config_of_manifest(manifest(llama_directory, tmp_path), "job.yaml")
    assert (config.paths.train, config.paths.evaluation) == (None, None)
    assert TrainerConfig.model_validate(config.to_document()) == config
    report = check_inputs(config)
    assert (report.training_rows, report.evaluation_rows) == (30, 30)


def test_rows_of_a_file_are_refused_by_the_scorer_by_line(llama_directory, tmp_path):
    file = tmp_path / "train.jsonl"
    file.write_text('{"prompt": "a", "answer": "b"}\n')
    config = config_of_manifest(
        manifest(llama_directory, tmp_path, train={"source": {"path": {"path": str(file)}}}), "job.yaml"
    )
    with pytest.raises(DataError, match=r"train\.jsonl:1: reward solved cannot be computed: .*no reasoningGym"):
        check_inputs(config)
