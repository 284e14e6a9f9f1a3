"""`python -m plumbline_trainer --config job.json`"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from plumbline_api.contract import CONFIG_PATH, PORT, TERMINATION_LOG_PATH, ExitCode
from plumbline_trainer.stopping import StopRequest


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """A wrong command line is a wrong configuration, and ends with the exit code of the contract for that."""
        self.print_usage(sys.stderr)
        self.exit(int(ExitCode.CONFIG), f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line, listens for signals, and runs."""
    parser = _Parser(
        prog="plumbline-trainer",
        description="Post-trains a language model as a PreferenceJob or RLVRJob says, with or without a cluster.",
    )
    parser.add_argument(
        "--config",
        type=Path,
        default=Path(CONFIG_PATH),
        help="JSON or YAML: a snapshot, or a job manifest with local `path:` sources (default: %(default)s)",
    )
    parser.add_argument(
        "--preflight", action="store_true", help="check the inputs in seconds, without a GPU, and train nothing"
    )
    parser.add_argument(
        "--port", type=int, default=PORT, help="port of /metrics, /v1/status and /healthz; 0 takes any free one"
    )
    parser.add_argument(
        "--termination-log", type=Path, default=Path(TERMINATION_LOG_PATH), help="file for the last words"
    )
    options = parser.parse_args(arguments)

    # Before the import of torch, which takes seconds: a signal in that time must be heard too.
    stop = StopRequest()
    stop.listen()
    from plumbline_trainer.run import Options, run

    return run(Options(options.config, options.preflight, options.port, options.termination_log), stop)


if __name__ == "__main__":
    sys.exit(main())
