"""`python -m tests.api.crd_conformance`: the table of bad specs on the CRD server of a current Kubernetes.

The local control plane is Kubernetes 1.20, which drops CEL rules; the server of `cluster/crd_server.py` is a current
apiextensions-apiserver behind it. Each bad spec must be refused there with its field and, for rules, with the message
of the table; each good one accepted. Prints one line for each case that is not as it should be.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import yaml
from kubernetes.client import ApiException

from cluster.control_plane import ControlPlane
from cluster.crd_server import ModernCRDServer, build, cached
from tests.api.bad_spec_rows import BadSpec, BadUpdate
from tests.api.bad_specs import BAD_SPECS, BAD_UPDATES, GOOD_UPDATES
from tests.api.live_server import GROUP, VERSION, LiveServer, refusal
from tests.api.valid_specs import MODELS, Document, every_method, valid

CRDS = Path(__file__).resolve().parents[2] / "crds"
STRICT = {"field_validation": "Strict"}
"""What kubectl asks for: unknown fields are errors."""


def manifests() -> list[Document]:
    """The checked-in definitions."""
    return [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(CRDS.glob("*.yaml"))]


def expected_in(case: BadSpec) -> list[str]:
    """What the server's refusal must contain."""
    match case.judge:
        case "rule":
            return [case.path.removeprefix("metadata.name"), case.message]
        case "unknown":
            return [f'unknown field "{case.path}"']
        case _:
            return [case.path]


def failures(server: LiveServer) -> Iterator[str]:
    """One line for each case of the table that goes otherwise than it says."""
    for case in BAD_SPECS:
        yield from _bad_spec(server, case)
    accepted = {**every_method(), **{kind: valid(kind) for kind in MODELS}}
    for name, document in accepted.items():
        try:
            server.create(document, dry_run="All", **STRICT)
        except ApiException as error:
            yield f"{name}: refused: {refusal(error)}"
    for update in BAD_UPDATES:
        yield from _bad_update(server, update)
    for name, (kind, patch) in GOOD_UPDATES.items():
        stored = server.create(valid(kind))
        try:
            server.replace(stored, valid(kind, patch), dry_run="All", **STRICT)
        except ApiException as error:
            yield f"{name}: refused: {refusal(error)}"
        server.delete(stored)


def _bad_spec(server: LiveServer, case: BadSpec) -> Iterator[str]:
    try:
        server.create(valid(case.kind, case.patch), dry_run="All", **STRICT)
    except ApiException as error:
        said = refusal(error)
        missing = [text for text in expected_in(case) if text not in said]
        if case.judge == "code":
            yield f"{case.name}: refused, although only code can tell: {said}"
        elif missing:
            yield f"{case.name}: the server does not say {missing}, but: {said}"
    else:
        if case.judge != "code":
            yield f"{case.name}: accepted"


def _bad_update(server: LiveServer, case: BadUpdate) -> Iterator[str]:
    stored = server.create(valid(case.kind, case.before))
    try:
        server.replace(stored, valid(case.kind, {**case.before, **case.patch}), dry_run="All", **STRICT)
    except ApiException as error:
        said = refusal(error)
        yield from (
            f"{case.name}: not said: {text}; but: {said}" for text in (case.path, case.message) if text not in said
        )
    else:
        yield f"{case.name}: accepted"
    finally:
        server.delete(stored)


def main() -> int:
    if cached() is None:
        build()
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="plumbline-crds-") as directory,
        ControlPlane(directory, controller_manager=False) as plane,
        ModernCRDServer(plane) as modern,
    ):
        server = LiveServer(plane.kubeconfig)
        server.install(manifests())
        modern.serve(GROUP, VERSION)
        found = list(failures(server))
    for line in found:
        print(line)
    cases = len(BAD_SPECS) + len(BAD_UPDATES) + len(GOOD_UPDATES) + len(every_method()) + len(MODELS)
    seconds = time.monotonic() - started
    print(f"CRD server {modern.version}: {cases} cases, {len(found)} not as expected, {seconds:.0f} s")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
