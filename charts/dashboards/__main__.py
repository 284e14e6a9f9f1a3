"""`python -m charts.dashboards`: writes the dashboards into the chart."""

from __future__ import annotations

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from charts.dashboards.fleet import fleet
from charts.dashboards.operator import operator
from charts.dashboards.preference_job import preference_job
from charts.dashboards.rlvr_job import rlvr_job

FOLDER = Path(__file__).resolve().parent.parent / "plumbline" / "dashboards"

DASHBOARDS = {"fleet": fleet, "preference-job": preference_job, "rlvr-job": rlvr_job, "operator": operator}


def rendered() -> dict[str, str]:
    """The JSON of each dashboard by file name."""
    return {
        f"{name}.json": json.dumps(make().build(), cls=JSONEncoder, indent=1, sort_keys=True) + "\n"
        for name, make in DASHBOARDS.items()
    }


def main() -> None:
    """Write all of them."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in rendered().items():
        (FOLDER / name).write_text(text)
        print(FOLDER / name)


if __name__ == "__main__":
    main()
