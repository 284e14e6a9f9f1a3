"""Which rows an optimizer step uses: a pure function of (seed, epoch, index in the epoch).

Nothing is remembered between steps, so a resumed run asks for step k and gets what an uninterrupted run would get.
"""

from __future__ import annotations

from dataclasses import dataclass

from plumbline_trainer.data.mixing import Part, epoch_rows
from plumbline_trainer.data.seeds import derive_seed, permutation

__all__ = ["DataOrder", "derive_seed"]


@dataclass(frozen=True)
class DataOrder:
    """The rows of every optimizer step.

    An epoch is one pass over all rows in batches of `batch_size`; its last batch holds what is left and may be
    smaller. No batch spans two epochs and no row is left out, so a batch larger than the data set is the whole data
    set. A run with a number of steps starts as many epochs as it needs and may end inside one.

    With `parts`, the sources that the rows come from, an epoch has as many rows, and `data.mixing` says which.
    """

    rows: int
    batch_size: int
    seed: int
    shuffle: bool = True
    parts: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        if self.rows < 1 or self.batch_size < 1:
            raise ValueError("rows and batch_size must be positive")
        if self.parts and sum(part.rows for part in self.parts) != self.rows:
            raise ValueError("the parts do not add up to the rows")

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.rows // self.batch_size)

    def max_steps(self, *, steps: int | None, epochs: int | None) -> int:
        """Optimizer steps of the run: `steps`, or those of `epochs` whole epochs."""
        if steps is not None:
            return steps
        if epochs is None:
            raise ValueError("one of steps and epochs is needed")
        return epochs * self.steps_per_epoch

    def position(self, step: int) -> tuple[int, int]:
        """(epoch, index of the step's first row in the epoch's order)."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        return epoch, batch * self.batch_size

    def rows_of(self, step: int) -> list[int]:
        """Row numbers (from 0) of optimizer step `step`, over all ranks."""
        epoch, start = self.position(step)
        end = min(start + self.batch_size, self.rows)
        if self.parts:
            return epoch_rows(self.parts, self.seed, epoch, self.shuffle)[start:end].tolist()
        if not self.shuffle:
            return list(range(start, end))
        return permutation(self.rows, derive_seed(self.seed, "order", epoch))[start:end].tolist()

    def share_of(self, step: int, rank: int, world_size: int) -> list[int]:
        """The part of `rows_of(step)` that `rank` works on; the shares of all ranks are disjoint and complete."""
        return self.rows_of(step)[rank::world_size]
