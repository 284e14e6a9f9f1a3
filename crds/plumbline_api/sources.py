"""Where models and data come from and where results go."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from plumbline_api.base import ApiModel
from plumbline_api.locations import RELATIVE_PATH, ClaimName, SourceChoice
from plumbline_api.methods.prompt_generator import PromptGenerator, PromptGeneratorChoice
from plumbline_api.methods.verifiers.choice import VerifierChoice
from plumbline_api.rules import Rule, field, has


class DatasetColumns(ApiModel):
    """Names of the columns, where they differ from the defaults."""

    prompt: str = Field("prompt", min_length=1, max_length=128, description="Text or list of chat messages.")
    chosen: str = Field("chosen", min_length=1, max_length=128, description="Preferred completion (pairs).")
    rejected: str = Field("rejected", min_length=1, max_length=128, description="Other completion (pairs).")
    completion: str = Field(
        "completion", min_length=1, max_length=128, description="Completion (unpaired and supervised)."
    )
    label: str = Field(
        "label", min_length=1, max_length=128, description="true if the completion is desirable (unpaired)."
    )
    answer: str = Field("answer", min_length=1, max_length=128, description="Reference answer (RLVR).")
    completions: str = Field(
        "completions", min_length=1, max_length=128, description="List of completions of the prompt (lists)."
    )
    scores: str = Field(
        "scores",
        min_length=1,
        max_length=128,
        description="List of numbers, one a completion; higher is better (lists).",
    )
    safe: str = Field(
        "safe", min_length=1, max_length=128, description="List of true or false, one a completion (lists)."
    )
    chosen_score: str = Field(
        "score_chosen", min_length=1, max_length=128, description="Score of the preferred completion (pairs)."
    )
    rejected_score: str = Field(
        "score_rejected", min_length=1, max_length=128, description="Score of the other completion (pairs)."
    )
    prefix: str = Field(
        "prefix",
        min_length=1,
        max_length=128,
        description="Beginning of the assistant's answer that both completions continue (pairs of steps).",
    )
    final: str = Field(
        "final",
        min_length=1,
        max_length=128,
        description="Whether the completions end the answer. Default: those of a row with a prefix are steps after which it goes on, all others end it (pairs of steps).",
    )


_ONE_FILE = Rule(
    has("source.volume.path").when(has("source.volume")),
    "source.volume.path must be set: a data set is one file of the volume",
    path="source.volume",
)


class RowSet(ApiModel):
    """How the rows of one data set are written."""

    format: Literal["auto", "jsonl", "parquet"] = Field("auto", description="auto goes by the file's ending.")
    columns: DatasetColumns = Field(
        default_factory=DatasetColumns, description="Names of the columns, where they differ from the defaults."
    )
    max_rows: int | None = Field(None, ge=1, le=1_000_000_000, description="Use only the first so many rows.")


class Dataset(RowSet):
    """One data set: where it is and how it is written."""

    rules: ClassVar = (_ONE_FILE,)

    source: SourceChoice = Field(description="Where the file is.")


class PromptSet(RowSet):
    """One set of prompts: a file of rows, or what makes them."""

    rules: ClassVar = (
        Rule(has("source").differs(has("generator")), "exactly one of source and generator must be set"),
        _ONE_FILE,
    )

    source: SourceChoice | None = Field(None, description="Where the file is.")
    generator: PromptGeneratorChoice | None = Field(
        None, description="What makes the prompts, in place of a file: exactly one generator."
    )


class Data(ApiModel):
    """The rows that a job learns from and is measured on: what both kinds of job share."""

    train: RowSet | None = Field(None, description="Rows to learn from.")
    evaluation: RowSet | None = Field(None, description="Held-out rows; without them nothing is evaluated.")
    overlong: Literal["refuse", "drop", "truncate"] = Field(
        "refuse",
        description="What happens to a row whose prompt or completion is longer than training.maxPromptTokens or training.maxCompletionTokens: the job is refused naming the row, the row is dropped and counted, or the prompt loses its beginning and the completion its end.",
    )
    shuffle: bool = Field(True, description="Order rows anew in every epoch, by seed; false keeps the file's order.")


_HELD_OUT = "Held-out rows; without them nothing is evaluated."


class FileData(Data):
    """Rows that stand in files."""

    train: Dataset | None = Field(None, description="Rows to learn from.")
    evaluation: Dataset | None = Field(None, description=_HELD_OUT)


class PromptData(Data):
    """The prompts that the job learns from and is measured on."""

    rules: ClassVar = tuple(
        Rule(
            field(f"train.generator.{key}.seed")
            .differs(field(f"evaluation.generator.{key}.seed"))
            .when(has(f"train.generator.{key}") & has(f"evaluation.generator.{key}")),
            f"evaluation.generator.{key}.seed must differ from train.generator.{key}.seed: the held-out prompts would be those learned from",
            path="evaluation",
        )
        for key in [member.member_key for member in PromptGenerator.members()]
    )

    train: PromptSet = Field(description="Rows to learn from.")
    evaluation: PromptSet | None = Field(None, description=_HELD_OUT)


_A_MODEL_IS_A_DIRECTORY = Rule(
    ~has("source.configMap"),
    "source.configMap must not be set: a model is a directory, and a ConfigMap cannot hold one",
    path="source.configMap",
)


class Model(ApiModel):
    """The language model that is trained: a Hugging Face directory with weights (safetensors), tokenizer and chat template."""

    rules: ClassVar = (_A_MODEL_IS_A_DIRECTORY,)

    source: SourceChoice = Field(description="Where the model's directory is.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Type of weights and computation; auto is bfloat16 where the hardware has it, else float32."
    )
    chat_template: str | None = Field(
        None, min_length=1, max_length=16384, description="Jinja chat template that replaces the tokenizer's own."
    )


class Reference(ApiModel):
    """The model that the policy is compared with; default: the model as it was at the start."""

    rules: ClassVar[tuple[Rule, ...]] = (_A_MODEL_IS_A_DIRECTORY,)

    source: SourceChoice | None = Field(
        None, description="Where the reference model's directory is; must be set in a PreferenceJob."
    )


class FrozenReference(Reference):
    """The frozen model that the policy is compared with; default: the model as it was at the start."""

    source: SourceChoice = Field(description="Where the reference model's directory is.")


class ReferenceUpdate(ApiModel):
    """How a reference follows the policy: a second copy of what is trained, mixed with it every so many steps."""

    mix: float = Field(
        0.1,
        gt=0,
        le=1,
        description="Share of the policy in the parameters of the new reference; 1 copies the policy. In bfloat16 a small share of a small difference is rounded away: take a larger one, less often.",
    )
    every_steps: int = Field(
        10, ge=1, le=1_000_000, description="Optimizer steps between two updates of the reference."
    )


class PolicyReference(Reference):
    """The model that the policy is compared with, frozen or slowly following it; default: the model as it was at the start, frozen."""

    rules: ClassVar = (
        *Reference.rules,
        Rule(has("source") | has("update"), "source or update must be set: without both leave out reference"),
    )

    source: SourceChoice | None = Field(
        None, description="Where the reference model's directory is; default: the model as it was at the start."
    )
    update: ReferenceUpdate | None = Field(
        None,
        description="How the reference follows the policy (Xu et al. 2024, arXiv:2404.10719, for PPO); default: it is frozen.",
    )


class OutputVolume(ApiModel):
    """A folder on a PersistentVolumeClaim that the job writes to."""

    claim_name: ClaimName = Field(description="Name of the PersistentVolumeClaim.")
    path: str | None = Field(
        None,
        min_length=1,
        max_length=1024,
        pattern=RELATIVE_PATH,
        description="Folder below the volume's root; default: the job's name.",
    )


class Output(ApiModel):
    """Where the trained model is written."""

    rules: ClassVar = (
        Rule(has("volume").differs(has("path")), "exactly one of volume and path must be set"),
        Rule(
            ~has("path"),
            "path must not be set in a cluster, where it is gone with the pod; set volume",
            path="path",
            only_in_cluster=True,
        ),
    )

    volume: OutputVolume | None = Field(None, description="Volume and folder for the model. Needed in a cluster.")
    path: str | None = Field(
        None, min_length=1, max_length=4096, description="Local folder, when running the trainer by itself."
    )


class Reward(ApiModel):
    """One component of the reward: a verifier with a name and a weight."""

    name: str = Field(
        min_length=1,
        max_length=40,
        pattern=r"^[a-z]([a-z0-9_]*[a-z0-9])?$",
        description="Name of the component, as it appears in metrics and status.",
    )
    weight: float = Field(1.0, ge=-1000, le=1000, description="Factor of this component in the total reward.")
    verifier: VerifierChoice = Field(description="What scores the completion.")
    timeout_seconds: float = Field(
        5.0,
        gt=0,
        le=3600,
        description="Hard limit for scoring one completion; beyond it the process is killed and the call counts as an error.",
    )
    max_error_fraction: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Largest share of calls of one step that may raise, return no finite number or run out of time; above it the job fails with reason RewardFunctionError.",
    )
    error_value: float | None = Field(
        None,
        ge=-1000,
        le=1000,
        description="Reward of a call that failed. Default: the completion is left out of the loss and of its group's baseline.",
    )
