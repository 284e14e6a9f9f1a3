"""Results as Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.comparison import LOSS_TOLERANCE, Cost, Figures, Ratios


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with its first column on the left and the others on the right."""
    rule = ["---", *("---:" for _ in header[1:])]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *rows])


def figures_table(sides: Mapping[str, Figures]) -> str:
    """One row a side: milliseconds a useful token as `CPU (wall)`, tokens a second, peak over the base process."""
    header = [
        "ms/token: CPU (wall)",
        "first epoch, everything",
        "its steps alone",
        "later epochs",
        "median step",
        "tokens/s",
        "peak memory",
        "kernel",
        "spread",
    ]
    rows = [
        [
            name,
            _cost(side.first_epoch),
            _cost(side.first_epoch_steps),
            "" if side.later_epochs is None else _cost(side.later_epochs),
            _cost(side.step),
            f"{side.tokens_per_second:.0f}",
            f"{side.memory_bytes / 2**20:.0f} MiB",
            f"{side.kernel_share:.0%}",
            f"{side.spread:.1%}",
        ]
        for name, side in sides.items()
    ]
    return markdown(header, rows)


def ratios_table(opponents: Mapping[str, Ratios]) -> str:
    """One row an opponent: how many times our cost it needs, as `CPU (wall)`, and our share of its memory."""
    header = [
        "plumbline against",
        "first epoch, everything",
        "its steps over our everything",
        "later epochs",
        "median step",
        "our share of its memory",
        "largest difference of losses",
    ]
    rows = [
        [
            name,
            _times(other.first_epoch),
            _times(other.first_epoch_over_steps),
            "" if other.later_epochs is None else _times(other.later_epochs),
            _times(other.step),
            f"{other.memory:.2f}",
            f"{other.loss_difference:.1e}" + ("" if other.losses_agree else f" **above {LOSS_TOLERANCE:.0e}**"),
        ]
        for name, other in opponents.items()
    ]
    return markdown(header, rows)


def _cost(cost: Cost) -> str:
    return f"{cost.cpu:.3f} ({cost.wall:.3f})"


def _times(cost: Cost) -> str:
    return f"{cost.cpu:.2f}x ({cost.wall:.2f}x)"
