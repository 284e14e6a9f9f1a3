"""States of straight-line arithmetic programs, and prefixes that lead where a known solution has been.

A solution is partially correct if what it has computed after some step equals what a known correct solution has
computed after one of its own (Ni et al. 2023, arXiv:2205.14318, sec. 3.2): that prefix is worth learning, whatever
follows. A program here is lines of `name = expression` with numbers, names and + - * / // % **, as in solutions of
word problems, and of `print(expression)`, which shows a result and changes none. In a completion it stands where the
verifier `code` looks for one: in a fenced block, or else it is the whole text.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterable, Sequence

from plumbline_trainer.rewards.program_text import program_span

Number = int | float
State = frozenset[Number]
"""The values of the variables; their names do not matter, nor do two variables of the same value."""

_BINARY: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_LARGEST = 1e15
"""Beyond this a program is taken for wrong: powers of powers would take all memory there is."""


class ProgramError(ValueError):
    """A line is no assignment of an arithmetic expression, or cannot be computed."""


def states(program: str) -> list[State]:
    """The state after each line that is not empty. Raises `ProgramError` at the first line that cannot be computed."""
    variables: dict[str, Number] = {}
    found: list[State] = []
    for line in program.splitlines():
        if not line.strip():
            continue
        name, expression = _statement(line)
        value = _value(expression, variables)
        if name is not None:
            variables[name] = value
        found.append(_state(variables))
    return found


def normal_form(program: str) -> str:
    """The program with variables named by their first assignment, so that two spellings of one program are equal.

    The first lines of a program have the first lines of its normal form.

    Raises `ProgramError` for a line that is no assignment of an arithmetic expression.
    """
    names: dict[str, str] = {}
    lines = []
    for line in program.splitlines():
        if not line.strip():
            continue
        name, expression = _statement(line)
        for node in ast.walk(expression):
            if isinstance(node, ast.Name):
                node.id = names.get(node.id, node.id)
        said = ast.unparse(expression)
        lines.append(f"print({said})" if name is None else f"{names.setdefault(name, f'v{len(names)}')} = {said}")
    return "\n".join(lines)


def solution_key(text: str) -> str:
    """What tells completions apart as solutions: the normal form of the program, or the text where there is none."""
    begin, end = program_span(text)
    try:
        return normal_form(text[begin:end]) or text.strip()
    except ProgramError:
        return text.strip()


def correct_prefix(program: str, known: Iterable[State]) -> str | None:
    """The longest run of first lines, as they are written, whose state is one of `known`; None without any, or if that
    is all of it.

    `known` are the states of correct solutions. A program that fails later on may still have such a prefix. It shows no
    result: a wrong program's is wrong.
    """
    wanted = set(known)
    variables: dict[str, Number] = {}
    found, last, offset = None, len(program.rstrip()), 0
    for line in program.splitlines(keepends=True):
        end, offset = offset + len(line.rstrip()), offset + len(line)
        if not line.strip():
            continue
        try:
            name, expression = _statement(line)
            if name is None:
                break
            variables[name] = _value(expression, variables)
        except ProgramError:
            break
        if end < last and _state(variables) in wanted:
            found = program[:end]
    return found


def known_states(solutions: Sequence[str]) -> set[State]:
    """The states after the lines of correct programs. Raises `ProgramError` where one cannot be computed."""
    return {state for solution in solutions for state in states(solution)}


def _state(variables: dict[str, Number]) -> State:
    return frozenset(_rounded(value) for value in variables.values())


def _statement(line: str) -> tuple[str | None, ast.expr]:
    """What a line computes, and the name that it gives to the result; None where it prints it."""
    try:
        [statement] = ast.parse(line.strip()).body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ProgramError(f"{line.strip()[:80]!r} is no line of a program") from error
    match statement:
        case ast.Expr(ast.Call(func=ast.Name("print"), args=[ast.expr() as shown], keywords=[])):
            return None, shown
    if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
        raise ProgramError(f"{line.strip()[:80]!r} assigns no name")
    target = statement.targets[0]
    if not isinstance(target, ast.Name):
        raise ProgramError(f"{line.strip()[:80]!r} assigns no name")
    return target.id, statement.value


def _value(node: ast.expr, variables: dict[str, Number]) -> Number:
    """The number that an expression stands for."""
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _bounded(number)
        case ast.Name(id=name) if name in variables:
            return variables[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, variables)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_value(left, variables), _value(right, variables))
        case ast.BinOp(left=left, op=kind, right=right) if type(kind) in _BINARY:
            try:
                return _bounded(_BINARY[type(kind)](_value(left, variables), _value(right, variables)))
            except ZeroDivisionError as error:
                raise ProgramError("division by zero") from error
    raise ProgramError(f"{ast.unparse(node)[:80]!r} is no arithmetic expression")


def _power(base: Number, exponent: Number) -> Number:
    if abs(exponent) > 64 or (base == 0 and exponent < 0) or (base < 0 and exponent != int(exponent)):
        raise ProgramError("a power that is too large or not a real number")
    try:
        return _bounded(base**exponent)
    except OverflowError as error:
        raise ProgramError("a number is too large") from error


def _bounded(number: Number) -> Number:
    if not math.isfinite(number) or abs(number) > _LARGEST:
        raise ProgramError("a number is too large")
    return number


def _rounded(number: Number) -> Number:
    """Equal for values that differ by the rounding of floating point only."""
    rounded = float(f"{number:.9g}")
    return int(rounded) if rounded == int(rounded) else rounded
