"""What an operator process costs: memory and processor from /proc, requests from its own /metrics."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

from prometheus_client.parser import text_string_to_metric_families

from tests.operator.live_cluster import OperatorProcess

WRITES = ("apply", "apply_status", "create", "patch", "delete")
REQUESTS = "plumbline_operator_api_requests_total"
RECONCILES = "plumbline_operator_reconcile_total"
JOBS = "plumbline_operator_jobs"
WAITING = ("plumbline_operator_queue_depth", "plumbline_operator_queue_working")
_TICKS = os.sysconf("SC_CLK_TCK")
MEBIBYTE = 1 << 20


class Figures:
    """Reads off one running operator."""

    def __init__(self, operator: OperatorProcess) -> None:
        self._operator = operator

    def requests(self) -> Counter[tuple[str, str]]:
        """Requests to the API server so far, by verb and resource."""
        counted: Counter[tuple[str, str]] = Counter()
        for labels, value in _samples(self._text(REQUESTS), REQUESTS):
            counted[labels["verb"], labels["resource"]] += int(value)
        return counted

    def writes(self) -> Counter[tuple[str, str]]:
        return Counter({key: count for key, count in self.requests().items() if key[0] in WRITES})

    def has_converged(self, jobs: int) -> bool:
        """Whether so many jobs run and as many reconciliations came to an end without an error."""
        text = self._text(RECONCILES, JOBS)
        settled = _total(text, RECONCILES, result="settled")
        return settled >= jobs and _total(text, JOBS, phase="Running") >= jobs

    def running_jobs(self) -> int:
        return int(_total(self._text(JOBS), JOBS, phase="Running"))

    def waiting(self) -> int:
        """Keys that wait for a worker or are worked on."""
        text = self._text(*WAITING)
        return int(sum(_total(text, name) for name in WAITING))

    def resident_mebibytes(self) -> float:
        return self._status("VmRSS") / 1024

    def peak_mebibytes(self) -> float:
        return self._status("VmHWM") / 1024

    def processor_seconds(self) -> float:
        fields = Path(f"/proc/{self._operator.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def share_of_a_core(self, seconds: float) -> float:
        """Processor time over the next seconds."""
        started, before = time.monotonic(), self.processor_seconds()
        time.sleep(seconds)
        return (self.processor_seconds() - before) / (time.monotonic() - started)

    def _status(self, field: str) -> int:
        found = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{self._operator.pid}/status").read_text())
        assert found
        return int(found.group(1))

    def scrape(self) -> None:
        """Everything that `/metrics` has, as Prometheus asks for it."""
        self._operator.get(self._operator.metrics_port, "/metrics")

    def _text(self, *names: str) -> str:
        """The metrics of these names, for which the operator does not write the series of all jobs."""
        query = urlencode([("name[]", name) for name in names])
        return self._operator.get(self._operator.metrics_port, f"/metrics?{query}")


def _samples(text: str, name: str) -> Iterator[tuple[dict[str, str], float]]:
    """Labels and value of one metric's samples."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name:
                yield sample.labels, sample.value


def _total(text: str, name: str, **labels: str) -> float:
    """Sum of a metric's samples that have these labels."""
    found = _samples(text, name)
    return sum(value for present, value in found if labels.items() <= present.items())
