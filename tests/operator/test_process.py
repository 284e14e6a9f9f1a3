"""The operator's process before it has a cluster: it waits, stops when asked, and says what it lacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.control_plane import free_port
from tests.operator.live_cluster import OperatorProcess, eventually

KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters: [{{name: gone, cluster: {{server: "http://127.0.0.1:{port}"}}}}]
users: [{{name: nobody, user: {{}}}}]
contexts: [{{name: gone, context: {{cluster: gone, user: nobody}}}}]
current-context: gone
"""


def alive(operator: OperatorProcess) -> bool:
    try:
        return operator.get(operator.health_port, "/healthz") == "ok\n"
    except OSError:
        return False


def test_without_an_api_server_it_lives_and_stops_when_asked(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(KUBECONFIG.format(port=free_port()))
    operator = OperatorProcess(str(kubeconfig), tmp_path / "log")
    operator.start()
    try:
        eventually(lambda: alive(operator) and "does not answer" in operator.log(), "waiting for the API server", 60)
        assert not operator.ready()
        assert operator.stop() == 0
    finally:
        if operator.alive:
            operator.kill()
    assert "Operator stops" in operator.log()
    assert "Traceback" not in operator.log()


@pytest.mark.parametrize("content", [None, "", "clusters: [", "apiVersion: v1\nkind: Config\n"])
def test_a_kubeconfig_that_cannot_be_used_is_told_in_one_line(tmp_path: Path, content: str | None) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    if content is not None:
        kubeconfig.write_text(content)
    operator = OperatorProcess(str(kubeconfig), tmp_path / "log")
    operator.start()
    assert operator.wait(60) == 1
    assert (
        operator.log()
        .splitlines()[-1]
        .startswith(f"plumbline-operator: cannot log in to a cluster: kubeconfig {kubeconfig}")
    )
    assert "Traceback" not in operator.log()
