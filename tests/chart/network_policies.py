"""NetworkPolicies as a function: whether a connection between two pods is let through.

After the API's own definition: a pod that a policy of a direction selects may only do what one of those policies
allows; any other pod may do everything. Both ends have to agree.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class End:
    """One end of a connection: a pod, or an address outside of the cluster when it has no namespace."""

    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    address: str = "198.51.100.7"
    namespace_labels: dict[str, str] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    """Named ports of its containers."""


def allows(policies: list[dict[str, Any]], source: End, target: End, port: int, protocol: str = "TCP") -> bool:
    """Whether the policies let `source` connect to this port of `target`."""
    return _one_way(policies, "Egress", source, target, port, protocol, target) and _one_way(
        policies, "Ingress", target, source, port, protocol, target
    )


def _one_way(
    policies: list[dict[str, Any]], direction: str, own: End, peer: End, port: int, protocol: str, server: End
) -> bool:
    selecting = [policy["spec"] for policy in policies if _selects(policy, direction, own)]
    if not selecting:
        return True
    key, side = ("egress", "to") if direction == "Egress" else ("ingress", "from")
    return any(
        _port_fits(rule, port, protocol, server) and _peer_fits(rule.get(side), peer, own.namespace)
        for spec in selecting
        for rule in spec.get(key) or []
    )


def _selects(policy: dict[str, Any], direction: str, pod: End) -> bool:
    return (
        bool(pod.namespace)
        and policy["metadata"]["namespace"] == pod.namespace
        and direction in policy["spec"]["policyTypes"]
        and _matches(policy["spec"]["podSelector"], pod.labels)
    )


def _matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}, "expressions are not used here"
    return selector.get("matchLabels", {}).items() <= labels.items()


def _port_fits(rule: dict[str, Any], port: int, protocol: str, server: End) -> bool:
    if not rule.get("ports"):
        return True
    return any(
        entry.get("protocol", "TCP") == protocol and server.ports.get(entry["port"], entry["port"]) == port
        for entry in rule["ports"]
    )


def _peer_fits(peers: list[dict[str, Any]] | None, peer: End, namespace: str) -> bool:
    return not peers or any(_is_peer(entry, peer, namespace) for entry in peers)


def _is_peer(entry: dict[str, Any], peer: End, namespace: str) -> bool:
    if "ipBlock" in entry:
        return ipaddress.ip_address(peer.address) in ipaddress.ip_network(entry["ipBlock"]["cidr"])
    if not peer.namespace:
        return False
    if "namespaceSelector" in entry:
        if not _matches(entry["namespaceSelector"], peer.namespace_labels):
            return False
    elif peer.namespace != namespace:
        return False
    return _matches(entry.get("podSelector", {}), peer.labels)
