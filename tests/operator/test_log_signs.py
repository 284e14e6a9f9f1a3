"""What the last lines of a log say: the words of the libraries, and which of several counts."""

from __future__ import annotations

import pytest

from plumbline_operator.decide.diagnosis import Evidence, diagnose_gang, diagnose_pod
from plumbline_operator.decide.log_signs import LONGEST_LINE, sign_in_log
from plumbline_operator.pods import ContainerView, PodView

LINES = {
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.": "GpuOutOfMemory",
    "RuntimeError: CUDA error: out of memory": "GpuOutOfMemory",
    "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`": "GpuOutOfMemory",
    "RuntimeError: CUDA error: uncorrectable ECC error encountered": "GpuError",
    "OSError: [Errno 28] No space left on device": "DiskFull",
    "safetensors_rust.SafetensorError: I/O error: Disk quota exceeded (os error 122)": "DiskFull",
    "RuntimeError: [enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
    " to allocate 68719476736 bytes. Error code 12 (Cannot allocate memory)": "HostOutOfMemory",
    "terminate called after throwing an instance of 'std::bad_alloc'": "HostOutOfMemory",
    "RuntimeError: DataLoader worker (pid 31) is killed by signal: Bus error. It is possible that dataloader's workers"
    " are out of shared memory, insufficient shared memory (shm)": "HostOutOfMemory",
    "[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, OpType=ALLREDUCE, NumelIn=1,"
    " Timeout(ms)=600000) ran for 600029 milliseconds before timing out.": "CollectiveTimeout",
    "RuntimeError: [gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv operation to"
    " complete": "CollectiveTimeout",
    "RuntimeError: [gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.244.0.7]:40312": "LostPeer",
    "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting.": "LostPeer",
    "RuntimeError: probability tensor contains either `inf`, `nan` or element < 0": "Diverged",
}


@pytest.mark.parametrize("line", LINES)
def test_each_librarys_words_are_known(line: str) -> None:
    found = sign_in_log(f"first\n{line}\nlast words that nobody knows\n")
    assert found is not None
    assert found[0].reason == LINES[line]
    assert found[1] == line[:LONGEST_LINE]


def test_the_newest_line_counts() -> None:
    found = sign_in_log("Connection reset by peer\nretrying\nCUDA out of memory\n")
    assert found is not None and found[0].reason == "GpuOutOfMemory"


def test_lines_that_mean_nothing_mean_nothing() -> None:
    assert sign_in_log('{"event": "step", "loss": 0.5}\nall is well\n') is None
    assert sign_in_log("") is None


def ended(code: int, rank: int = 0) -> PodView:
    return PodView(f"p-{rank}", f"u-{rank}", 1, rank, phase="Failed", containers=(ContainerView("t", exit_code=code),))


@pytest.mark.parametrize("code", [1, 3, 70, 75, 134, 137])
def test_the_log_explains_an_exit_code_that_leaves_the_cause_open(code: int) -> None:
    finding = diagnose_pod(ended(code), Evidence(logs={"p-0": "CUDA out of memory\n"}))
    assert finding is not None
    assert finding.reason == "GpuOutOfMemory"
    assert f"exit code {code}" in finding.message and "CUDA out of memory" in finding.message


@pytest.mark.parametrize("code", [64, 65, 66, 72, 73, 74, 85, 86])
def test_the_log_is_not_asked_where_the_trainer_has_said_it(code: int) -> None:
    finding = diagnose_pod(ended(code), Evidence(logs={"p-0": "CUDA out of memory\n"}))
    assert finding is not None
    assert finding.reason != "GpuOutOfMemory"


def test_a_rank_that_aborted_because_its_peer_was_gone_is_not_the_cause() -> None:
    pods = [ended(134, 0), ended(137, 1)]
    finding = diagnose_gang(pods, Evidence(logs={"p-0": "Connection closed by peer [10.0.0.1]:1\n"}))
    assert finding is not None and finding.pod is not None
    assert (finding.pod.name, finding.reason) == ("p-1", "Killed")
