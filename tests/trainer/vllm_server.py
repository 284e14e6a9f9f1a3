"""A server on loopback that speaks vLLM's protocol and generates with the trainer's own engine.

Requests, replies and errors have the fields, types and limits of vLLM 0.32's `/v1/completions`, `/v1/models`, dynamic
LoRA endpoints and development endpoints. Requests are read strictly: a field that vLLM does not have is an error here,
where vLLM would overlook it.
"""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import NoneType
from urllib.parse import parse_qs, urlsplit

import peft
from transformers import AutoModelForCausalLM

from plumbline_api.methods.sampling import Sampling
from plumbline_trainer.rollout.constrained import grammar_of
from plumbline_trainer.rollout.engine import Engine
from plumbline_trainer.rollout.limits import Limits
from plumbline_trainer.rollout.requests import Request
from plumbline_trainer.rollout.sampling import Stream

FIELDS = {
    "model": str,
    "prompt": list,
    "n": int,
    "max_tokens": int,
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "min_p": float,
    "repetition_penalty": float,
    "presence_penalty": float,
    "frequency_penalty": float,
    "min_tokens": int,
    "stop": list,
    "stop_token_ids": list,
    "ignore_eos": bool,
    "skip_special_tokens": bool,
    "logprobs": (int, NoneType),
    "return_token_ids": bool,
    "stream": bool,
    "seed": int,
    "structured_outputs": dict,
}
"""Those of vLLM's CompletionRequest that the trainer may use."""


def stream_of(seed):
    """The random numbers that the server uses for a completion with this seed."""
    return Stream(seed & 0xFFFFFFFF, "server", seed >> 32, 0, 0)


class Refusal(Exception):
    def __init__(self, status, message, kind="BadRequestError"):
        super().__init__(message)
        self.status, self.kind = status, kind


class VllmServer(ThreadingHTTPServer):
    """Serves the model of `directory` as `policy`; with `adapters` and `development` the endpoints of these modes."""

    daemon_threads = True

    def __init__(self, directory, tokenizer, *, end_token, adapters=True, development=True, versions=True, key=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.directory, self.tokenizer, self.end_token, self.key = Path(directory), tokenizer, end_token, key
        self.has_adapters, self.is_development, self.has_versions = adapters, development, versions
        self.max_model_len = 64
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.start_anew()
        self.seen, self.paths, self.times = [], [], []
        self.active = self.most_active = self.connections = self.broken_off = 0
        self.behave = lambda handler, path, body, attempt: False
        """May answer in the server's place, and then returns true."""

        self.change = lambda document: document
        """Changes the document of a completion."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def start_anew(self):
        """What a restart does: the weights of the start, no adapters."""
        self.base = AutoModelForCausalLM.from_pretrained(self.directory).eval()
        self.loaded, self.cache_is_stale, self.version = {}, False, None

    def bodies(self, path="/v1/completions"):
        return [body for seen, body in self.seen if seen == path]

    def finish_request(self, request, client_address):
        self.connections += 1
        super().finish_request(request, client_address)

    def models(self):
        served = [("policy", self.max_model_len), *((name, None) for name in self.loaded)]
        data = [{"id": name, "object": "model", "owned_by": "vllm", "max_model_len": room} for name, room in served]
        return {"object": "list", "data": data}

    def complete(self, body):
        check_types(body)
        name, prompt, count = body["model"], body["prompt"], body.get("n", 1)
        if name != "policy" and name not in self.loaded:
            raise Refusal(404, f"The model `{name}` does not exist.", "NotFoundError")
        if self.cache_is_stale:
            raise Refusal(500, "the prefix cache is that of former weights", "InternalServerError")
        greedy = body["temperature"] == 0
        if greedy and count > 1:
            raise Refusal(400, f"n must be 1 when using greedy sampling, got {count}.")
        if len(prompt) + body["max_tokens"] > self.max_model_len:
            raise Refusal(400, f"This model's maximum context length is {self.max_model_len} tokens.")
        ends = set(body["stop_token_ids"])
        if not body["ignore_eos"]:
            ends.add(self.end_token)
        structured = body.get("structured_outputs", {})
        sampling = Sampling(
            temperature=body["temperature"] or 1.0,
            top_p=body["top_p"],
            top_k=body["top_k"] or None,
            min_p=body["min_p"],
            regex=structured.get("regex"),
            json_schema=structured.get("json"),
        )
        limits = Limits(
            body["max_tokens"],
            count,
            frozenset(ends),
            tuple(body["stop"]),
            # vLLM counts what comes before an end
            body["min_tokens"] + 1 if body["min_tokens"] else 0,
            body["repetition_penalty"],
            grammar_of(sampling, self.tokenizer, frozenset(ends)),
        )
        streams = [stream_of(body.get("seed", 0) + index) for index in range(count)]
        with self.lock:
            model = self.loaded.get(name, self.base)
            engine = Engine(model, self.tokenizer, limits)
            [group] = engine.generate([Request(prompt, streams)], None if greedy else sampling)
        return {
            "id": "cmpl-0123456789abcdef",
            "object": "text_completion",
            "created": 1,
            "model": name,
            "choices": [self.choice(index, prompt, one, body) for index, one in enumerate(group)],
            "usage": {"prompt_tokens": len(prompt), "completion_tokens": sum(len(one.tokens) for one in group)},
        }

    def choice(self, index, prompt, completion, body):
        text = self.tokenizer.decode(completion.tokens, skip_special_tokens=body["skip_special_tokens"])
        logprobs = None
        if body["logprobs"] is not None:
            logprobs = {
                "text_offset": [0] * len(completion.tokens),
                "token_logprobs": completion.logprobs,
                "tokens": [self.tokenizer.decode([token]) for token in completion.tokens],
                "top_logprobs": [{} for _ in completion.tokens],
            }
        return {
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": completion.finish,
            "stop_reason": None,
            "token_ids": completion.tokens if body["return_token_ids"] else None,
            "prompt_token_ids": prompt if body["return_token_ids"] else None,
        }

    def load_adapter(self, body):
        name, path = body["lora_name"], Path(body["lora_path"])
        if name in self.loaded:
            raise Refusal(400, f"The lora adapter '{name}' has already been loaded.", "InvalidUserInput")
        if not (path / "adapter_config.json").is_file():
            raise Refusal(404, f"Loading lora {name} failed: No adapter found for {path}", "NotFoundError")
        fresh = AutoModelForCausalLM.from_pretrained(self.directory)
        self.loaded[name] = peft.PeftModel.from_pretrained(fresh, path).eval()

    def unload_adapter(self, body):
        if body["lora_name"] not in self.loaded:
            raise Refusal(404, f"The lora adapter '{body['lora_name']}' cannot be found.", "NotFoundError")
        del self.loaded[body["lora_name"]]

    def call_workers(self, body):
        if body["method"] != "reload_weights":
            raise Refusal(500, f"no method {body['method']}", "InternalServerError")
        self.base = AutoModelForCausalLM.from_pretrained(body["kwargs"]["weights_path"]).eval()
        self.cache_is_stale = True
        return {"results": [None]}


def serving(server):
    """Yields the server while a thread of its own runs it."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.closing.set()
    server.shutdown()
    thread.join()
    server.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.serve(None)

    def do_POST(self):
        content = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.serve(json.loads(content) if content else {})

    def serve(self, body):
        server, url = self.server, urlsplit(self.path)
        with server.lock:
            server.seen.append((url.path, body))
            server.paths.append(url.path)
            server.times.append(time.monotonic())
            server.active += 1
            server.most_active = max(server.most_active, server.active)
            attempt = sum(seen == (url.path, body) for seen in server.seen)
        try:
            if server.behave(self, url.path, body, attempt):
                return
            self.answer(url, body)
        except (BrokenPipeError, ConnectionResetError):
            server.broken_off += 1
        finally:
            with server.lock:
                server.active -= 1

    def answer(self, url, body):
        server = self.server
        try:
            if server.key and url.path.startswith("/v1") and self.headers["authorization"] != f"Bearer {server.key}":
                return self.reply({"error": "Unauthorized"}, 401)
            if url.path == "/v1/models":
                return self.reply(server.models())
            if url.path == "/v1/completions":
                return self.reply(server.change(server.complete(body)))
            if server.has_adapters and url.path == "/v1/load_lora_adapter":
                server.load_adapter(body)
                return self.reply(raw="Success: LoRA adapter added successfully.")
            if server.has_adapters and url.path == "/v1/unload_lora_adapter":
                server.unload_adapter(body)
                return self.reply(raw="Success: LoRA adapter removed successfully.")
            if server.is_development and url.path == "/collective_rpc":
                return self.reply(server.call_workers(body))
            if server.is_development and url.path == "/reset_prefix_cache":
                assert parse_qs(url.query) == {"reset_running_requests": ["true"]}
                server.cache_is_stale = False
                return self.reply(raw="")
            if server.is_development and server.has_versions and url.path == "/update_weight_version":
                server.version = body["new_version"]
                return self.reply({"success": True, "new_version": server.version})
            if server.is_development and server.has_versions and url.path == "/weight_info":
                return self.reply({"weight_version": server.version})
            return self.reply({"detail": "Not Found"}, 404)
        except Refusal as refusal:
            error = {"message": str(refusal), "type": refusal.kind, "param": None, "code": refusal.status}
            return self.reply({"error": error}, refusal.status)

    def reply(self, document=None, status=200, raw=None, **headers):
        content = (json.dumps(document) if raw is None else raw).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)
        return True

    def log_message(self, *arguments):
        """Silent."""


def check_types(body):
    for name, value in body.items():
        if name not in FIELDS:
            raise Refusal(400, f"unknown field {name}")
        if not isinstance(value, FIELDS[name]):
            raise Refusal(400, f"{name} must be {FIELDS[name]}, got {value!r}")
    if not all(type(token) is int and token >= 0 for token in body["prompt"]):
        raise Refusal(400, "prompt must be token ids")
    if not -(2**63) <= body.get("seed", 0) < 2**63:
        raise Refusal(400, "seed is no int64")
