"""Small parts of the cluster that need no cluster."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from cluster import backends, binaries, kind, network
from cluster.archive_image import Contents, image_id, write_archive
from cluster.control_plane import free_port
from cluster.crd_server import _upstream_version
from cluster.node import normalised
from cluster.private_apt import DEFAULT_MIRROR, system_mirror


@pytest.mark.parametrize(
    ("existing", "docker", "expected"),
    [("true", True, "existing"), ("", True, "kind"), ("", False, "bare")],
)
def test_choice_of_backend(monkeypatch: pytest.MonkeyPatch, existing: str, docker: bool, expected: str) -> None:
    monkeypatch.setenv("USE_EXISTING_CLUSTER", existing)
    monkeypatch.setattr(kind, "available", lambda: docker)
    assert backends.choose("auto") == expected
    assert backends.choose("bare") == "bare"


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("team/app:1", "docker.io/team/app:1"),
        ("localhost:5000/app", "localhost:5000/app:latest"),
        ("k8s.local/app:1", "k8s.local/app:1"),
    ],
)
def test_image_names_are_spelled_in_full(name: str, full: str) -> None:
    assert normalised(name) == full


def test_archive_is_reproducible_and_knows_its_id(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"#!/bin/sh\n")
    contents = Contents({"bin/program": program}, {"bin/link": "program"})
    first = write_archive(tmp_path / "1.tar", "k8s.local/x:1", contents, ["/bin/program"])
    second = write_archive(tmp_path / "2.tar", "k8s.local/x:1", contents, ["/bin/program"])
    assert first == second == image_id(tmp_path / "1.tar")
    with tarfile.open(tmp_path / "1.tar") as archive:
        assert "manifest.json" in archive.getnames()


def test_mirror_is_taken_from_either_kind_of_source_list(tmp_path: Path) -> None:
    assert system_mirror(tmp_path) == DEFAULT_MIRROR
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (parts / "other.list").write_text("deb https://example.com/apt stable main\n")
    (parts / "debian.sources").write_text("Types: deb\nURIs: http://mirror.example/debian\n")
    assert system_mirror(tmp_path) == "http://mirror.example/debian"
    (tmp_path / "sources.list").write_text("deb [signed-by=/x.gpg] http://other.example/debian/ bookworm main\n")
    assert system_mirror(tmp_path) == "http://other.example/debian"


def test_binaries_count_only_if_all_are_in_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("etcd", "kube-apiserver"):
        (tmp_path / name).touch(mode=0o755)
    assert binaries.find(binaries.CONTROL_PLANE) is None
    (tmp_path / "kube-controller-manager").touch(mode=0o755)
    found = binaries.find(binaries.CONTROL_PLANE)
    assert found is not None
    assert found.directory == tmp_path


def test_ports_are_not_given_out_twice() -> None:
    assert len({free_port() for _ in range(20)}) == 20


def test_nodes_have_separate_pod_ranges(tmp_path: Path) -> None:
    ranges = []
    for node in network.NODE_ADDRESSES:
        plugin = network.plugin_config(node, tmp_path)["plugins"][0]
        ranges.append(plugin["ipam"]["ranges"][0][0]["rangeStart"])
    assert len(set(ranges)) == len(ranges)


def test_library_version_becomes_kubernetes_version() -> None:
    assert _upstream_version("0.36.4-1") == "1.36.4"
