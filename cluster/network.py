"""The cluster's networks: addresses of the nodes, of the pods, and of services.

Nothing uses an address of the machine itself. Both nodes have an address on a
bridge without ports (it behaves like a dummy interface, which not every kernel
has); the pods of both share a second bridge, each node with its own range.
A pod only has routes to pods, nodes and services: it has no way out of this machine.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

NODE_LINK = "plumbline0"
POD_LINK = "plumbline-pods"
NODE_ADDRESSES = {"node1": "10.213.0.1", "node2": "10.213.0.2"}
NODE_RANGE = "10.213.0.0/24"
POD_RANGE = "10.244.0.0/16"
SERVICE_RANGE = "10.96.0.0/16"


def create() -> None:
    """Make the nodes' addresses and the route to services."""
    _ip("link", "add", NODE_LINK, "type", "bridge")
    _ip("link", "set", NODE_LINK, "up")
    for address in NODE_ADDRESSES.values():
        _ip("address", "add", f"{address}/32", "dev", NODE_LINK)
    # kube-proxy rewrites the target of these packets after a route was found. With
    # a route of our own they never head for the outside, not even without endpoints.
    first = next(iter(NODE_ADDRESSES.values()))
    _ip("route", "add", SERVICE_RANGE, "dev", NODE_LINK, "src", first)


def remove() -> None:
    """Remove both bridges, and with them all addresses and routes."""
    for link in (NODE_LINK, POD_LINK):
        if Path("/sys/class/net", link).exists():
            _ip("link", "delete", link)


def plugin_config(node: str, data: Path) -> dict[str, Any]:
    """Return the CNI configuration of a node: a bridge and addresses from its range."""
    third = list(NODE_ADDRESSES).index(node) + 1
    return {
        "cniVersion": "0.4.0",
        "name": f"plumbline-{node}",
        "plugins": [
            {
                "type": "bridge",
                "bridge": POD_LINK,
                "isGateway": True,
                "ipMasq": False,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(data),
                    "ranges": [
                        [
                            {
                                "subnet": POD_RANGE,
                                "rangeStart": f"10.244.{third}.2",
                                "rangeEnd": f"10.244.{third}.254",
                                "gateway": "10.244.0.1",
                            }
                        ]
                    ],
                    # No default route: a lookup or download fails at once, not by timeout.
                    "routes": [{"dst": SERVICE_RANGE}, {"dst": NODE_RANGE}],
                },
            }
        ],
    }


def proxy_config(kubeconfig: Path, node: str) -> dict[str, Any]:
    """Return the configuration of kube-proxy; one serves both nodes, as they share a kernel."""
    address = NODE_ADDRESSES[node]
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "mode": "iptables",
        "clusterCIDR": POD_RANGE,
        "hostnameOverride": node,
        "bindAddress": address,
        "healthzBindAddress": f"{address}:10256",
        "metricsBindAddress": f"{address}:10249",
        "nodePortAddresses": [f"{address}/32" for address in NODE_ADDRESSES.values()],
        # Zero: leave the machine's connection tracking limits alone.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
    }


def write_json(file: Path, content: dict[str, Any]) -> Path:
    """Write a configuration file (every JSON document is also YAML)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1))
    return file


def _ip(*arguments: str) -> None:
    result = subprocess.run(["ip", *arguments], text=True, capture_output=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"ip {' '.join(arguments)}: {result.stderr.strip()}")
