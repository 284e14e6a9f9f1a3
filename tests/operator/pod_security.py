"""The restricted Pod Security Standard of Kubernetes as a function: what a pod breaks of it.

Pod Security admission exists since Kubernetes 1.22; the API server of the tests is older, so its rules are written down
here, after https://kubernetes.io/docs/concepts/security/pod-security-standards (baseline and restricted, v1.30).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

ALLOWED_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
ALLOWED_SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports",
}  # fmt: skip
ALLOWED_SECCOMP = {"RuntimeDefault", "Localhost"}


def violations(pod: dict[str, Any]) -> list[str]:
    """What the pod (`metadata`, `spec`) breaks of the restricted standard, one line each; empty when it holds."""
    return list(_of_pod(pod))


def _of_pod(pod: dict[str, Any]) -> Iterator[str]:
    spec = pod["spec"]
    context = spec.get("securityContext") or {}
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield f"{name} is set"
    for volume in spec.get("volumes") or []:
        kinds = set(volume) - {"name"}
        if not kinds <= ALLOWED_VOLUMES:
            yield f"volume {volume['name']} is of the kind {', '.join(kinds)}"
    for sysctl in context.get("sysctls") or []:
        if sysctl["name"] not in ALLOWED_SYSCTLS:
            yield f"sysctl {sysctl['name']}"
    for name, value in (pod.get("metadata", {}).get("annotations") or {}).items():
        if "apparmor.security" in name and not value.startswith(("runtime/default", "localhost/")):
            yield f"annotation {name} is {value}"
    if context.get("runAsUser") == 0:
        yield "the pod runs as root"
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(kind) or []:
            for found in _of_container(container, context):
                yield f"{container['name']}: {found}"


def _of_container(container: dict[str, Any], pod: dict[str, Any]) -> Iterator[str]:
    own = container.get("securityContext") or {}
    capabilities = own.get("capabilities") or {}
    if own.get("privileged"):
        yield "privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if "ALL" not in (capabilities.get("drop") or []):
        yield "not all capabilities are dropped"
    if set(capabilities.get("add") or []) - {"NET_BIND_SERVICE"}:
        yield "capabilities are added"
    if own.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield "runAsNonRoot is not true"
    if own.get("runAsUser") == 0:
        yield "runs as root"
    profile = (own.get("seccompProfile") or pod.get("seccompProfile") or {}).get("type")
    if profile not in ALLOWED_SECCOMP:
        yield f"the seccomp profile is {profile}"
    if own.get("procMount", "Default") != "Default":
        yield "procMount is not the default"
    if any(port.get("hostPort") for port in container.get("ports") or []):
        yield "a port of the host is used"
