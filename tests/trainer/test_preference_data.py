"""From files to sequences: what the spec's data block makes of the rows, and the counts that people see."""

from __future__ import annotations

from typing import Any

import pytest

from plumbline_api.contract import TrainerConfig
from plumbline_trainer.data.batches import TokenSequence
from plumbline_trainer.failures import ConfigError, DataError
from plumbline_trainer.stopping import StopRequest
from plumbline_trainer.tasks.build import build_task
from plumbline_trainer.tasks.data_sets import load_data_sets, open_renderer
from plumbline_trainer.tasks.preference_data import PreferenceData, check_inputs, load_data, spec_of

PAIR = {"prompt": "1+1=?", "chosen": "it is 2", "rejected": "it is three"}
LIST = {"prompt": "1+1=?", "completions": ["2", "3", "two"], "scores": [1.0, 0.0, 0.6]}


@pytest.fixture
def load(preference_config: Any, write_rows: Any) -> Any:
    """`load(rows, objective, held_out=None, **data) -> (training set, held-out set)`."""

    def read(
        rows: list[dict[str, Any]], objective: str = "dpo", held_out: list[dict[str, Any]] | None = None, **data: Any
    ) -> tuple[PreferenceData, PreferenceData | None]:
        evaluation = None if held_out is None else write_rows(held_out, "held-out.jsonl")
        return load_all(preference_config({objective: {}}, write_rows(rows), evaluation, data=data))

    return read


def load_all(config: TrainerConfig) -> tuple[PreferenceData, PreferenceData | None]:
    spec, renderer = spec_of(config), open_renderer(config)
    return load_data_sets(config, lambda sources, **options: load_data(sources, spec, renderer, **options))


@pytest.fixture
def mixture(preference_config: Any, write_rows: Any) -> Any:
    """`mixture({name: (rows, weight)}) -> configuration` of a job with several sources."""

    def make(sources: dict[str, tuple[list[dict[str, Any]], float]]) -> TrainerConfig:
        config = preference_config({"dpo": {}}, "unused")
        files = {name: write_rows(rows, f"{name}.jsonl") for name, (rows, _) in sources.items()}
        document = config.to_document()
        document["preference"]["data"].pop("train")
        document["preference"]["data"]["mixture"] = [
            {"name": name, "weight": weight, "source": {"path": {"path": files[name]}}}
            for name, (_, weight) in sources.items()
        ]
        document["paths"].pop("train")
        document["paths"]["mixture"] = files
        return TrainerConfig.model_validate(document)

    return make


def text(renderer_ids: Any, tokenizer: Any) -> str:
    return "".join(tokenizer.convert_ids_to_tokens(list(renderer_ids)))


def test_a_step_continues_the_open_turn_of_the_assistant_and_nothing_ends_it(load: Any, chat_tokenizer: Any) -> None:
    step = PAIR | {"prefix": "think. ", "chosen": "1 + 1 = 2. ", "rejected": "1 + 1 = 3. "}
    train, _ = load([step, step | {"final": True}, PAIR])
    (going_on, _), (ending, _), (whole, _) = train.sequences
    assert text(going_on.prompt_ids, chat_tokenizer) == "<bos><user>1+1=?\n<assistant>think. "
    assert text(going_on.completion_ids, chat_tokenizer) == "1 + 1 = 2. "
    assert ending.prompt_ids == going_on.prompt_ids
    assert text(ending.completion_ids, chat_tokenizer) == "1 + 1 = 2. <eos>"
    assert text(whole.prompt_ids, chat_tokenizer) == "<bos><user>1+1=?\n<assistant>"


def test_lists_have_a_sequence_for_each_completion_and_share_their_prompt(load: Any) -> None:
    train, _ = load([LIST, LIST | {"completions": ["2", "3"], "scores": [1, 0]}], "rrhf")
    assert [len(row) for row in train.sequences] == [3, 2]
    assert len(train.flat_sequences()) == 5
    assert all(sequence.prompt_ids is row[0].prompt_ids for row in train.sequences for sequence in row)


def test_lists_become_pairs_on_both_data_sets(load: Any) -> None:
    train, held_out = load([LIST, LIST | {"scores": [1, 1, 1]}], held_out=[LIST], pairing={"bestWorst": {}})
    assert [(row.chosen, row.rejected) for row in train.rows] == [("2", "3")]
    assert [row.place for row in held_out.rows] == ["held-out.jsonl:1 (completions 0 and 1)"]
    assert train.status.to_document() == {
        "rowsRead": 2,
        "rowsUsed": 1,
        "dropped": [{"reason": "NoPair", "rows": 1}],
        "changed": [],
    }


def test_every_reason_is_counted_and_told(load: Any) -> None:
    rows = [
        PAIR,
        PAIR,
        PAIR | {"rejected": "it is 2"},
        PAIR | {"rejected": "x" * 15, "chosen": "y"},
        PAIR | {"prompt": "?"},
        PAIR | {"prompt": "1" * 31},
    ]
    filters = {"dropDuplicates": True, "dropEqualTexts": True, "minPromptTokens": 6, "maxLengthRatio": 3}
    train, _ = load(rows, filters=filters, overlong="drop")
    assert train.status.to_document() == {
        "rowsRead": 6,
        "rowsUsed": 1,
        "dropped": [
            {"reason": "Duplicate", "rows": 1},
            {"reason": "EqualTexts", "rows": 1},
            {"reason": "LengthRatio", "rows": 1},
            {"reason": "Overlong", "rows": 1},
            {"reason": "ShortPrompt", "rows": 1},
        ],
        "changed": [],
    }
    assert "data.train: 1 of 6 rows were left out: their completions are equal" in train.warnings
    assert len(train.warnings) == 5


def test_a_length_instruction_is_for_training_rows_alone(load: Any) -> None:
    train, held_out = load(
        [PAIR] * 20, held_out=[PAIR], lengthInstruction={"share": 1, "decidingShare": 1, "text": "{limit} words."}
    )
    assert train.rows[0].prompt in ("3 words.\n\n1+1=?", "4 words.\n\n1+1=?")
    assert {row.reason: row.rows for row in train.status.changed} == {"LengthInstruction": 20}
    assert held_out.rows[0].prompt == "1+1=?"


def test_sources_stand_one_after_the_other_with_names_in_their_places(mixture: Any) -> None:
    train, _ = load_all(mixture({"a": ([PAIR] * 3, 1.0), "b": ([PAIR] * 2, 3.0)}))
    assert [row.place for row in train.rows] == [
        "a/a.jsonl:1",
        "a/a.jsonl:2",
        "a/a.jsonl:3",
        "b/b.jsonl:1",
        "b/b.jsonl:2",
    ]
    assert [(part.name, part.rows, part.weight) for part in train.parts] == [("a", 3, 1.0), ("b", 2, 3.0)]
    assert (train.status.rows_read, train.status.rows_used) == (5, 5)
    other, _ = load_all(mixture({"a": ([PAIR] * 3, 1.0), "b": ([PAIR], 3.0)}))
    assert train.digest != other.digest


def test_a_job_on_a_mixture_draws_its_rows_by_weight(mixture: Any, alone: Any) -> None:
    sources = {name: [PAIR | {"prompt": f"{index}+1=?"} for index in range(6)] for name in ("a", "b")}
    task = build_task(mixture({"a": (sources["a"], 1.0), "b": (sources["b"], 3.0)}), alone, StopRequest())
    epoch = [task.train.data.rows[row].place.split("/")[0] for step in range(3) for row in task.order.rows_of(step)]
    assert sorted(epoch) == ["a"] * 3 + ["b"] * 9
    assert task.data_status is not None
    assert (task.data_status.rows_read, task.data_status.rows_used) == (12, 12)
    assert len(task.prepare(0).micro_batches) > 0


def test_a_bad_row_of_a_mixture_is_named_with_its_source(mixture: Any) -> None:
    config = mixture({"a": ([PAIR], 1.0), "b": ([PAIR, {"prompt": "p"}], 1.0)})
    with pytest.raises(DataError, match=r"^b/b\.jsonl:2: chosen is missing"):
        check_inputs(config)


def test_a_weight_that_gives_no_row_and_a_source_without_a_path_are_refused(mixture: Any) -> None:
    with pytest.raises(DataError, match=r"data\.mixture: a gets no row of an epoch of 4"):
        load_all(mixture({"a": ([PAIR] * 2, 0.001), "b": ([PAIR] * 2, 1.0)}))
    config = mixture({"a": ([PAIR], 1.0), "b": ([PAIR], 1.0)})
    paths = config.paths.model_copy(update={"mixture": {"a": config.paths.mixture["a"]}})
    with pytest.raises(ConfigError, match=r"paths\.mixture\.b must be set"):
        check_inputs(config.model_copy(update={"paths": paths}))


@pytest.mark.parametrize(
    ("objective", "rows", "data", "message"),
    [
        ("odpo", [PAIR], {}, r"train\.jsonl:1: score_chosen is missing; objective\.odpo needs it"),
        (
            "odpo",
            [PAIR | {"score_chosen": 1, "score_rejected": 2}],
            {},
            r"train\.jsonl:1: score_chosen is below score_rejected",
        ),
        ("stepDpo", [PAIR], {}, r"train\.jsonl:1: prefix is missing; objective\.stepDpo needs it"),
        ("rrhf", [LIST | {"scores": None}], {}, r"train\.jsonl:1: scores is missing; objective\.rrhf needs it"),
        (
            "dpo",
            [LIST | {"scores": None}],
            {"pairing": {"allPairs": {}}},
            r"train\.jsonl:1: scores is missing; data\.pairing\.allPairs needs it",
        ),
        (
            "dpo",
            [LIST],
            {"pairing": {"safeAndShorter": {}}},
            r"train\.jsonl:1: safe is missing; data\.pairing\.safeAndShorter needs it",
        ),
        (
            "dpo",
            [LIST | {"scores": [1, 1, 1]}],
            {"pairing": {"bestWorst": {}}},
            r"data\.train: no row is left, all were left out: 1 because no two of their completions make a pair",
        ),
        ("dpo", [PAIR], {"filters": {"minPromptTokens": 99}}, r"no row is left.*minPromptTokens"),
    ],
)
def test_preflight_refuses_rows_that_lack_what_the_job_needs(
    preference_config: Any, write_rows: Any, objective: str, rows: list[Any], data: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        check_inputs(preference_config({objective: {}}, write_rows(rows), data=data))


def test_a_term_of_a_sum_that_needs_scores_is_seen_too(preference_config: Any, write_rows: Any) -> None:
    terms = [{"objective": {"dpo": {}}}, {"objective": {"odpo": {}}}]
    config = preference_config(
        {"mixture": {"terms": terms}}, write_rows([PAIR]), data={"lengthInstruction": {"share": 1}}
    )
    with pytest.raises(ConfigError, match=r"data\.lengthInstruction must not be set.*objective\.odpo needs them"):
        check_inputs(config)


def test_scores_that_are_taken_for_probabilities_must_be_such(preference_config: Any, write_rows: Any) -> None:
    rows = [LIST, LIST | {"scores": [2.0, 0.0, 1.0]}]
    with pytest.raises(DataError, match=r"train\.jsonl:2: the score 2 is not between 0 and 1"):
        check_inputs(preference_config({"rewardRegressionCompatible": {}}, write_rows(rows)))


def test_two_readings_are_equal(load: Any) -> None:
    first, second = (load([LIST] * 5, pairing={"gapSampled": {"pairsPerPrompt": 3}})[0] for _ in range(2))
    assert first.rows == second.rows
    assert first.sequences == second.sequences
    assert isinstance(first.sequences[0][0], TokenSequence)
