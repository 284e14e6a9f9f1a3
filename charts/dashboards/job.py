"""What the dashboards of both kinds of job share: state, speed, memory, checkpoints, and where the time went."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from charts.dashboards.panels import QUARTER, THIRD, Panel, Query, bars, lines, number, variable

SELECTED = 'job_namespace="$namespace",job_name="$name"'


class JobPanels:
    """Panels of the job that the variables select, of one kind."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._labels = f'job_kind="{kind}",{SELECTED}'

    def variables(self) -> list[dashboard.QueryVariable]:
        """Namespace and name, of jobs of this kind."""
        kind = f'job_kind="{self.kind}"'
        return [
            variable(
                "namespace", "Namespace", f"label_values(plumbline_job_info{{{kind}}}, job_namespace)", several=False
            ),
            variable(
                "name",
                "Job",
                f'label_values(plumbline_job_info{{{kind},job_namespace="$namespace"}}, job_name)',
                several=False,
            ),
        ]

    def trained(self, family: str, split: str = "", by: str = "") -> str:
        """Values of a training metric. All ranks say the same: the maximum is the value of any of them."""
        labels = self._labels + (f',split="{split}"' if split else "")
        return f"max by ({by}) (plumbline_trainer_{family}{{{labels}}})"

    def told(self, family: str, labels: str = "", by: str = "") -> str:
        """What the operator says of the job."""
        return f"max by ({by}) (plumbline_job_{family}{{{self._labels}{',' + labels if labels else ''}}})"

    def state(self) -> list[Panel]:
        """One line of numbers."""
        return [
            number("Phase", Query(self.told("phase", by="phase"), "{{phase}}"), by_name=True),
            number("Steps done", Query(f"{self.trained('step')} / {self.trained('max_steps')}"), unit="percentunit"),
            number("Time left", Query(self.trained("eta_seconds")), unit="s", description="At the median step's pace."),
            number("Score", Query(self.trained("score")), description="The held-out score; without one, the loss."),
            number(
                "Goodput",
                Query(self.told("goodput_ratio")),
                unit="percentunit",
                description="Productive share of the time for which the pods held their nodes.",
                thresholds=((None, "red"), (0.5, "orange"), (0.8, "green")),
            ),
            number(
                "Restarts",
                Query(self.told("restarts")),
                thresholds=((None, "green"), (1, "orange"), (3, "red")),
            ),
        ]

    def optimization(self, *held_out: Query) -> list[Panel]:
        """Loss, gradient, learning rate; `held_out` is what stands beside the training loss."""
        return [
            lines("Loss", Query(self.trained("loss", "training"), "training"), *held_out),
            lines("Gradient norm", Query(self.trained("gradient_norm", "training"), "before clipping")),
            lines("Learning rate", Query(self.trained("learning_rate", "training"), "learning rate"), unit="sci"),
        ]

    def speed(self) -> list[Panel]:
        """Throughput, phases of a step, memory."""
        phases = f"plumbline_trainer_phase_seconds_total{{{self._labels}}}"
        per_step = f"max by () (rate(plumbline_trainer_steps_total{{{self._labels}}}[$__rate_interval]))"
        process = "process_resident_memory_bytes * on (job, instance) group_left"
        return [
            lines("Tokens a second", Query(self.trained("tokens_per_second"), "all ranks"), width=QUARTER),
            lines(
                "Time of a step by phase",
                Query(f"max by (phase) (rate({phases}[$__rate_interval])) / on () group_left {per_step}", "{{phase}}"),
                unit="s",
                stacked=True,
                width=QUARTER,
            ),
            lines(
                "Memory of the process",
                Query(f"{process} (job_name) plumbline_trainer_build_info{{{self._labels}}}", "{{instance}}"),
                unit="bytes",
                width=QUARTER,
            ),
            lines(
                "GPU memory",
                Query(f"plumbline_trainer_gpu_memory_allocated_bytes{{{self._labels}}}", "{{instance}} held"),
                Query(f"plumbline_trainer_gpu_memory_peak_bytes{{{self._labels}}}", "{{instance}} peak"),
                unit="bytes",
                description="Empty without a GPU.",
                width=QUARTER,
            ),
        ]

    def reliability(self) -> list[Panel]:
        """Checkpoints, conditions, the ledger."""
        return [
            lines(
                "Age of the newest checkpoint",
                Query(f"time() - {self.trained('checkpoint_timestamp_seconds')}", "age"),
                unit="s",
                description="What a crash now would cost. Only while the trainer runs.",
                width=THIRD,
            ),
            bars(
                "Where the time went",
                Query(self.told("state_seconds", by="state"), "{{state}}"),
                unit="s",
                description="Since the job was created; it adds up to the clock.",
            ),
            lines(
                "Conditions",
                Query(self.told("condition", by="condition"), "{{condition}}"),
                description="1: True, 0: False. A stalled job has Progressing 0, an unhealthy one Healthy 0.",
                bounds=(0, 1.1),
            ),
        ]

    def held_out(self, title: str, family: str, *, unit: str = "percentunit", description: str = "") -> Panel:
        """A training metric beside its held-out value and what that one began with."""
        return lines(
            title,
            Query(self.trained(family, "training"), "training"),
            Query(self.trained(family, "evaluation"), "held out"),
            Query(self.trained(family, "first_evaluation"), "held out, before the first step"),
            unit=unit,
            description=description,
        )
