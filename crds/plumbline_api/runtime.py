"""TrainerRuntime and ClusterTrainerRuntime: what the platform team provides to jobs."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from plumbline_api.base import ApiModel
from plumbline_api.job import ObjectMeta
from plumbline_api.locations import SUBDOMAIN_NAME
from plumbline_api.rules import Rule, field, has
from plumbline_api.running import Quantity
from plumbline_api.scheduling import LabelText, Toleration

Label = Annotated[str, Field(max_length=63)]

_VARIABLES_OF_THE_OPERATOR = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class SecretKeyReference(ApiModel):
    """A key of a Secret in the job's namespace."""

    name: str = Field(min_length=1, max_length=253, pattern=SUBDOMAIN_NAME, description="Name of the Secret.")
    key: str = Field(min_length=1, max_length=253, description="Key of the Secret.")
    optional: bool = Field(False, description="Whether the variable is left out when the Secret or key is missing.")


class EnvironmentVariable(ApiModel):
    """An environment variable of the trainer container."""

    rules: ClassVar = (
        Rule(has("value").differs(has("secretKeyRef")), "exactly one of value and secretKeyRef must be set"),
        Rule(
            ~(field("name").is_in(list(_VARIABLES_OF_THE_OPERATOR)) | field("name").starts_with("PLUMBLINE_")),
            f"name must not be one of {', '.join(_VARIABLES_OF_THE_OPERATOR)} or start with PLUMBLINE_: the operator sets these",
            path="name",
        ),
    )

    name: str = Field(
        min_length=1, max_length=253, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="Name of the variable."
    )
    value: str | None = Field(None, max_length=4096, description="Its value.")
    secret_key_ref: SecretKeyReference | None = Field(None, description="Secret key that holds its value.")


class RuntimeResources(ApiModel):
    """Resources of each pod where the job does not say."""

    gpus: int = Field(0, ge=0, le=16, description="GPUs of each pod.")
    gpu_resource_name: str = Field(
        "nvidia.com/gpu", min_length=1, max_length=253, description="Name of the device plugin's resource."
    )
    cpu: Quantity = Field("1", description="CPU of each pod.")
    memory: Quantity = Field("2Gi", description="Memory of each pod.")
    shared_memory: Quantity = Field("64Mi", description="Size of /dev/shm, taken from the pod's memory.")


class Prices(ApiModel):
    """What running costs, in any one currency."""

    currency: str | None = Field(
        None,
        max_length=16,
        pattern=r"^[^\s]*$",
        description="Name of the currency, such as EUR; it stands beside the cost in a job's status.",
    )
    gpu_hour: float = Field(0, ge=0, le=1e6, description="One GPU for one hour.")
    pod_hour: float = Field(0, ge=0, le=1e6, description="One pod for one hour, besides its GPUs.")


class TrainerRuntimeSpec(ApiModel):
    """Image and defaults of the pods."""

    image: str = Field(min_length=1, max_length=1024, pattern=r"^\S+$", description="Trainer image.")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        "IfNotPresent", description="When the image is pulled."
    )
    image_pull_secrets: list[Annotated[str, Field(min_length=1, max_length=253)]] = Field(
        default_factory=list, max_length=8, description="Secrets of the job's namespace with registry credentials."
    )
    env: list[EnvironmentVariable] = Field(
        default_factory=list,
        max_length=64,
        description="Environment of the trainer container.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    resources: RuntimeResources = Field(
        default_factory=RuntimeResources, description="Resources of each pod where the job does not say."
    )
    node_selector: dict[LabelText, Label] = Field(
        default_factory=dict, max_length=32, description="Labels that a node must have."
    )
    tolerations: list[Toleration] = Field(default_factory=list, max_length=32, description="Tolerations of the pods.")
    runtime_class_name: str | None = Field(
        None, min_length=1, max_length=253, pattern=SUBDOMAIN_NAME, description="RuntimeClass of the pods."
    )
    pod_labels: dict[LabelText, Label] = Field(
        default_factory=dict, max_length=32, description="Labels added to the pods."
    )
    pod_annotations: dict[LabelText, Annotated[str, Field(max_length=4096)]] = Field(
        default_factory=dict, max_length=32, description="Annotations added to the pods."
    )
    prices: Prices | None = Field(None, description="Prices from which the cost in a job's status is computed.")


class TrainerRuntime(ApiModel):
    """A runtime for the jobs of one namespace."""

    api_version: Literal["plumbline.dev/v1alpha1"] = Field(
        "plumbline.dev/v1alpha1", description="plumbline.dev/v1alpha1."
    )
    kind: Literal["TrainerRuntime"] = Field("TrainerRuntime", description="TrainerRuntime.")
    metadata: ObjectMeta = Field(description="Standard object metadata.")
    spec: TrainerRuntimeSpec = Field(description="Image and defaults of the pods.")


class ClusterTrainerRuntime(ApiModel):
    """A runtime for the jobs of all namespaces."""

    api_version: Literal["plumbline.dev/v1alpha1"] = Field(
        "plumbline.dev/v1alpha1", description="plumbline.dev/v1alpha1."
    )
    kind: Literal["ClusterTrainerRuntime"] = Field("ClusterTrainerRuntime", description="ClusterTrainerRuntime.")
    metadata: ObjectMeta = Field(description="Standard object metadata.")
    spec: TrainerRuntimeSpec = Field(description="Image and defaults of the pods.")
