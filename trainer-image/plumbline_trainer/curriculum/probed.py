"""Curricula from one probe of the start model: a subset of the prompts, or an order of all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from math import ceil
from typing import Any

import torch
from torch import Tensor

from plumbline_api.methods.curriculum.probed import (
    HardestShare,
    PassRateBand,
    PassRateOrder,
    ProbedCurriculum,
    RewardDeviation,
)
from plumbline_trainer.curriculum.orders import endless, replacements
from plumbline_trainer.curriculum.probe import Probe
from plumbline_trainer.curriculum.protocol import CURRICULA, Prompts
from plumbline_trainer.data.seeds import derive_seed, permutation
from plumbline_trainer.failures import DataError
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.rollout.judged import JudgedRollout


class Probed(ABC):
    """What curricula with a probe share: the probe is their whole state, and its rows fill rollouts without end."""

    def __init__(self, parameters: ProbedCurriculum, prompts: Prompts) -> None:
        self._samples = parameters.probe_samples
        self._prompts = prompts
        self._probe: Probe | None = None
        self._rows: list[int] = []

    @abstractmethod
    def rows_of(self, probe: Probe) -> list[int]:
        """The rows to learn from."""

    @property
    def probe_samples(self) -> int:
        return self._samples if self._probe is None else 0

    @property
    def shuffles(self) -> bool:
        return self._prompts.shuffle

    def probed(self, probe: Probe) -> None:
        """Raises `DataError` where no row is left."""
        if len(probe.judged) != self._prompts.count:
            raise ValueError(f"a probe of {len(probe.judged)} prompts for {self._prompts.count}")
        rows = self.rows_of(probe)
        if not rows:
            never, always = (int((probe.pass_rates == rate).sum()) for rate in (0, 1))
            raise DataError(
                f"the curriculum leaves no prompt: of {self._prompts.count} prompts the model solved {never} never and "
                f"{always} always in {self._samples} samples; widen what it keeps or take other prompts"
            )
        self._probe, self._rows = probe, rows

    def choose(self, number: int, count: int, attempt: int = 0, exclude: Collection[int] = ()) -> list[int]:
        """Every rollout is full; raises `RuntimeError` before the probe."""
        if self._probe is None:
            raise RuntimeError("the prompts have not been probed")
        if attempt:
            return replacements(self._rows, count, (self._prompts.seed, number, attempt), exclude)
        return endless(self._rows, number * count, count, self._prompts.seed, self.shuffles)

    def observe(self, number: int, rows: Sequence[int], rollout: JudgedRollout, advantages: Tensor) -> None:
        """What was probed stays as it was."""

    def metrics(self) -> dict[str, Metric]:
        """Shares of the prompts that are kept, and that the probe never or always solved."""
        if self._probe is None:
            return {}
        rates, count = self._probe.pass_rates, float(self._prompts.count)
        return {
            "curriculum/kept": Metric(float(len(self._rows)), count),
            "curriculum/unsolved": Metric(float((rates == 0).sum()), count),
            "curriculum/mastered": Metric(float((rates == 1).sum()), count),
        }

    def state_dict(self) -> dict[str, Any]:
        return {"probe": None if self._probe is None else self._probe.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["probe"] is not None:
            self.probed(Probe.from_state(state["probe"]))


@CURRICULA.implements(PassRateBand)
class InBand(Probed):
    """Rows whose pass rate lies in [minimum, maximum]."""

    def __init__(self, parameters: PassRateBand, prompts: Prompts) -> None:
        super().__init__(parameters, prompts)
        self._minimum, self._maximum = parameters.minimum, parameters.maximum

    def rows_of(self, probe: Probe) -> list[int]:
        rates = probe.pass_rates
        return _true_rows((rates >= self._minimum) & (rates <= self._maximum))


@CURRICULA.implements(HardestShare)
class Hardest(Probed):
    """The ceil(fraction * R) rows of lowest pass rate.

    Of rows with equal pass rates at the border a random choice by the seed stays, since the file's order may mean
    something. Rows that could not be judged have no pass rate and stay out.
    """

    def __init__(self, parameters: HardestShare, prompts: Prompts) -> None:
        super().__init__(parameters, prompts)
        self._fraction, self._drops_unsolved = parameters.fraction, parameters.unsolved == "drop"

    def rows_of(self, probe: Probe) -> list[int]:
        rows = by_pass_rate(probe, self._prompts.seed)
        if self._drops_unsolved:
            rows = [row for row in rows if probe.correct[row] > 0]
        return sorted(rows[: ceil(self._fraction * len(rows) - 1e-9)])


@CURRICULA.implements(RewardDeviation)
class Varied(Probed):
    """Rows whose rewards have at least the given sample standard deviation.

    The expected gradient of prompt x is at most of order STD(x)^(2/3), where STD(x) is the standard deviation of the
    reward under the policy (Razin et al. 2023, arXiv:2310.20703, theorem 1).
    """

    def __init__(self, parameters: RewardDeviation, prompts: Prompts) -> None:
        super().__init__(parameters, prompts)
        self._minimum = parameters.minimum

    def rows_of(self, probe: Probe) -> list[int]:
        return _true_rows(probe.deviations >= self._minimum)


@CURRICULA.implements(PassRateOrder)
class Sorted(Probed):
    """All rows that could be judged, sorted by pass rate; every epoch has the same order."""

    shuffles = False

    def __init__(self, parameters: PassRateOrder, prompts: Prompts) -> None:
        super().__init__(parameters, prompts)
        self._easiest_first = parameters.first == "easiest"

    def rows_of(self, probe: Probe) -> list[int]:
        return by_pass_rate(probe, self._prompts.seed, descending=self._easiest_first)


def by_pass_rate(probe: Probe, seed: int, *, descending: bool = False) -> list[int]:
    """Rows sorted by pass rate; equal ones in an order that the seed gives, rows without a pass rate left out."""
    order = permutation(len(probe.judged), derive_seed(seed, "equal pass rates"))
    order = order[probe.judged[order] > 0]
    ranked = probe.pass_rates[order].sort(descending=descending, stable=True).indices
    return [int(row) for row in order[ranked]]


def _true_rows(kept: Tensor) -> list[int]:
    return [int(row) for row in torch.nonzero(kept).flatten()]
