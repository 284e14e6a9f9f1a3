"""A CustomResourceDefinition server of a newer Kubernetes behind our control plane.

The 1.20 API server ignores validation rules (CEL) and selectable fields in a
CRD. Debian's development distribution carries the source of a current
apiextensions-apiserver as a library package. It is built with all it depends on
unpacked in a private tree, and the aggregator of the 1.20 server hands the
requests for CRDs and custom resources to it.

What this is: a current CRD server with a 1.20 core. What it is not: a current
Kubernetes.

    with ControlPlane(a) as plane, ModernCRDServer(plane) as server:
        ...create CRDs through plane.kubeconfig...
        server.serve("example.com", "v1")
"""

from __future__ import annotations

import base64
import os
import shutil
import time
from pathlib import Path
from typing import Any

from cluster.api import ApiError
from cluster.binaries import CONTROL_PLANE, find_or_build
from cluster.build import build_lock, remove_tree, run_go
from cluster.control_plane import ControlPlane, free_port, start_etcd, wait_until
from cluster.paths import cache_directory, say
from cluster.private_apt import PrivateApt

_SUITE = "sid"
_SOURCE = "golang-k8s-apiextensions-apiserver-dev"
_PACKAGE = "k8s.io/apiextensions-apiserver"
_BINARY = "apiextensions-apiserver"
_SERVICE = "crd-server"
_NAMESPACE = "kube-system"


def cached() -> Path | None:
    """Return the newest built server, None if there is none."""
    found = sorted(cache_directory().glob(f"crd-server-*/{_BINARY}"), key=lambda f: f.stat().st_mtime)
    return found[-1] if found else None


def build() -> Path:
    """Build the server at the version that Debian sid has now, unless it is cached."""
    work = cache_directory() / "crd-server.build"
    with build_lock(work):
        apt = PrivateApt(work / "apt", _SUITE)
        apt.update()
        version = _upstream_version(apt.version(_SOURCE))
        target = cache_directory() / f"crd-server-{version}"
        if not target.is_dir():
            _build(apt, work, version, target)
        remove_tree(work)
    return target / _BINARY


def _build(apt: PrivateApt, work: Path, version: str, target: Path) -> None:
    started = time.monotonic()
    say(f"building the CRD server {version} from Debian {_SUITE}, once (5 to 10 minutes)")
    tree = work / "tree"
    if not (work / "fetched").exists():
        say("fetching its dependencies (about 370 MB)")
        compiler = _newest_compiler(apt)
        apt.unpack([*apt.dependencies([_SOURCE], "golang-"), *compiler], tree)
        (work / "fetched").touch()
    goroot = max((tree / "usr/lib").glob("go-1.*"), key=lambda path: int(path.name.split(".")[1]))
    out = work / "out"
    out.mkdir(exist_ok=True)
    major, minor = version.split(".")[:2]
    stamp = "-X k8s.io/component-base/version."
    flags = f"-s -w {stamp}gitVersion=v{version} {stamp}gitMajor={major} {stamp}gitMinor={minor}"
    environment = dict(
        os.environ,
        GOROOT=str(goroot),
        GOPATH=str(tree / "usr/share/gocode"),
        GOCACHE=str(work / "gocache"),
        GO111MODULE="off",
        GOFLAGS="",
        GOTOOLCHAIN="local",
        CGO_ENABLED="0",
    )
    source = tree / "usr/share/gocode/src" / _PACKAGE
    say(f"compiling with {goroot.name}")
    arguments = ("build", "-trimpath", "-ldflags", flags, "-o", str(out / _BINARY), ".")
    run_go(goroot, arguments, source, environment)
    out.rename(target)
    say(f"  {_BINARY}: {time.monotonic() - started:.0f} s; {target}")


def _newest_compiler(apt: PrivateApt) -> list[str]:
    """Return the packages of the compiler that sid's `golang-go` stands for."""
    depends = apt.dependencies(["golang-go"], "golang-1.")
    return [name for name in depends if name.startswith("golang-1.")]


def _upstream_version(debian: str) -> str:
    """Turn Debian's version of the library (0.36.4-1) into Kubernetes' own (1.36.4)."""
    upstream = debian.split(":")[-1].split("-")[0].split("+")[0]
    return "1." + upstream.split(".", 1)[1]


class ModernCRDServer:
    """The newer server in front of which a started ControlPlane acts as aggregator."""

    def __init__(self, control_plane: ControlPlane, *, ready_timeout: float = 120) -> None:
        self.plane = control_plane
        self.ready_timeout = ready_timeout
        self.version = ""
        self._port = 0

    def __enter__(self) -> ModernCRDServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server with its own etcd and send CRD requests to it."""
        binary = cached()
        if binary is None:
            raise RuntimeError("not built: run `python3 -m cluster crd-server build`")
        self.version = binary.parent.name.removeprefix("crd-server-")
        self._port = free_port()
        self._start_processes(binary)
        self._create_service()
        self._register("apiextensions.k8s.io", "v1", priority=16700)
        wait_until(self._answers, "the CRD server", self.ready_timeout, self._check_alive)

    def stop(self) -> None:
        """Stop the server; the control plane keeps running without CRDs."""
        for name in (_SERVICE, f"{_SERVICE}-etcd"):
            self.plane.processes.stop(name, hard=True)
        shutil.rmtree(self.plane.directory / f"{_SERVICE}-etcd", ignore_errors=True)

    def serve(self, group: str, version: str) -> None:
        """Make a CRD's group and version reachable; needed once for each.

        The 1.20 server does this by itself only for CRDs that it stores itself.
        """
        self._register(group, version, priority=1000)
        path = f"/apis/{group}/{version}"
        wait_until(lambda: self._succeeds(path), path, self.ready_timeout, self._check_alive)

    def _start_processes(self, binary: Path) -> None:
        plane, pki = self.plane, self.plane.authority.directory
        etcd = find_or_build(CONTROL_PLANE)["etcd"]
        name = f"{_SERVICE}-etcd"
        storage = start_etcd(plane.processes, etcd, plane.directory / name, name)
        host = f"{_SERVICE}.{_NAMESPACE}.svc"
        certificate, key = plane.authority.sign(
            _SERVICE, f"/CN={host}", [f"DNS:{host}", "DNS:localhost", "IP:127.0.0.1"]
        )
        client = plane.authority.kubeconfig(f"{_SERVICE}-client", f"/O=system:masters/CN={_SERVICE}", plane.server)
        flags = {
            "etcd-servers": storage,
            "secure-port": self._port,
            "bind-address": "127.0.0.1",
            "tls-cert-file": certificate,
            "tls-private-key-file": key,
            "client-ca-file": pki / "ca.crt",
            "kubeconfig": client,
            "authentication-kubeconfig": client,
            "authorization-kubeconfig": client,
            # They watch APIs that a 1.20 core does not have.
            "disable-admission-plugins": "ValidatingAdmissionPolicy,MutatingAdmissionPolicy",
            "enable-priority-and-fairness": "false",
        }
        plane.processes.start(_SERVICE, [str(binary), *(f"--{k}={v}" for k, v in flags.items())])

    def _create_service(self) -> None:
        self.plane.api().create(
            f"/api/v1/namespaces/{_NAMESPACE}/services",
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": _SERVICE},
                "spec": {
                    "type": "ExternalName",
                    "externalName": "localhost",
                    "ports": [{"port": self._port}],
                },
            },
        )

    def _register(self, group: str, version: str, priority: int) -> None:
        """Point the aggregator at the server for one group and version."""
        authority = self.plane.authority.certificate.read_bytes()
        name = f"{version}.{group}"
        spec: dict[str, Any] = {
            "group": group,
            "version": version,
            "groupPriorityMinimum": priority,
            "versionPriority": 15,
            "caBundle": base64.b64encode(authority).decode(),
            "service": {"namespace": _NAMESPACE, "name": _SERVICE, "port": self._port},
        }
        api, path = self.plane.api(), "/apis/apiregistration.k8s.io/v1/apiservices"
        body = {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": name},
            "spec": spec,
        }
        if not api.create(path, body):
            api.patch(f"{path}/{name}", {"spec": spec})

    def _answers(self) -> bool:
        return self._succeeds("/apis/apiextensions.k8s.io/v1/customresourcedefinitions")

    def _succeeds(self, path: str) -> bool:
        try:
            self.plane.api().get(path)
        except (ApiError, OSError):
            return False
        return True

    def _check_alive(self) -> None:
        if not self.plane.processes.alive(_SERVICE):
            tail = self.plane.processes.log_tail(_SERVICE)
            raise RuntimeError(f"the CRD server ended while starting:\n{tail}")
