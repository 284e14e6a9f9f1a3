"""The simplex search of Nelder and Mead in steps: whoever measures asks for a point and tells its value.

J. A. Nelder and R. Mead, "A simplex method for function minimization", The Computer Journal 7, 1965, in the form of
Lagarias et al., "Convergence Properties of the Nelder-Mead Simplex Method in Low Dimensions", SIAM J. Optim. 9, 1998:
reflection 1, expansion 2, contraction 1/2, shrinkage 1/2; of equal values the older vertex is the better one. Points
beyond the bounds are moved onto them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

Point = tuple[float, ...]
Trial = Literal["reflected", "expanded", "outside", "inside"]

_FACTORS: Mapping[Trial, float] = {"reflected": 1.0, "expanded": 2.0, "outside": 0.5, "inside": -0.5}
"""How far a trial lies from the centroid of all vertices but the worst, in ways from that one to it."""


@dataclass(frozen=True)
class Simplex:
    """The state of a search in n dimensions: n + 1 vertices, and the point that is tried next."""

    bounds: tuple[float, float]
    """Least and greatest value of every coordinate."""

    points: tuple[Point, ...]
    values: tuple[float | None, ...]
    """None for vertices without a value so far; else in ascending order."""

    trial: Trial | None = None
    """What is tried in place of the worst vertex; None while vertices lack values."""

    reflected: float | None = None
    """The value of the reflected point, where another one is tried after it."""

    @classmethod
    def around(cls, start: Sequence[float], step: float, bounds: tuple[float, float]) -> Simplex:
        """The simplex of `start` and of what lies `step` from it along each axis, downwards where upwards is out of
        bounds; nothing has a value."""
        origin = tuple(float(coordinate) for coordinate in start)
        points = [origin]
        for axis, coordinate in enumerate(origin):
            moved = coordinate + step if coordinate + step <= bounds[1] else coordinate - step
            points.append((*origin[:axis], moved, *origin[axis + 1 :]))
        return cls(bounds, tuple(points), (None,) * len(points))

    @property
    def asked(self) -> Point:
        """The point whose value is wanted next."""
        if self.trial is None:
            return self.points[self.values.index(None)]
        return self._point(self.trial)

    @property
    def best(self) -> Point:
        """The best vertex so far; the first one before any has a value."""
        known = [(value, index) for index, value in enumerate(self.values) if value is not None]
        return self.points[min(known)[1]] if known else self.points[0]

    def told(self, value: float) -> Simplex:
        """The search after the asked point turned out to have `value`; less is better."""
        if self.trial is None:
            index = self.values.index(None)
            values = (*self.values[:index], value, *self.values[index + 1 :])
            found = replace(self, values=values)
            return found if None in values else found._reflecting()
        best, second_worst, worst = (self._value(index) for index in (0, -2, -1))
        if self.trial == "reflected":
            if value < best:
                return replace(self, trial="expanded", reflected=value)
            if value < second_worst:
                return self._accepting("reflected", value)
            return replace(self, trial="outside" if value < worst else "inside", reflected=value)
        assert self.reflected is not None
        if self.trial == "expanded":
            farther = value < self.reflected
            return self._accepting("expanded", value) if farther else self._accepting("reflected", self.reflected)
        better = value <= self.reflected if self.trial == "outside" else value < worst
        return self._accepting(self.trial, value) if better else self._shrunk()

    def to_document(self) -> dict[str, Any]:
        """JSON types only."""
        points, values = [list(point) for point in self.points], list(self.values)
        return {
            "bounds": list(self.bounds),
            "points": points,
            "values": values,
            "trial": self.trial,
            "reflected": self.reflected,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Simplex:
        """Restores `to_document`."""
        points = tuple(tuple(point) for point in document["points"])
        lowest, highest = document["bounds"]
        return cls((lowest, highest), points, tuple(document["values"]), document["trial"], document["reflected"])

    def _value(self, index: int) -> float:
        value = self.values[index]
        assert value is not None
        return value

    def _point(self, trial: Trial) -> Point:
        *kept, worst = self.points
        centroid = [sum(axis) / len(kept) for axis in zip(*kept, strict=True)]
        factor = _FACTORS[trial]
        lowest, highest = self.bounds
        return tuple(
            min(max(middle + factor * (middle - last), lowest), highest)
            for middle, last in zip(centroid, worst, strict=True)
        )

    def _accepting(self, trial: Trial, value: float) -> Simplex:
        points, values = (*self.points[:-1], self._point(trial)), (*self.values[:-1], value)
        return Simplex(self.bounds, points, values)._reflecting()

    def _reflecting(self) -> Simplex:
        order = sorted(range(len(self.points)), key=self._value)
        points = tuple(self.points[index] for index in order)
        values = tuple(self.values[index] for index in order)
        return Simplex(self.bounds, points, values, "reflected")

    def _shrunk(self) -> Simplex:
        best, *others = self.points
        halved = [tuple((a + b) / 2 for a, b in zip(best, other, strict=True)) for other in others]
        return Simplex(self.bounds, (best, *halved), (self.values[0], *(None for _ in others)))
