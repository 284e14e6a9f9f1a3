"""Ranks: sums over all of them, agreement on a stop, and the same parameters everywhere.

Every collective starts with a small agreement on whether any rank has been asked to stop. If one has, all ranks raise
`StopRequested` from the same collective, wherever each of them is, so that no rank waits for a peer that has left.
A rank that leaves between collectives takes part in that agreement through `announce_stop`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from plumbline_trainer.failures import ConfigError, TrainerFailure, collective_failure
from plumbline_trainer.reporting.metrics import Metric, Metrics, merge
from plumbline_trainer.stopping import StopRequest, StopRequested

T = TypeVar("T")

RENDEZVOUS_TIMEOUT = timedelta(minutes=10)
"""How long ranks wait for each other at the start: pods of one attempt may pull their image at different speeds."""

COLLECTIVE_TIMEOUT_VARIABLE = "COLLECTIVE_TIMEOUT_SECONDS"
COLLECTIVE_TIMEOUT_SECONDS = 1800
"""How long a rank waits for a peer inside a collective; the slowest rollout of a step must fit."""

BUCKET_BYTES = 32 * 2**20
"""Gradients are summed in flat buckets of about this size."""


class Ranks:
    """The processes of one run; a single one unless torchrun's variables say otherwise."""

    def __init__(self, stop: StopRequest, device: torch.device, rank: int = 0, world_size: int = 1) -> None:
        self.stop = stop
        self.device = device
        self.rank = rank
        self.world_size = world_size
        self._objects: dist.ProcessGroup | None = None
        if world_size > 1 and dist.get_backend() != "gloo":
            # flags and metrics live on the CPU and must not wait for the device
            self._objects = dist.new_group(backend="gloo", timeout=collective_timeout())

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes checkpoints and results and answers on the port."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.world_size == 1

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Element-wise sum over ranks; a new tensor of the same shape, type and device."""
        with self._collective("summing over ranks"):
            result = values.detach().clone()
            if not self.alone:
                moved = result.to(self.device)
                dist.all_reduce(moved)
                result = moved.to(values.device)
            return result

    def gather(self, value: T) -> list[T]:
        """Every rank's picklable value, in the order of ranks."""
        with self._collective("gathering from ranks"):
            if self.alone:
                return [value]
            values: list[Any] = [None] * self.world_size
            dist.all_gather_object(values, value, group=self._objects)
            return values

    def broadcast(self, value: T) -> T:
        """Rank 0's picklable value, on every rank."""
        with self._collective("broadcasting from rank 0"):
            if self.alone:
                return value
            box: list[Any] = [value]
            dist.broadcast_object_list(box, src=0, group=self._objects)
            return cast(T, box[0])

    def on_main(self, work: Callable[[], T]) -> T:
        """What `work` returned on rank 0, on every rank; a `TrainerFailure` of it is raised on every rank."""
        outcome: Any = None
        if self.is_main:
            try:
                outcome = work()
            except TrainerFailure as failure:
                outcome = failure
        outcome = self.broadcast(outcome)
        if isinstance(outcome, TrainerFailure):
            raise outcome
        return cast(T, outcome)

    def sum_metrics(self, metrics: Metrics) -> dict[str, Metric]:
        """Metrics summed over ranks; a name may be missing on some of them."""
        plain = {name: Metric(float(metric.total), float(metric.count)) for name, metric in metrics.items()}
        return merge(self.gather(plain))

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Replaces every gradient by its sum over ranks; a missing one counts as zero."""
        with self._collective("summing gradients"):
            for parameter in parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            if self.alone:
                return
            for bucket in _buckets([parameter.grad for parameter in parameters if parameter.grad is not None]):
                flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
                dist.all_reduce(flat)
                offset = 0
                for gradient in bucket:
                    gradient.copy_(flat[offset : offset + gradient.numel()].view_as(gradient))
                    offset += gradient.numel()

    def copy_from_main(self, tensors: Iterable[torch.Tensor]) -> None:
        """Overwrites tensors with those of rank 0."""
        with self._collective("copying parameters"):
            if not self.alone:
                for tensor in tensors:
                    dist.broadcast(tensor.data, src=0)

    def barrier(self) -> None:
        """Waits until every rank is here."""
        self.gather(None)

    def announce_stop(self) -> None:
        """Tells the peers, at their next collective, that this rank stops. Call it where `StopRequested` ends up."""
        if self.stop.honoured:
            return
        self.stop.request()
        if not self.alone:
            with translated("agreeing on a stop"):
                self._any_rank_stops()
        self.stop.honour()

    def close(self) -> None:
        """Leaves the group. Never raises: the run is over."""
        if not self.alone and dist.is_initialized():
            try:
                dist.destroy_process_group()
            except RuntimeError:
                return

    @contextmanager
    def _collective(self, doing: str) -> Iterator[None]:
        if self.alone:
            self.stop.raise_if_requested()
            yield
            return
        with translated(doing):
            if self._any_rank_stops():
                self.stop.honour()
                raise StopRequested(self.stop.signal_name)
            yield

    def _any_rank_stops(self) -> bool:
        if self.stop.honoured:
            return False
        flag = torch.tensor([int(self.stop.pending)])
        dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._objects)
        return bool(flag.item())


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turns the errors of torch.distributed into the failure that may be tried again."""
    try:
        yield
    except (dist.DistError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise collective_failure(error, doing) from error


def _buckets(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Consecutive tensors of one type, about `BUCKET_BYTES` at a time."""
    bucket: list[torch.Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (bucket[0].dtype != tensor.dtype or size >= BUCKET_BYTES):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel() * tensor.element_size()
    if bucket:
        yield bucket


def join(stop: StopRequest) -> Ranks:
    """Joins the run that torchrun's variables describe (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT).

    Uses NCCL where each rank has a GPU and gloo otherwise. Raises `InfrastructureError` when the peers do not come,
    `ConfigError` when the variables are incomplete.
    """
    world_size = _number("WORLD_SIZE", 1)
    rank = _number("RANK", 0)
    local_rank = _number("LOCAL_RANK", 0)
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    if world_size == 1:
        return Ranks(stop, device)
    # NCCL refuses two ranks on one GPU
    own_gpu = device.type == "cuda" and torch.cuda.device_count() >= _number("LOCAL_WORLD_SIZE", 1)
    backend = "nccl" if own_gpu else "gloo"
    with translated("joining the run"):
        dist.init_process_group(
            backend, store=_store(rank, world_size), rank=rank, world_size=world_size, timeout=collective_timeout()
        )
        return Ranks(stop, device, rank, world_size)


def collective_timeout() -> timedelta:
    """How long a rank waits for a peer: of the environment, for networks and jobs that need another than the usual."""
    seconds = _number(COLLECTIVE_TIMEOUT_VARIABLE, COLLECTIVE_TIMEOUT_SECONDS)
    if seconds < 1:
        raise ConfigError(f"environment variable {COLLECTIVE_TIMEOUT_VARIABLE} must be at least 1")
    return timedelta(seconds=seconds)


def _store(rank: int, world_size: int) -> dist.Store:
    port = _number("MASTER_PORT")
    address = os.environ.get("MASTER_ADDR")
    if not address:
        raise ConfigError("environment variable MASTER_ADDR must be set where WORLD_SIZE is above 1")
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # torchrun's agent on the master machine serves the store already
        return dist.TCPStore(address, port, world_size, is_master=False, timeout=RENDEZVOUS_TIMEOUT)
    # Rank 0 reaches its own store over loopback: a service address in front of it need not route back to its own pod.
    host = "127.0.0.1" if rank == 0 else address
    return dist.TCPStore(
        host, port, world_size, is_master=rank == 0, timeout=RENDEZVOUS_TIMEOUT, wait_for_workers=False
    )


def _number(variable: str, default: int | None = None) -> int:
    text = os.environ.get(variable)
    if text is None and default is not None:
        return default
    if text is None or not text.isdigit():
        raise ConfigError(f"environment variable {variable} must be a number, but it is {text!r}")
    return int(text)
