"""Where files are read from."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from plumbline_api.base import Choice, Family

SUBDOMAIN_NAME = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
RELATIVE_PATH = r"^[^/.][^/]*(/[^/.][^/]*)*$"

ClaimName = Annotated[str, Field(min_length=1, max_length=253, pattern=SUBDOMAIN_NAME)]


class Source(Family):
    """Where files are read from."""


class VolumeSource(Source, key="volume"):
    """A file or folder on a PersistentVolumeClaim of the job's namespace."""

    claim_name: ClaimName = Field(description="Name of the PersistentVolumeClaim.")
    path: str | None = Field(
        None,
        min_length=1,
        max_length=1024,
        pattern=RELATIVE_PATH,
        description="Path below the volume's root, without a leading slash; default: the root.",
    )


class ConfigMapSource(Source, key="configMap"):
    """A file in a ConfigMap of the job's namespace: for data of up to 1 MiB."""

    name: str = Field(min_length=1, max_length=253, pattern=SUBDOMAIN_NAME, description="Name of the ConfigMap.")
    key: str = Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$", description="Key that holds the file.")


class UriSource(Source, key="uri"):
    """A location that fsspec can read, such as s3://bucket/key or https://host/file."""

    uri: str = Field(min_length=4, max_length=2048, pattern=r"^[a-z][a-z0-9+.-]*://.+$", description="The location.")


class PathSource(Source, key="path"):
    """A path in the container's own file system, for models baked into an image and for running the trainer by itself."""

    path: str = Field(min_length=1, max_length=4096, description="The path.")


class SourceChoice(Choice, family=Source):
    """Where the files are: exactly one kind of source."""
