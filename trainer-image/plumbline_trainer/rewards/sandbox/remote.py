"""The tests' side of `objects`: the program's functions, classes and instances as `Remote` objects."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Container, Mapping
from contextlib import suppress
from typing import Any

from plumbline_trainer.rewards.sandbox.objects import BINARY, UNARY, Channel, is_shared
from plumbline_trainer.rewards.sandbox.values import Exchange, Wire


class Connection:
    """The tests' end: asks, and answers calls of functions that the tests have passed."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._functions: list[Callable[..., Any]] = []
        self._trusted: set[int] = set()
        self._methods: set[int] = set()
        self._errors: dict[int, type[BaseException]] = {}

    def names(self, modules: Container[str]) -> dict[str, Any]:
        """The program's public names, but for those of Python's own functions and the `modules` that tests rely on.

        What the program has imported from the standard library or NumPy is imported here, not asked for there.
        """
        wires = self._channel.receive()["names"]
        exchange = self._exchange(trusting=True)
        found = {}
        for name, wire in wires.items():
            if hasattr(builtins, name):
                continue
            if isinstance(wire, dict) and "import" in wire:
                value = _import(*wire["import"])
                if value is not None:
                    found[name] = value
            elif name not in modules:
                found[name] = exchange.decode(wire)
        return found

    def trusts(self, handle: int) -> bool:
        """Whether the tests made this object or imported it by name."""
        return handle in self._trusted

    def may_take_values(self, handle: int) -> bool:
        """Whether a call of this object may have arguments: it is trusted, or a method of an object that is."""
        return handle in self._trusted or handle in self._methods

    def attribute(self, remote: Remote, name: str) -> Any:
        value = self.ask("getattr", remote, name)
        if type(value) is Remote and self.trusts(object.__getattribute__(remote, "_handle")):
            self._methods.add(object.__getattribute__(value, "_handle"))
        return value

    def ask(
        self, operation: str, *arguments: Any, named: Mapping[str, Any] | None = None, trusting: bool = False
    ) -> Any:
        """What the program's process makes of an operation; an object in the answer is trusted if `trusting`.

        Raises what the program raised, as the built-in class that it is or derives from, and `Ended`.
        """
        exchange = self._exchange(trusting)
        wires = [exchange.encode(value) for value in arguments]
        named_wires = {name: exchange.encode(value) for name, value in (named or {}).items()}
        self._channel.send({"do": operation, "arguments": wires, "named": named_wires})
        while "call" in (message := self._channel.receive()):
            self._channel.send({"result": self._called(message)})
        if "raises" in message:
            raise self._error(message)
        value = exchange.decode(message["value"])
        exchange.apply(message["changes"])
        return value

    def _exchange(self, trusting: bool) -> Exchange:
        def find(wire: Wire) -> Any:
            [(kind, handle)] = wire.items()
            if type(handle) is not int or kind not in ("object", "class", "error"):
                raise ValueError(f"{kind} is no value")
            if trusting:
                self._trusted.add(handle)
            if kind == "error" and handle in self._trusted:
                return self._error_class(handle)
            return Remote(self, handle, kind == "class")

        return Exchange(self._export, find)

    def _export(self, value: Any) -> Wire:
        if type(value) is Remote:
            return {"own": object.__getattribute__(value, "_handle")}
        if not callable(value):
            raise TypeError(f"a {type(value).__name__} cannot be passed to the program")
        self._functions.append(value)
        return {"function": len(self._functions) - 1}

    def _called(self, message: Any) -> Wire:
        exchange = self._exchange(trusting=False)
        arguments = [exchange.decode(wire) for wire in message["arguments"]]
        named = {name: exchange.decode(wire) for name, wire in message["named"].items()}
        try:
            return {"value": exchange.encode(self._functions[message["call"]](*arguments, **named))}
        except Exception:
            return None

    def _error(self, message: Any) -> BaseException:
        kinds, said = message["raises"], message["says"]
        wire = message["class"]
        handle = wire.get("error") if isinstance(wire, dict) else None
        if type(handle) is int and handle in self._errors:
            return self._errors[handle](said)
        return _built_in_error(kinds)(said)

    def _error_class(self, handle: int) -> type[BaseException]:
        """What the tests see of an exception class of the program, so that they can catch it."""
        return self._errors.setdefault(handle, type("ErrorOfTheProgram", (Exception,), {}))


def _built_in_error(kinds: list[str]) -> type[BaseException]:
    """The nearest built-in class of an error; one that would end the tests' process becomes an ordinary error."""
    for kind in kinds:
        found = getattr(builtins, str(kind), None)
        if isinstance(found, type) and issubclass(found, Exception):
            return found
    return RuntimeError


def _import(module: str, name: str | None) -> Any:
    if not is_shared(module):
        return None
    with suppress(ImportError):
        found = __import__(module, fromlist=["*"])
        return found if name is None else getattr(found, name, None)
    return None


class Remote:
    """An object of the program, used by the tests."""

    __slots__ = ("_connection", "_handle", "_is_class")

    def __init__(self, connection: Connection, handle: int, is_class: bool) -> None:
        object.__setattr__(self, "_connection", connection)
        object.__setattr__(self, "_handle", handle)
        object.__setattr__(self, "_is_class", is_class)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        connection: Connection = object.__getattribute__(self, "_connection")
        handle = object.__getattribute__(self, "_handle")
        if (arguments or named) and not connection.may_take_values(handle):
            raise TypeError("an object that the program returned takes no values of the tests")
        makes = connection.trusts(handle) and object.__getattribute__(self, "_is_class")
        return connection.ask("call", self, *arguments, named=named, trusting=makes)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _connection(self).attribute(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        _trusted(self, "setattr", name, value)

    def __getitem__(self, key: Any) -> Any:
        return _connection(self).ask("getitem", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        _trusted(self, "setitem", key, value)

    def __delitem__(self, key: Any) -> None:
        _trusted(self, "delitem", key)

    def __len__(self) -> int:
        return int(_connection(self).ask("len", self))

    def __iter__(self) -> Any:
        return _connection(self).ask("iter", self)

    def __next__(self) -> Any:
        return _connection(self).ask("next", self)

    def __contains__(self, value: Any) -> bool:
        return bool(_trusted(self, "contains", value))

    def __enter__(self) -> Any:
        return _trusted(self, "enter")

    def __exit__(self, *error: object) -> None:
        _trusted(self, "exit")

    def __eq__(self, other: object) -> bool:
        return _compare(self, "eq", other, otherwise=False)

    def __ne__(self, other: object) -> bool:
        return _compare(self, "ne", other, otherwise=True)

    def __hash__(self) -> int:
        return hash(_trusted(self, "hash"))

    def __bool__(self) -> bool:
        return bool(_trusted(self, "bool"))

    def __str__(self) -> str:
        return _text(self, "str")

    def __repr__(self) -> str:
        return _text(self, "repr")

    def __int__(self) -> int:
        return int(_trusted(self, "int"))

    def __float__(self) -> float:
        return float(_trusted(self, "float"))


def _connection(remote: Remote) -> Connection:
    connection: Connection = object.__getattribute__(remote, "_connection")
    return connection


def _trusted(remote: Remote, operation: str, *arguments: Any) -> Any:
    if not _connection(remote).trusts(object.__getattribute__(remote, "_handle")):
        raise TypeError(f"an object that the program returned takes no part in {operation}")
    return _connection(remote).ask(operation, remote, *arguments)


def _text(remote: Remote, operation: str) -> str:
    text = _trusted(remote, operation)
    if type(text) is not str:
        raise TypeError(f"{operation} gave no text")
    return text


def _compare(remote: Remote, operation: str, other: object, otherwise: bool) -> bool:
    """Equality is the program's to define among its own objects, and never with data."""
    if type(other) is not Remote:
        return otherwise
    connection = _connection(remote)
    if not any(connection.trusts(object.__getattribute__(side, "_handle")) for side in (remote, other)):
        return otherwise
    return bool(connection.ask(operation, remote, other))


def _between(name: str, turned: bool) -> Callable[[Remote, Any], Any]:
    def operate(remote: Remote, other: Any) -> Any:
        if not _connection(remote).trusts(object.__getattribute__(remote, "_handle")):
            raise TypeError(f"an object that the program returned takes no part in {name}")
        return _connection(remote).ask(name, *((other, remote) if turned else (remote, other)))

    return operate


for _name in BINARY:
    setattr(Remote, f"__{_name}__", _between(_name, turned=False))
    setattr(Remote, f"__r{_name}__", _between(_name, turned=True))
for _name in ("lt", "le", "gt", "ge"):
    setattr(Remote, f"__{_name}__", _between(_name, turned=False))
for _name in UNARY:
    setattr(Remote, f"__{_name}__", lambda remote, name=_name: _trusted(remote, name))
