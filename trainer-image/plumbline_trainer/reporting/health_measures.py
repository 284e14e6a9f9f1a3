"""What guardrails measure: numbers over windows of steps, from the metrics of steps and evaluations (pure).

A measure sees every step, keeps what fits into its window and a few numbers of the past, and gives its state to
checkpoints, so that a window goes on where it stood. A step in which a metric is absent or not finite does not count.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from plumbline_api.guardrails import Guardrail

Metrics = Mapping[str, float]
Reader = Callable[[Metrics], float | None]

SOLVED = 0.9
"""Share of right completions from which on a policy needs neither entropy nor advantages: there is little to learn."""

NOISE = 6.0
"""A fall smaller than so many standard errors is noise. The best of many window means lies some of them above what is
expected and the worst some below, and the errors are estimated from the window itself; with less than this, a run that
stays where it is would now and then be called collapsed."""

LOSS = "loss"
"""The one score of which less is better."""


class Measure(ABC):
    """Base: windows and numbers by name, all of which a checkpoint keeps."""

    def __init__(self, window_steps: int, windows: tuple[str, ...] = ("values",)) -> None:
        self._windows: dict[str, deque[float]] = {name: deque(maxlen=window_steps) for name in windows}
        self._numbers: dict[str, float] = {}
        self._window_steps = window_steps

    @abstractmethod
    def step(self, metrics: Metrics) -> None:
        """A step was done."""

    def evaluated(self, metrics: Metrics) -> None:
        """Held-out rows were evaluated; most measures look at steps only."""

    @property
    @abstractmethod
    def value(self) -> float | None:
        """What is compared with the bound; None while too little was seen."""

    def clear(self) -> None:
        """Forgets the windows, so that the next value comes from further steps alone."""
        for window in self._windows.values():
            window.clear()

    def state(self) -> dict[str, Any]:
        """JSON-able; `load` takes it."""
        return {
            "windows": {name: list(window) for name, window in self._windows.items()},
            "numbers": dict(self._numbers),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Restores `state`."""
        for name, window in self._windows.items():
            window.clear()
            window.extend(state["windows"][name])
        self._numbers = dict(state["numbers"])

    def _full(self, name: str = "values") -> bool:
        return len(self._windows[name]) == self._window_steps

    def _mean(self, name: str = "values") -> float:
        window = self._windows[name]
        return math.fsum(window) / len(window)

    def _variance_of_mean(self, name: str = "values") -> float:
        """Squared standard error of the window's mean; 0 for a window of one step."""
        window, mean = self._windows[name], self._mean(name)
        if len(window) < 2:
            return 0.0
        return math.fsum((value - mean) ** 2 for value in window) / (len(window) - 1) / len(window)


class MeanLevel(Measure):
    """The mean of a number over the window."""

    def __init__(self, window_steps: int, read: Reader, only_unsolved: bool = False) -> None:
        super().__init__(window_steps)
        self._read = read
        self._only_unsolved = only_unsolved

    def step(self, metrics: Metrics) -> None:
        if self._only_unsolved and metrics.get("accuracy", 0.0) >= SOLVED:
            self.clear()
        elif (value := self._read(metrics)) is not None:
            self._windows["values"].append(value)

    @property
    def value(self) -> float | None:
        return self._mean() if self._full() else None


class ShareLost(Measure):
    """How much of the best window mean b is lost again: (b - m) / max(|b|, |f|), where m is the present window mean and
    f that of the first window; 0 where the fall is noise."""

    def __init__(self, window_steps: int, read: Reader) -> None:
        super().__init__(window_steps)
        self._read = read

    def step(self, metrics: Metrics) -> None:
        value = self._read(metrics)
        if value is None:
            return
        self._windows["values"].append(value)
        if not self._full():
            return
        mean, numbers = self._mean(), self._numbers
        numbers.setdefault("first", mean)
        if mean >= numbers.get("best", -math.inf):
            numbers.update(best=mean, variance=self._variance_of_mean())

    @property
    def value(self) -> float | None:
        if not self._full():
            return None
        best, fall = self._numbers["best"], self._numbers["best"] - self._mean()
        scale = max(abs(best), abs(self._numbers["first"]))
        noise = NOISE * math.sqrt(self._variance_of_mean() + self._numbers["variance"])
        return fall / scale if scale > 0 and fall > noise else 0.0


class GrowthSinceStart(Measure):
    """The window mean divided by that of the first window."""

    def __init__(self, window_steps: int, read: Reader) -> None:
        super().__init__(window_steps)
        self._read = read

    def step(self, metrics: Metrics) -> None:
        value = self._read(metrics)
        if value is not None:
            self._windows["values"].append(value)
            if self._full():
                self._numbers.setdefault("first", self._mean())

    @property
    def value(self) -> float | None:
        first = self._numbers.get("first")
        return self._mean() / first if first and self._full() else None


class LengthAtBestReward(Measure):
    """The mean length over the window, divided by that over the window with the best mean reward: while the reward
    still grows the two are the same, however long completions become."""

    def __init__(self, window_steps: int) -> None:
        super().__init__(window_steps, ("lengths", "rewards"))

    def step(self, metrics: Metrics) -> None:
        length, reward = _finite(metrics, "completions/length"), _finite(metrics, "reward/mean")
        if length is None or reward is None:
            return
        self._windows["lengths"].append(length)
        self._windows["rewards"].append(reward)
        if self._full("rewards") and self._mean("rewards") > self._numbers.get("best", -math.inf):
            self._numbers.update(best=self._mean("rewards"), length=self._mean("lengths"))

    @property
    def value(self) -> float | None:
        length = self._numbers.get("length")
        return self._mean("lengths") / length if length and self._full("lengths") else None


class HeldOutLost(Measure):
    """How much of the best held-out score h* both of the last two evaluations have lost, (h* - h) / |h*| with h the
    better of the two, where the window mean of what is trained on is no worse than it was at the best evaluation;
    otherwise 0. Of a loss, less is better."""

    def __init__(self, window_steps: int, held_out: str, trained: str) -> None:
        super().__init__(window_steps)
        self._held_out, self._trained = held_out, trained

    def step(self, metrics: Metrics) -> None:
        value = _better_when_larger(metrics, self._trained)
        if value is not None:
            self._windows["values"].append(value)

    def evaluated(self, metrics: Metrics) -> None:
        score = _better_when_larger(metrics, self._held_out)
        if score is None or not self._full():
            return
        numbers = self._numbers
        if score >= numbers.get("best", -math.inf):
            numbers.update(best=score, trained=self._mean())
        numbers["before"] = numbers.get("last", score)
        numbers["last"] = score

    @property
    def value(self) -> float | None:
        numbers = self._numbers
        if "best" not in numbers or not self._full():
            return None
        best, score = numbers["best"], max(numbers["last"], numbers["before"])
        if best == 0 or self._mean() < numbers["trained"]:
            return 0.0
        return (best - score) / abs(best)


def measure_of(guardrail: Guardrail, score_name: str, rollouts: bool) -> Measure:
    """The measure of a resolved guardrail with a window. `score_name` is the run's held-out score, `rollouts` whether
    the run samples completions and is trained on their reward."""
    steps = guardrail.window_steps
    assert steps is not None
    match guardrail.signal:
        case "kl":
            return MeanLevel(steps, lambda metrics: _absolute(_finite(metrics, "kl")))
        case "entropyCollapse":
            return MeanLevel(steps, lambda metrics: _finite(metrics, "entropy"), only_unsolved=True)
        case "zeroAdvantage":
            return MeanLevel(steps, lambda metrics: _finite(metrics, "advantages/zero_groups"), only_unsolved=True)
        case "truncation":
            return MeanLevel(steps, lambda metrics: _finite(metrics, "completions/truncated"))
        case "verifierErrors":
            return MeanLevel(steps, lambda metrics: max(_with_prefix(metrics, "reward_errors/"), default=None))
        case "gradientNorm":
            return MeanLevel(steps, lambda metrics: _finite(metrics, "gradient_norm"))
        case "gradientGrowth":
            return GrowthSinceStart(steps, lambda metrics: _finite(metrics, "gradient_norm"))
        case "rewardCollapse":
            return ShareLost(steps, lambda metrics: _finite(metrics, "reward/mean"))
        case "marginCollapse":
            return ShareLost(steps, lambda metrics: _finite(metrics, "rewards/margin"))
        case "lengthGrowth":
            return LengthAtBestReward(steps)
        case "overOptimisation":
            return HeldOutLost(steps, score_name, "reward/mean" if rollouts else score_name)
        case _:
            raise ValueError(f"{guardrail.signal} is not measured over a window")


def _finite(metrics: Metrics, name: str) -> float | None:
    value = metrics.get(name)
    return value if value is not None and math.isfinite(value) else None


def _absolute(value: float | None) -> float | None:
    return None if value is None else abs(value)


def _with_prefix(metrics: Metrics, prefix: str) -> Iterator[float]:
    return (value for name, value in metrics.items() if name.startswith(prefix) and math.isfinite(value))


def _better_when_larger(metrics: Metrics, name: str) -> float | None:
    value = _finite(metrics, name)
    return -value if value is not None and name == LOSS else value
