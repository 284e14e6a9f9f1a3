"""Kubernetes quantities: reading, and writing for people (pure)."""

from __future__ import annotations

import re
from decimal import Decimal

_QUANTITY = re.compile(r"^([0-9]+(?:\.[0-9]+)?)(m|[kMGTPE]i?|Ki|[eE][+-]?[0-9]+)?$")
_FACTORS = {
    "m": Decimal("0.001"),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", start=1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", start=1)},
}
_BYTES = ("memory", "ephemeral-storage", "hugepages-")


def parse_quantity(text: str) -> Decimal:
    """The number that a quantity such as 500m, 8Gi or 2 stands for; raises ValueError."""
    match = _QUANTITY.match(text)
    if match is None:
        raise ValueError(f"{text!r} is not a quantity")
    number, suffix = Decimal(match.group(1)), match.group(2) or ""
    if suffix[:1] in ("e", "E") and len(suffix) > 1 and suffix != "Ei":
        return number * Decimal(10) ** int(suffix[1:])
    return number * _FACTORS.get(suffix, Decimal(1))


def show_quantity(resource: str, amount: Decimal) -> str:
    """An amount of a resource as people write it: bytes in Gi or Mi, everything else as a plain number."""
    if not resource.startswith(_BYTES):
        return f"{amount.quantize(Decimal('0.001')).normalize():f}"
    unit = "Gi" if amount >= _FACTORS["Gi"] else "Mi"
    return f"{(amount / _FACTORS[unit]).quantize(Decimal('0.1')).normalize():f}{unit}"
