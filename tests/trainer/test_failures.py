"""What errors of libraries mean: each gets the failure, and so the exit code and the reason, that it stands for."""

from __future__ import annotations

import errno

import pytest
import torch

from plumbline_api.conditions import Reason
from plumbline_api.contract import EXIT_REASONS, PRECISE_REASONS, ExitCode
from plumbline_trainer.failures import TrainerFailure, collective_failure, known_failure

KNOWN: dict[str, tuple[Exception, str]] = {
    "full volume": (OSError(errno.ENOSPC, "No space left on device", "/plumbline/checkpoints"), "DiskFull"),
    "quota": (OSError(errno.EDQUOT, "Disk quota exceeded"), "DiskFull"),
    "Python's memory": (MemoryError(), "HostOutOfMemory"),
    "no memory for a process": (OSError(errno.ENOMEM, "Cannot allocate memory"), "HostOutOfMemory"),
    "a broken GPU": (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "GpuError"),
}


@pytest.mark.parametrize("name", KNOWN)
def test_errors_whose_meaning_is_known(name: str) -> None:
    error, reason = KNOWN[name]
    failure = known_failure(error)
    assert failure is not None
    assert (failure.exit_code, failure.reason) == (ExitCode.INFRASTRUCTURE, reason)


def test_torch_that_gets_no_host_memory() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**61, dtype=torch.uint8)
    failure = known_failure(refused.value)
    assert failure is not None
    assert failure.reason == Reason.HOST_OUT_OF_MEMORY
    assert "spec.resources.memory" in str(failure)


@pytest.mark.parametrize("error", [ValueError("no"), KeyError("x"), RuntimeError("shape mismatch"), OSError("gone")])
def test_other_errors_are_not_explained_away(error: Exception) -> None:
    assert known_failure(error) is None


COLLECTIVES = {
    "Timed out waiting 1800000ms for recv operation to complete": "CollectiveTimeout",
    "wait timeout after 600000ms, keys: /default_pg/0": "CollectiveTimeout",
    "The client socket has timed out after 600000ms while trying to connect to (10.0.0.1, 29400).": "CollectiveTimeout",
    "Connection closed by peer [10.0.0.2]:40001": "LostPeer",
    "Read error [10.0.0.2]:40001: Connection reset by peer": "LostPeer",
    "Broken pipe": "LostPeer",
    "Detected mismatch between collectives on ranks": "InfrastructureError",
}


@pytest.mark.parametrize("text", COLLECTIVES)
def test_what_went_wrong_between_ranks(text: str) -> None:
    failure = collective_failure(RuntimeError(f"{text}\nmore"), "summing gradients")
    assert failure.reason == COLLECTIVES[text]
    assert failure.exit_code == ExitCode.INFRASTRUCTURE
    assert "summing gradients" in str(failure) and "more" not in str(failure)


def test_a_full_disk_between_ranks_is_a_full_disk() -> None:
    assert collective_failure(OSError(errno.ENOSPC, "full"), "gathering").reason == Reason.DISK_FULL


def test_every_reason_of_a_failure_is_one_that_the_operator_takes() -> None:
    pending = [TrainerFailure]
    while pending:
        failure = pending.pop()
        pending += failure.__subclasses__()
        code = failure.exit_code
        assert failure("").reason in {EXIT_REASONS[code], *PRECISE_REASONS.get(code, ())}, failure
