"""What must hold at scale, and what of it does not in given results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Bar:
    """One bar: a figure in a section of the results and its limit."""

    what: str
    part: str
    figure: Callable[[dict[str, Any]], float]
    limit: float
    at_least: bool = False

    def met(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit


BARS = (
    Bar("jobs a minute to children, created at once", "burst", lambda r: r["at_once"]["jobs_a_minute"], 240, True),
    Bar(
        "seconds to children of one job more, p99",
        "burst",
        lambda r: r["one_more"]["job_to_children_seconds"]["p99"],
        2,
    ),
    Bar("pods that are there twice", "burst", lambda r: r["duplicate_pods"], 0),
    Bar("API writes in a job's life", "life", lambda r: r["writes_a_life"], 12),
    Bar("MiB of memory at most", "alive", lambda r: r["steady"]["peak_mebibytes"], 250),
    Bar(
        "seconds from a start to converged", "alive", lambda r: max(s["seconds_to_converged"] for s in r["starts"]), 60
    ),
)


def missed(results: dict[str, Any]) -> list[str]:
    """One line for each bar that the sections that are there do not meet."""
    return list(_missed(results))


def _missed(results: dict[str, Any]) -> Iterator[str]:
    for bar in BARS:
        if bar.part in results:
            value = bar.figure(results[bar.part])
            if not bar.met(value):
                yield f"{bar.what}: {value}, the bar is {bar.limit}"
