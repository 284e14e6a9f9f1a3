"""The chart's own scrape configuration and rules in a Prometheus that runs outside of the cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

FILES = Path(__file__).resolve().parent.parent / "charts" / "plumbline" / "files"


def configuration(kubeconfig: Path, interval_seconds: int) -> dict[str, Any]:
    """What prometheus.yml holds: `files/scrape.yaml`, with the one thing added that a pod would not need, a login."""
    scrape = yaml.safe_load((FILES / "scrape.yaml").read_text())
    for job in scrape["scrape_configs"]:
        for discovery in job["kubernetes_sd_configs"]:
            discovery["kubeconfig_file"] = str(kubeconfig)
    interval = f"{interval_seconds}s"
    return {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": [str(FILES / "rules.yaml")],
        **scrape,
    }
