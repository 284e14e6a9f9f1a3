"""What an operator process costs: memory and processor from /proc, requests from its own /metrics."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.operator.live_cluster import OperatorProcess

WRITES = ("apply", "apply_status", "create", "patch", "delete")
WAITING = ("plumbline_operator_queue_depth", "plumbline_operator_queue_working")
_TICKS = os.sysconf("SC_CLK_TCK")
MEBIBYTE = 1 << 20


class Figures:
    """Reads off one running operator."""

    def __init__(self, operator: OperatorProcess) -> None:
        self._operator = operator

    def requests(self) -> Counter[tuple[str, str]]:
        """Requests to the API server so far, by verb and resource."""
        return Counter(
            {
                (labels["verb"], labels["resource"]): int(value)
                for labels, value in self._samples("plumbline_operator_api_requests_total", add=("verb", "resource"))
            }
        )

    def writes(self) -> Counter[tuple[str, str]]:
        return Counter({key: count for key, count in self.requests().items() if key[0] in WRITES})

    def reconciliations(self) -> int:
        """Those that came to an end without an error."""
        counted = self._samples("plumbline_operator_reconcile_total", add=("result",))
        return int(sum(value for labels, value in counted if labels["result"] == "settled"))

    def running_jobs(self) -> int:
        counted = self._samples("plumbline_operator_jobs", add=("phase",))
        return int(sum(value for labels, value in counted if labels["phase"] == "Running"))

    def waiting(self) -> int:
        """Keys that wait for a worker or are worked on."""
        return int(sum(value for _, value in self._samples(*WAITING)))

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

    def _samples(self, *names: str, add: tuple[str, ...] = ()) -> list[tuple[dict[str, str], float]]:
        """Values of metrics, summed over all labels but these."""
        sums: Counter[tuple[tuple[str, str], ...]] = Counter()
        for family in text_string_to_metric_families(self._operator.get(self._operator.metrics_port, "/metrics")):
            for sample in family.samples:
                if sample.name in names:
                    sums[tuple((label, sample.labels[label]) for label in add)] += sample.value  # type: ignore[assignment]
        return [(dict(labels), value) for labels, value in sums.items()]
