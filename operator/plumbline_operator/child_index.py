"""Names of the pods and Services that jobs have: what a reconciliation reads by name instead of asking for a list.

A list with a label selector costs the API server a look at every object of the namespace, so a thousand jobs would cost
a million looks. The watch streams fill the index, and no job is looked at before each has told what it begins with. It
holds names and nothing else. A name that is gone is found to be gone when it is read, and a child of the present
attempt that no stream has told of yet is read by the name that it must have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from plumbline_operator.resources import JOB_NAME_LABEL, PODS, SERVICES, Resource

INDEXED = (PODS, SERVICES)


class ChildIndex:
    """Names by resource, namespace and job."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, str, str], set[str]] = {}

    def add(self, resource: Resource, documents: Iterable[Mapping[str, Any]]) -> None:
        """Objects that exist; those that are no children of a job are passed over."""
        for document in documents:
            key = _key(resource, document["metadata"])
            if key is not None:
                self._names.setdefault(key, set()).add(document["metadata"]["name"])

    def remove(self, resource: Resource, document: Mapping[str, Any]) -> None:
        """An object that is gone."""
        metadata = document["metadata"]
        key = _key(resource, metadata)
        if key is not None:
            self.discard(resource, key[1], key[2], metadata["name"])

    def discard(self, resource: Resource, namespace: str, job: str, name: str) -> None:
        """A name under which there is nothing."""
        names = self._names.get((resource.plural, namespace, job))
        if names is not None:
            names.discard(name)
            if not names:
                del self._names[resource.plural, namespace, job]

    def unlisted(self, resource: Resource, present: Iterable[Mapping[str, Any]]) -> set[tuple[str, str]]:
        """Namespace and job of the known names that are not among all objects that exist.

        They stay known: an object may have been created after the list, and only a live read tells the two apart.
        """
        listed: dict[tuple[str, str, str], set[str]] = {}
        for document in present:
            key = _key(resource, document["metadata"])
            if key is not None:
                listed.setdefault(key, set()).add(document["metadata"]["name"])
        known = ((key, names) for key, names in self._names.items() if key[0] == resource.plural)
        return {key[1:] for key, names in known if not names <= listed.get(key, set())}

    def forget(self, namespace: str, job: str) -> None:
        """All names of a job that is gone."""
        for resource in INDEXED:
            self._names.pop((resource.plural, namespace, job), None)

    def names(self, resource: Resource, namespace: str, job: str) -> frozenset[str]:
        """Names of the children that a job has, as far as is known."""
        return frozenset(self._names.get((resource.plural, namespace, job), ()))


def _key(resource: Resource, metadata: Mapping[str, Any]) -> tuple[str, str, str] | None:
    job = (metadata.get("labels") or {}).get(JOB_NAME_LABEL)
    return (resource.plural, metadata["namespace"], job) if resource in INDEXED and job else None
