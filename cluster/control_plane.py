"""A real Kubernetes control plane as a library: etcd, API server, controller manager.

It needs no root and no container runtime, so tests of the operator can start one
each: objects are stored, admitted, owned and garbage collected as in any
cluster, but no pod runs.

    with ControlPlane(tmp_path) as plane:
        subprocess.run(["kubectl", "--kubeconfig", plane.kubeconfig, "get", "ns"])

etcd speaks plain HTTP on loopback, as in other test environments: whoever can
log in to this machine can reach it. Keep nothing of value in it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cluster.api import Api, ApiError
from cluster.binaries import CONTROL_PLANE, Binaries, find_or_build
from cluster.pki import Authority
from cluster.processes import Processes

_SERVICE_RANGE = "10.96.0.0/16"
_FIRST_SERVICE = "10.96.0.1"


@dataclass
class Serving:
    """Where a control plane listens, and for whom its processes live."""

    address: str = "127.0.0.1"
    port: int | None = None  # None: any free one
    detached: bool = False  # True: the processes outlive this one


@dataclass
class Extra:
    """Additional command line flags per component."""

    apiserver: list[str] = field(default_factory=list)
    controller_manager: list[str] = field(default_factory=list)
    scheduler: list[str] = field(default_factory=list)


class ControlPlane:
    """etcd + kube-apiserver, and on request the controller manager and scheduler."""

    def __init__(
        self,
        directory: Path | str,
        *,
        controller_manager: bool = True,
        scheduler: bool = False,
        apiserver_flags: list[str] | None = None,
        serving: Serving | None = None,
        extra: Extra | None = None,
        ready_timeout: float = 120,
    ) -> None:
        self.directory = Path(directory).absolute()
        self.controller_manager = controller_manager
        self.scheduler = scheduler
        self.serving = serving or Serving()
        self.extra = extra or Extra()
        self.extra.apiserver += apiserver_flags or []
        self.ready_timeout = ready_timeout
        self.authority = Authority(self.directory / "pki")
        self.processes = Processes(self.directory, detached=self.serving.detached)
        self.server = ""
        self._binaries: Binaries | None = None

    @property
    def kubeconfig(self) -> str:
        """The path of the administrator's kubeconfig."""
        return str(self.directory / "kubeconfig")

    def __enter__(self) -> ControlPlane:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything and return when the API and the controllers answer."""
        names = CONTROL_PLANE + (("kube-scheduler",) if self.scheduler else ())
        self._binaries = find_or_build(names)
        with self._stopped_on_failure():
            self._prepare()
            self._start_storage_and_api()
            wait_until(self._api_ready, "the API server", self.ready_timeout, self._check_alive)
            if self.controller_manager:
                self._start_controller_manager()
            if self.scheduler:
                self._start_scheduler()
            if self.controller_manager:
                wait_until(self._controllers_ready, "the controllers", self.ready_timeout, self._check_alive)

    def stop(self) -> None:
        """Stop all processes and delete the stored objects; logs and keys stay."""
        # Nothing is worth a polite shutdown: the API server alone would take seconds.
        self.processes.stop_all(grace=0)
        shutil.rmtree(self.directory / "etcd", ignore_errors=True)

    def api(self) -> Api:
        """Return a client with the administrator's certificate."""
        pki = self.authority.directory
        return Api(self.server, self.authority.certificate, pki / "admin.crt", pki / "admin.key")

    def client_kubeconfig(self, name: str, subject: str) -> str:
        """Make a kubeconfig for another identity, e.g. subject `/O=team-a/CN=alice`."""
        return str(self.authority.kubeconfig(name, subject, self.server))

    def _prepare(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.directory / "etcd", ignore_errors=True)
        address = self.serving.address
        self._port = self.serving.port or free_port()
        self.server = f"https://{address}:{self._port}"
        authority = self.authority
        authority.create()
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        authority.sign(
            "apiserver",
            "/CN=kube-apiserver",
            ["DNS:localhost", f"IP:{address}", "IP:127.0.0.1", f"IP:{_FIRST_SERVICE}"]
            + [f"DNS:{name}" for name in names],
        )
        authority.sign("front-proxy", "/CN=front-proxy-client")
        authority.sign("apiserver-kubelet", "/O=system:masters/CN=kube-apiserver-kubelet-client")
        authority.kubeconfig("admin", "/O=system:masters/CN=admin", self.server, Path(self.kubeconfig))

    def _start_storage_and_api(self) -> None:
        assert self._binaries is not None
        pki = self.authority.directory
        storage = start_etcd(self.processes, self._binaries["etcd"], self.directory / "etcd")
        flags: dict[str, object] = {
            "etcd-servers": storage,
            "bind-address": self.serving.address,
            "advertise-address": self.serving.address,
            "secure-port": self._port,
            "tls-cert-file": pki / "apiserver.crt",
            "tls-private-key-file": pki / "apiserver.key",
            "client-ca-file": pki / "ca.crt",
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": pki / "sa.pub",
            "service-account-signing-key-file": pki / "sa.key",
            "service-cluster-ip-range": _SERVICE_RANGE,
            "kubelet-client-certificate": pki / "apiserver-kubelet.crt",
            "kubelet-client-key": pki / "apiserver-kubelet.key",
            "kubelet-certificate-authority": pki / "ca.crt",
            "kubelet-preferred-address-types": "InternalIP,Hostname",
            "requestheader-client-ca-file": pki / "ca.crt",
            "requestheader-allowed-names": "front-proxy-client",
            "requestheader-extra-headers-prefix": "X-Remote-Extra-",
            "requestheader-group-headers": "X-Remote-Group",
            "requestheader-username-headers": "X-Remote-User",
            "proxy-client-cert-file": pki / "front-proxy.crt",
            "proxy-client-key-file": pki / "front-proxy.key",
            "allow-privileged": "true",
        }
        self._run("kube-apiserver", flags, self.extra.apiserver)

    def _start_controller_manager(self) -> None:
        pki = self.authority.directory
        name = "kube-controller-manager"
        flags: dict[str, object] = {
            "kubeconfig": self.authority.kubeconfig(name, f"/CN=system:{name}", self.server),
            "use-service-account-credentials": "true",
            "service-account-private-key-file": pki / "sa.key",
            "root-ca-file": pki / "ca.crt",
            "cluster-signing-cert-file": pki / "ca.crt",
            "cluster-signing-key-file": pki / "ca.key",
            # At the default of 20 requests a second, its own start takes 3 s longer.
            "kube-api-qps": 200,
            "kube-api-burst": 400,
            **self._component_ports(),
        }
        # umask 0: the host-path provisioner makes volumes with mode 0777, and they
        # must be writable for pods that do not run as root.
        self._run(name, flags, self.extra.controller_manager, umask=0)

    def _start_scheduler(self) -> None:
        name = "kube-scheduler"
        kubeconfig = self.authority.kubeconfig(name, f"/CN=system:{name}", self.server)
        flags = {"kubeconfig": kubeconfig, **self._component_ports()}
        self._run(name, flags, self.extra.scheduler)

    def _component_ports(self) -> dict[str, object]:
        assert self._binaries is not None
        flags: dict[str, object] = {
            "bind-address": "127.0.0.1",
            "secure-port": free_port(),
            # Alone here: waiting for a lease would only cost seconds at every start.
            "leader-elect": "false",
        }
        if self._binaries.minor_version() < 24:
            flags["port"] = 0  # the old unprotected port
        return flags

    def _run(self, name: str, flags: Mapping[str, object], more: list[str], umask: int = 0o022) -> None:
        assert self._binaries is not None
        command = [self._binaries[name], *(f"--{key}={value}" for key, value in flags.items())]
        self.processes.start(name, command + more, umask=umask)

    def _api_ready(self) -> bool:
        return self.api().ready()

    def _controllers_ready(self) -> bool:
        # The last thing a new cluster gets before a pod can be created in it.
        try:
            account = self.api().get("/api/v1/namespaces/default/serviceaccounts/default")
        except (ApiError, OSError):
            return False
        # Before 1.24 an account without its token secret cannot be used either.
        assert self._binaries is not None
        return bool(account.get("secrets")) or self._binaries.minor_version() >= 24

    def _check_alive(self) -> None:
        for record in self.processes.records():
            if not record.alive(self.directory):
                tail = self.processes.log_tail(record.name)
                raise RuntimeError(f"{record.name} ended while starting:\n{tail}")

    @contextlib.contextmanager
    def _stopped_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.stop()
            raise


def start_etcd(processes: Processes, binary: str, data: Path, name: str = "etcd") -> str:
    """Start an etcd on free loopback ports and return its client address."""
    client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    processes.start(
        name,
        [
            binary,
            f"--name={name}",
            f"--data-dir={data}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster={name}={peer}",
            # The objects do not outlive the processes, so durability buys nothing.
            "--unsafe-no-fsync",
            "--log-level=warn",
        ],
    )
    return client


_handed_out: set[int] = set()
_handing_out = threading.Lock()


def free_port() -> int:
    """Return a loopback port that is free now and was not given out before.

    The search starts at a place that depends on this process, so that several
    test processes starting control planes at once rarely meet, and stays below
    the ports the kernel gives to outgoing connections.
    """
    with _handing_out:
        first = os.getpid() * 61
        for offset in range(10000):
            port = 20000 + (first + offset) % 10000
            if port in _handed_out:
                continue
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
            _handed_out.add(port)
            return port
    raise RuntimeError("no free port between 20000 and 30000")


def wait_until(
    condition: Callable[[], bool],
    what: str,
    timeout: float,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Poll until the condition holds; `check` may raise to give up early."""
    deadline = time.monotonic() + timeout
    while not condition():
        check()
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} was not ready within {timeout:.0f} s")
        time.sleep(0.1)
