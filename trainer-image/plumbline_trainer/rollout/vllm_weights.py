"""The weights of a vLLM server: brought up to date before a rollout, through a directory that both sides read.

Every update has a name and a folder of its own. For an adapter the name is the model that requests ask for, so no
reply can come from older weights, and the prefix cache, which vLLM keeps by adapter, cannot mix them. Weights as a
whole replace those of the server; its prefix cache is emptied, and servers that keep a weight version are asked for it
before every rollout, which tells of a server that was started anew in between.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from plumbline_api.methods.rollout_engine import AdapterSync, NoSync, Reload, Vllm
from plumbline_trainer.checkpoint.durable import disk_errors, equalize_permissions, flush_tree
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.failures import ConfigError, InfrastructureError
from plumbline_trainer.rollout.vllm_server import Call, Reply, Server

_UNKNOWN_PATH = (404, 405)
"""Statuses of a server that does not have an endpoint."""

_MARKER = "update"
"""An ordinary file in each folder; its content is the update's name."""


class ServedWeights:
    """Which weights a server has, and how it gets those of the policy. One for all engines of a job on a rank."""

    def __init__(self, parameters: Vllm, server: Server, owner: str) -> None:
        """`owner` is a name that no other job has: of the job's folder and of its adapters."""
        self._parameters, self._server = parameters, server
        self._sync: Reload | AdapterSync | NoSync = parameters.weight_sync.value
        self._owner = owner
        self._run = secrets.token_hex(4)
        self._updates = 0
        self._served: str | None = None
        self._reports_version = True
        self._version: int | None = None
        self.model: str = parameters.model
        """The name of the model that requests ask for."""

    @property
    def by_adapter(self) -> bool:
        """Whether `model` is an adapter of this job, and not the model that the server was started with."""
        return isinstance(self._sync, AdapterSync) and self._served is not None

    def check(self, longest: int, poll: Callable[[], None] = lambda: None) -> None:
        """Asks the server for its models. Raises `ConfigError` where it does not serve the job's, or has less room
        than `longest` tokens of prompt and completion."""
        [models] = self._server.run([Call("/v1/models", read=_models)], poll)
        if self._parameters.model not in models:
            known = ", ".join(sorted(models)) or "none"
            raise ConfigError(
                f"spec.rollout.engine.vllm.model: {self._server.url} does not serve {self._parameters.model!r}; "
                f"it serves: {known}"
            )
        room = models[self._parameters.model]
        if room is not None and room < longest:
            raise ConfigError(
                f"spec.rollout.engine.vllm: {self._server.url} serves {self._parameters.model!r} with --max-model-len "
                f"{room}, but training.maxPromptTokens and training.maxCompletionTokens are {longest} together"
            )

    def bring(self, model: Any, version: int, ranks: Ranks, poll: Callable[[], None] = lambda: None) -> None:
        """Makes the server generate with the weights of `model`, which are another `version` after every update.

        Rank 0 writes and tells the server; all ranks return once it is done. Nothing happens where the server has
        this version already. Raises `ConfigError`, `DiskFull` and `InfrastructureError` on every rank.
        """
        if isinstance(self._sync, NoSync) or version == self._version:
            return
        sync = self._sync
        served = ranks.on_main(lambda: self._pushed(sync, model, poll))
        self._served, self._version = served, version
        if isinstance(sync, AdapterSync):
            self.model = served

    def confirm(self, poll: Callable[[], None] = lambda: None) -> None:
        """Raises `InfrastructureError` where the server says that it has other weights than it was given."""
        served = self._served
        if not isinstance(self._sync, Reload) or served is None or not self._reports_version:
            return
        absent = {status: lambda reply: served for status in _UNKNOWN_PATH}
        [version] = self._server.run([Call("/weight_info", read=_version, unless=absent)], poll)
        if version != served:
            raise InfrastructureError(
                f"{self._server.url} has the weights {version!r} and not {served!r}: it was started anew, or "
                "somebody else changes its weights"
            )

    def close(self) -> None:
        """Deletes the job's folder; the server has what it needs. Never raises: the run is over."""
        if isinstance(self._sync, Reload | AdapterSync) and self._served is not None:
            shutil.rmtree(Path(self._sync.directory) / self._owner, ignore_errors=True)

    def _pushed(self, sync: Reload | AdapterSync, model: Any, poll: Callable[[], None]) -> str:
        """Gives the server the weights of `model`; the name of the update."""
        folder = Path(sync.directory) / self._owner
        with disk_errors(f"writing weights for the rollout server to {folder}"):
            if self._served is None:
                # what an earlier attempt of the job has left
                shutil.rmtree(folder, ignore_errors=True)
            self._updates += 1
            name = f"{self._owner}-{self._run}-{self._updates}"
            written = folder / name
            written.mkdir(parents=True)
            (written / _MARKER).write_text(name + "\n")
            if isinstance(sync, AdapterSync):
                model.save_pretrained(written, selected_adapters=["default"])
            else:
                model.save_pretrained(written)
            equalize_permissions(written, written / _MARKER)
            flush_tree(written)
        poll()
        seen = str(PurePosixPath(sync.server_directory or sync.directory) / self._owner / name)
        if isinstance(sync, AdapterSync):
            self._load_adapter(name, seen, poll)
        else:
            self._reload(name, seen, poll)
        with disk_errors(f"deleting old weights in {folder}"):
            for former in folder.iterdir():
                if former != written:
                    shutil.rmtree(former)
        return name

    def _load_adapter(self, name: str, path: str, poll: Callable[[], None]) -> None:
        """Loads the adapter and unloads the job's older ones."""
        body = {"lora_name": name, "lora_path": path}
        self._server.run([Call("/v1/load_lora_adapter", body, _nothing, _refused_adapter)], poll)
        [models] = self._server.run([Call("/v1/models", read=_models)], poll)
        if name not in models:
            raise InfrastructureError(
                f"{self._server.url} does not list the adapter {name} after loading it: several servers behind one "
                "address, or one that was started anew"
            )
        old = [model for model in models if model.startswith(f"{self._owner}-") and model != name]
        gone = {404: _nothing}
        self._server.run([Call("/v1/unload_lora_adapter", {"lora_name": one}, _nothing, gone) for one in old], poll)

    def _reload(self, name: str, path: str, poll: Callable[[], None]) -> None:
        """Replaces the weights and forgets what was computed with the old ones."""
        body = {
            "method": "reload_weights",
            "kwargs": {"weights_path": path},
            "timeout": self._parameters.timeout_seconds,
        }
        self._server.run([Call("/collective_rpc", body, _nothing, _refused_reload)], poll)
        # without the flag a request that is still running would keep the old cache alive
        reset = "/reset_prefix_cache?reset_running_requests=true"
        self._server.run([Call(reset, read=_nothing, posts=True)], poll)
        absent = {status: lambda reply: False for status in _UNKNOWN_PATH}
        version = Call("/update_weight_version", {"new_version": name}, lambda reply: True, absent)
        [self._reports_version] = self._server.run([version], poll)


def _nothing(reply: Reply) -> None:
    """The reply says no more than that it was done."""


def _models(reply: Reply) -> dict[str, int | None]:
    """Names of the served models, with the longest sequence of each where the server tells."""
    try:
        return {one["id"]: one.get("max_model_len") for one in reply.document()["data"]}
    except (KeyError, TypeError, AttributeError):
        raise ConfigError(f"{reply.url}: the reply is no list of models; is this a vLLM server?") from None


def _version(reply: Reply) -> Any:
    document = reply.document()
    return document.get("weight_version") if isinstance(document, dict) else None


def _no_adapters(reply: Reply) -> ConfigError:
    return reply.refused("; the server must run with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True")


def _bad_adapter(reply: Reply) -> ConfigError:
    return reply.refused("; spec.rollout.engine.vllm.weightSync.lora must name a directory that the server reads")


def _no_reload(reply: Reply) -> ConfigError:
    return reply.refused("; the server must run with VLLM_SERVER_DEV_MODE=1 to take weights")


_refused_adapter = {
    400: _bad_adapter,
    404: lambda reply: _no_adapters(reply) if "detail" in reply.text else _bad_adapter(reply),
    405: _no_adapters,
}
"""vLLM answers 404 for a path that has no adapter, FastAPI with a `detail` for an endpoint that there is not."""

_refused_reload = dict.fromkeys(_UNKNOWN_PATH, _no_reload)
