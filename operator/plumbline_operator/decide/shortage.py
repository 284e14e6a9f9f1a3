"""Which resource is short for a pod, and by how much (pure).

The scheduler names the resource but no amounts. They follow from what the nodes have and what their pods ask for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from plumbline_operator.model import NOTHING, NodeCapacity
from plumbline_operator.quantities import parse_quantity, show_quantity


def shortage(requests: Mapping[str, str], nodes: Sequence[NodeCapacity]) -> str:
    """What no node has enough of for a pod with these requests, in amounts; empty where nothing is known to be so."""
    if not nodes:
        return ""
    told = [
        text
        for resource, quantity in sorted(requests.items())
        if (text := _short_of(resource, parse_quantity(quantity), nodes))
    ]
    if told:
        return "; ".join(told)
    asked = {resource: parse_quantity(quantity) for resource, quantity in requests.items()}
    if not any(all(node.free(name) >= amount for name, amount in asked.items()) for node in nodes):
        return "each resource is free on some node, and all of them on none"
    return ""


def _short_of(resource: str, asked: Decimal, nodes: Sequence[NodeCapacity]) -> str:
    best = max(nodes, key=lambda node: node.free(resource))
    free = best.free(resource)
    if free >= asked:
        return ""
    largest = max(nodes, key=lambda node: node.allocatable.get(resource, NOTHING))
    most = largest.allocatable.get(resource, NOTHING)
    asks = f"it asks for {show_quantity(resource, asked)} of {resource}"
    if most == 0:
        return f"{asks}, and no node has any"
    if most < asked:
        return f"{asks}, and the largest node, {largest.name}, has {show_quantity(resource, most)} in all"
    missing = show_quantity(resource, asked - free)
    return (
        f"{asks}, the most that is free on one node is {show_quantity(resource, free)} ({best.name}): {missing} short"
    )
