"""The errors that have an exit code of the contract. Everything else that escapes is a trainer bug (70)."""

from __future__ import annotations

import errno
import re

from plumbline_api.conditions import Reason
from plumbline_api.contract import EXIT_REASONS, ExitCode


class TrainerFailure(Exception):
    """A failure that is explained to the user: its text names field, file and line where there is one."""

    exit_code: ExitCode = ExitCode.TRAINER_BUG

    @property
    def reason(self) -> Reason:
        return EXIT_REASONS[self.exit_code]


class ConfigError(TrainerFailure):
    """The configuration cannot be used."""

    exit_code = ExitCode.CONFIG


class DataError(TrainerFailure):
    """Data is missing, empty or malformed."""

    exit_code = ExitCode.DATA


class ModelError(TrainerFailure):
    """Model or tokenizer cannot be loaded or does not fit the job."""

    exit_code = ExitCode.MODEL


class GpuOutOfMemory(TrainerFailure):
    """GPU memory is exhausted."""

    exit_code = ExitCode.GPU_OUT_OF_MEMORY


class Diverged(TrainerFailure):
    """Loss or gradient is not finite."""

    exit_code = ExitCode.DIVERGED


class GuardrailFailed(Diverged):
    """A guardrail with action Fail was broken, or the rollbacks of one are used up."""

    @property
    def reason(self) -> Reason:
        return Reason.GUARDRAIL_FAILED


class SuspendedByGuardrail(TrainerFailure):
    """A guardrail with action Suspend was broken; the run is saved, and a person is to look."""

    exit_code = ExitCode.STOPPED_SAVED

    @property
    def reason(self) -> Reason:
        return Reason.SUSPENDED_BY_GUARDRAIL


class RewardFunctionError(TrainerFailure):
    """A reward component failed more often than it may."""

    exit_code = ExitCode.REWARD_FUNCTION


class RewardFunctionTimeout(RewardFunctionError):
    """A reward component was too slow for its time limit more often than it may."""

    @property
    def reason(self) -> Reason:
        return Reason.REWARD_FUNCTION_TIMEOUT


class CheckpointUnreadable(TrainerFailure):
    """Checkpoints exist and none of them verifies."""

    exit_code = ExitCode.CHECKPOINT_UNREADABLE


class InfrastructureError(TrainerFailure):
    """A failure outside the job; the same job may succeed when tried again."""

    exit_code = ExitCode.INFRASTRUCTURE


class DiskFull(InfrastructureError):
    """A checkpoint or the output could not be written because the volume is full."""

    @property
    def reason(self) -> Reason:
        return Reason.DISK_FULL


class HostOutOfMemory(InfrastructureError):
    """An allocation of host memory was refused. More often the kernel kills, and nobody can say a word."""

    @property
    def reason(self) -> Reason:
        return Reason.HOST_OUT_OF_MEMORY


class GpuError(InfrastructureError):
    """The GPU or its driver failed."""

    @property
    def reason(self) -> Reason:
        return Reason.GPU_ERROR


class CollectiveTimeout(InfrastructureError):
    """The other ranks did not come to a collective in time."""

    @property
    def reason(self) -> Reason:
        return Reason.COLLECTIVE_TIMEOUT


class LostPeer(InfrastructureError):
    """The connection to another rank broke."""

    @property
    def reason(self) -> Reason:
        return Reason.LOST_PEER


_REFUSED_MEMORY = re.compile(r"DefaultCPUAllocator: (?:can't allocate|not enough) memory|std::bad_alloc")
_FAILED_GPU = re.compile(
    r"uncorrectable (?:ECC|NVLink) error|hardware stack error|GPU is lost|fallen off the bus|busy or unavailable"
)
_TIMED_OUT = re.compile(r"[Tt]imed out|[Tt]imeout")
_BROKEN_CONNECTION = re.compile(
    r"[Cc]onnection (?:was )?(?:closed|reset|refused)|[Bb]roken pipe|Socket not connected"
    r"|ncclRemoteError|remote process exit"
)


def known_failure(error: Exception) -> TrainerFailure | None:
    """What an error of a library below the trainer means, where that is known."""
    text = first_line(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"a volume is full: {error}")
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return HostOutOfMemory(_MORE_MEMORY.format(text or type(error).__name__))
    if isinstance(error, RuntimeError) and _REFUSED_MEMORY.search(str(error)):
        return HostOutOfMemory(_MORE_MEMORY.format(text))
    if isinstance(error, RuntimeError) and _FAILED_GPU.search(str(error)):
        return GpuError(f"the GPU or its driver failed: {text}")
    return None


_MORE_MEMORY = (
    "host memory is exhausted: {}; raise spec.resources.memory or lower training.microBatchSize or the token limits"
)


def collective_failure(error: Exception, doing: str) -> TrainerFailure:
    """What an error of torch.distributed means that came while the ranks were `doing` something together."""
    known = known_failure(error)
    if known is not None:
        return known
    text, said = str(error), first_line(error) or type(error).__name__
    if _BROKEN_CONNECTION.search(text):
        return LostPeer(f"lost contact with the other ranks while {doing}: {said}")
    if _TIMED_OUT.search(text):
        return CollectiveTimeout(f"waited too long for the other ranks while {doing}: {said}")
    return InfrastructureError(f"{doing} over all ranks failed: {said}")


def first_line(error: BaseException) -> str:
    """The first line of what an error says; empty where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else ""
