# ruff: noqa: E501  (programs are one line each, so that there is one row for each)
"""Programs in completions: what counts as one, what counts as right, and what happens to those that cheat."""

import json
import os

import pytest

from plumbline_api.methods.verifiers.code import Code
from plumbline_api.sources import Reward
from plumbline_trainer.rewards.pool import Call, VerifierPool
from plumbline_trainer.rewards.verifiers.code import Case, UnitTest, extract_program, read_tests, same_output
from tests.trainer.sandbox_attacks import ENDLESS, GREEDY, LEAVING, WITH_CHILDREN
from tests.trainer.verifiers.verifying import reward

SQUARES = [{"input": "2\n", "output": "4\n"}, {"input": "3\n", "output": "9\n"}, {"input": "-1", "output": "1"}]
SQUARE = "print(int(input()) ** 2)"
ADDS = ["assert add(1, 2) == 3", "assert add(-1, 1) == 0", "assert add('a', 'b') == 'ab'"]
ADD = "def add(a, b):\n    return a + b\n"


def fenced(source, language="python"):
    return f"Here it is.\n```{language}\n{source}\n```\nDone."


def scored(completion, tests, mode="passRate", **options):
    columns = options.pop("columns", {})
    return reward(Code(mode=mode, **options), completion, tests=tests, **columns)


# --- what the program is


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        ("print(1)", "print(1)"),
        (fenced("print(1)"), "print(1)\n"),
        (fenced("print(1)", ""), "print(1)\n"),
        (fenced("print(1)") + fenced("print(2)", "Python"), "print(2)\n"),
        (fenced("print(1)") + fenced("1", "") + fenced("1", "text"), "print(1)\n"),
        (fenced("one", "") + fenced("two", ""), "two\n"),
        ("```python\nprint(1)\n", "print(1)\n"),
        ("a list:\n  ```py\nprint('```')\n  ```", "print('```')\n"),
    ],
)
def test_the_program_is_the_last_block_of_python_or_all(completion, program):
    assert extract_program(completion) == program


# --- what the tests are


@pytest.mark.parametrize(
    ("value", "tests"),
    [
        (SQUARES[:1], [Case("2\n", "4\n")]),
        (json.dumps(SQUARES[:1]), [Case("2\n", "4\n")]),
        ({"inputs": ["1", "2"], "outputs": ["3", ["4", "5"]]}, [Case("1", "3"), Case("2", "4\n5")]),
        (["assert f(1)"], [UnitTest("assert f(1)")]),
        ("assert f(1)\nassert f(2)", [UnitTest("assert f(1)\nassert f(2)")]),
    ],
)
def test_tests_are_read_from_every_form(value, tests):
    assert read_tests(value) == tests


def test_every_test_function_and_method_is_a_test():
    source = (
        "import unittest\ndef helper(): pass\ndef test_one(): pass\ndef test_two(): pass\n"
        "class More(unittest.TestCase):\n    def setUp(self): pass\n    def test_three(self): pass\n"
    )
    assert [test.function for test in read_tests(source)] == ["test_one", "test_two", "More.test_three"]


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ([], "there are none"),
        (3, "neither a list"),
        ([1, 2], "mixture"),
        ([{"input": "1"}], "without input and output"),
        ("", "empty"),
        ("assert f(", "no Python"),
        ("[1, 2", "no JSON"),
        ({"inputs": ["1"], "outputs": []}, "differ in number"),
        ("def check(candidate): pass", "entryPointColumn"),
    ],
)
def test_tests_that_cannot_be_read_are_errors_and_not_wrong_programs(value, complaint):
    with pytest.raises(ValueError, match=complaint):
        scored("", value)


def test_a_row_without_tests_is_an_error():
    with pytest.raises(ValueError, match="the row has no cases"):
        reward(Code(tests_column="cases"), SQUARE)


# --- inputs and outputs


def test_a_right_program_passes_all_cases():
    assert scored(fenced(SQUARE), SQUARES) == 1
    assert scored(fenced(SQUARE), SQUARES, mode="allOrNothing") == 1


def test_pass_rate_is_the_share_of_cases():
    assert scored("print(4)", SQUARES) == pytest.approx(1 / 3)
    assert scored("print(4)", SQUARES, mode="allOrNothing") == 0


@pytest.mark.parametrize(
    "program", ["", "print(", "x", "import sys; print(4); sys.exit(1)", "\0", "print(4)\nraise ValueError", "\ud800"]
)
def test_programs_that_fail_are_wrong_and_no_errors(program):
    assert scored(program, SQUARES[:1]) == 0


@pytest.mark.parametrize(
    ("written", "expected", "tolerance", "same"),
    [
        ("1 2\n3", "1 2\n3\n\n", 0, True),
        ("1 2  \n3\n", "1 2\n3", 0, True),
        ("1  2", "1 2", 0, False),
        (" 1", "1", 0, False),
        ("1.0", "1", 0, False),
        ("1.0001", "1", 1e-3, True),
        ("1.01", "1", 1e-3, False),
        ("a  1", "a 1.0", 1e-9, True),
        ("a 1", "b 1", 1e-9, False),
        ("1 2", "1", 1e-9, False),
        ("1", "1 2", 1e-9, False),
        ("nan", "1", 1e-9, False),
        ("nan", "nan", 1e-9, True),
        ("inf", "1", 1e9, False),
    ],
)
def test_outputs_are_compared_by_lines_or_by_words(written, expected, tolerance, same):
    assert same_output(written, expected, tolerance) is same


def test_the_time_of_all_tests_together_is_limited():
    program = "import time; n = int(input()); time.sleep(0.4); print(n * n)"
    cases = [{"input": str(n), "output": str(n * n)} for n in range(10)]
    value = scored(program, cases, case_timeout_seconds=1.0, timeout_seconds=1.0)
    assert 0 < value < 0.5


# --- unit tests


@pytest.mark.parametrize("tests", [ADDS, "\n".join(ADDS), "def test_add():\n    assert add(1, 2) == 3"])
def test_asserts_and_test_functions_see_the_program(tests):
    assert scored(fenced(ADD), tests) == 1
    assert scored(fenced(ADD.replace("+", "-")), tests) < 1


@pytest.mark.parametrize("how", ["from solution import add", "import solution\nadd = solution.add"])
def test_tests_may_import_the_program(how):
    assert scored(ADD, f"{how}\ndef test(): assert add(1, 2) == 3") == 1


def test_unittest_cases_run_with_what_surrounds_them():
    tests = (
        "import unittest\nclass Cases(unittest.TestCase):\n    def setUp(self): self.one = 1\n"
        "    def test_right(self): self.assertEqual(add(self.one, 2), 3)\n"
        "    def test_wrong(self): self.assertEqual(add(self.one, 2), 4)\n"
    )
    assert scored(ADD, tests) == 0.5


def test_check_gets_the_entry_point():
    tests = "def check(candidate):\n    assert candidate(1, 2) == 3\n"
    options = {"entry_point_column": "entry", "columns": {"entry": "add"}}
    assert scored(ADD, tests, **options) == 1
    assert scored(ADD.replace("add", "other"), tests, **options) == 0


PROGRAM = """
import collections, dataclasses, math
from fractions import Fraction

class Stack:
    limit = 3
    def __init__(self, items=()): self.items = list(items)
    def push(self, item):
        if len(self.items) == self.limit: raise Full("full")
        self.items.append(item)
        return self
    def pop(self): return self.items.pop()
    def __len__(self): return len(self.items)
    def __iter__(self): return iter(self.items)
    def __contains__(self, item): return item in self.items
    def __enter__(self): return self
    def __exit__(self, *error): self.items.clear()

class Full(Exception): pass

class Vector:
    def __init__(self, x, y): self.x, self.y = x, y
    def __add__(self, other): return Vector(self.x + other.x, self.y + other.y)
    def __mul__(self, factor): return Vector(self.x * factor, self.y * factor)
    def __rmul__(self, factor): return self * factor
    def __eq__(self, other): return (self.x, self.y) == (other.x, other.y)
    def __abs__(self): return math.hypot(self.x, self.y)
    def __repr__(self): return f"Vector({self.x}, {self.y})"

class Node:
    def __init__(self, value, next=None): self.value, self.next = value, next

def linked(values):
    return Node(values[0], linked(values[1:]) if values[1:] else None)
def sort_in_place(values): values.sort()
def fill(table, key): table[key] = [table]; return table
def swap(a, b): a[:], b[:] = list(b), list(a)
def count(n): yield from range(n)
def apply(function, *values): return [function(value) for value in values]
def apply_to_vector(function): return function(Vector(1, 2))
def same(value): return value
def raises(kind): raise {"value": ValueError, "key": KeyError, "exit": SystemExit, "full": Full}[kind]("why")
def keyword(*, a, b=2): return a - b
def array():
    import numpy
    return numpy.array([[1.5, 2], [3, 4]])
def scalar():
    import numpy
    return numpy.int64(3)
def select(values): return values[::2]
CONSTANT = {"a": [1, 2, (3, 4)]}
"""


@pytest.mark.parametrize(
    "test",
    [
        "assert same(2**200) == 2**200 and same(-1) == -1",
        "assert same([1, (2, {3}), {'a': b'x'}, None, True, 1.5, 1j]) == [1, (2, {3}), {'a': b'x'}, None, True, 1.5, 1j]",
        "assert same(float('inf')) == float('inf') and same(0.1 + 0.2) == 0.1 + 0.2",
        "from decimal import Decimal\nassert same(Decimal('1.10')) == Decimal('1.1')",
        "from collections import Counter, deque\nassert same(Counter('aab')) == {'a': 2, 'b': 1} and same(deque([1])) == deque([1])",
        "assert type(same((1,))) is tuple and type(same(frozenset([1]))) is frozenset and type(same(True)) is bool",
        "values = [3, 1, 2]\nsort_in_place(values)\nassert values == [1, 2, 3]",
        "a, b = [1], [2]\nswap(a, b)\nassert (a, b) == ([2], [1])",
        "table = {}\nassert fill(table, 'k') is table and table['k'][0] is table",
        "assert list(count(3)) == [0, 1, 2]\nassert next(iter(count(1))) == 0",
        "assert apply(lambda value: value + 1, 1, 2) == [2, 3]",
        "assert apply_to_vector(lambda vector: vector.x + vector.y) == 3",
        "stack = Stack()\nstack.push(1).push(2)\nassert len(stack) == 2 and stack.pop() == 2 and stack.items == [1]",
        "stack = Stack([1, 2])\nassert list(stack) == [1, 2] and 2 in stack and 3 not in stack and Stack.limit == 3",
        "stack = Stack([1])\nwith stack: pass\nassert len(stack) == 0",
        "stack = Stack([1, 2, 3])\ntry: stack.push(4)\nexcept Full as error: assert str(error) == 'full'\nelse: assert False",
        "import unittest\nclass T(unittest.TestCase):\n    def test_raises(self):\n        with self.assertRaises(ValueError): raises('value')\n",
        "try: raises('key')\nexcept KeyError: pass\nelse: assert False",
        "assert Vector(1, 2) + Vector(3, 4) == Vector(4, 6) and Vector(1, 2) != Vector(2, 1)",
        "assert Vector(1, 2) * 3 == Vector(3, 6) == 3 * Vector(1, 2) and abs(Vector(3, 4)) == 5",
        "assert repr(Vector(1, 2)) == 'Vector(1, 2)' and Vector(1, 2).x == 1",
        "vector = Vector(1, 2)\nvector.x = 5\nassert vector.x == 5",
        "node = linked([1, 2, 3])\nvalues = []\nwhile node is not None:\n    values.append(node.value)\n    node = node.next\nassert values == [1, 2, 3]",
        "assert keyword(a=3) == 1 and keyword(a=3, b=1) == 2",
        "import numpy\nnumpy.testing.assert_allclose(array(), [[1.5, 2], [3, 4]])\nassert array().shape == (2, 2)",
        "assert scalar() == 3 and type(scalar()) is int",
        "assert CONSTANT == {'a': [1, 2, (3, 4)]}",
        "assert math.isclose(same(0.1) + 0.2, 0.3) and Fraction(1, 2) == same(Fraction(1, 2))",
        "assert select([1, 2, 3]) == [1, 3]",
    ],
)  # fmt: skip
def test_programs_are_used_from_another_process_as_if_they_were_here(test):
    assert scored(PROGRAM, [test] if "class T" not in test else test) == 1


# --- cheating

FORGERIES = {
    "leaves with success": "import os\nos._exit(0)",
    "leaves when it is called": "import os\ndef add(a, b): os._exit(0)",
    "raises SystemExit": "def add(a, b): raise SystemExit(0)",
    "raises at once": "raise SystemExit(0)",
    "equals everything": "class Any:\n    def __eq__(self, other): return True\n    def __ne__(self, other): return False\ndef add(a, b): return Any()",
    "equals everything by its class": "class Any(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\ndef add(a, b): return Any()",
    "equals everything as a list": "class Any(list):\n    def __eq__(self, other): return True\ndef add(a, b): return Any()",
    "equals everything inside": "class Any(tuple):\n    def __eq__(self, other): return True\ndef add(a, b): return (Any(), Any())",
    "subtracts to nothing": "class Any:\n    def __sub__(self, other): return 0.0\n    __rsub__ = __abs__ = __round__ = __float__ = lambda self, *a: 0.0\ndef add(a, b): return Any()",
    "shadows built-in names": "abs = isinstance = round = len = all = lambda *a: 0\nAssertionError = bool\ndef add(a, b): return 0",
    "shadows modules": "class math:\n    @staticmethod\n    def isclose(*a, **k): return True\ndef add(a, b): return 0",
    "changes built-in functions": "import builtins\nbuiltins.AssertionError = bool\nbuiltins.abs = builtins.round = lambda *a: 0\ndef add(a, b): return 0",
    "changes unittest": "import unittest\nunittest.TestCase.assertEqual = lambda *a: None\nunittest.TestCase.run = lambda self, result=None: None\ndef add(a, b): return 0",
    "writes verdicts everywhere": "import os\nfor number in range(20):\n    try: os.write(number, b'passed')\n    except OSError: pass\ndef add(a, b): return 0",
    "prints a verdict": "print('passed', 'OK', '{\"passed\": true}')\ndef add(a, b): return 0",
    "answers before it is asked": "import os\nfor n in (4, 5):\n    try: os.write(n, b'{\"names\": {\"add\": true}}\\n{\"value\": true, \"changes\": []}\\n')\n    except OSError: pass\nos._exit(0)",
    "reads its callers": "import inspect, gc, sys\ndef add(a, b):\n    found = [v for f in inspect.stack() for v in f.frame.f_locals.values() if isinstance(v, dict) and 'expected' in str(v)]\n    return found[0]",
    "traces": "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\ndef add(a, b): return 0",
    "hides its error": "import sys\nsys.excepthook = lambda *a: None\ndef add(a, b): raise ValueError",
    "kills the parent": "import os, signal\ndef add(a, b):\n    os.kill(os.getppid(), signal.SIGKILL)\n    return 3",
    "kills all it can": "import os, signal\ndef add(a, b):\n    os.kill(-1, signal.SIGTERM)",
    "hangs": "def add(a, b):\n    while True: pass",
    "hangs at once": "while True: pass",
    "answers without end": "import os\ndef add(a, b):\n    while True: os.write(5, b'x' * 4096)",
    "returns too much": "def add(a, b): return [[0] * 1000] * 10**6",
    "returns too deep a list": "def add(a, b):\n    value = []\n    for _ in range(10**6): value = [value]\n    return value",
    "needs a machine's memory": "def add(a, b): return bytearray(10**10)",
}  # fmt: skip

VERDICTS = [
    "assert add(1, 2) == 3",
    "assert abs(add(1, 2) - 3) < 1e-6",
    "assert not add(1, 2) != 3",
    "import math\nassert math.isclose(add(1, 2), 3)",
    "assert math.isclose(add(1, 2), 3)",
    "assert isinstance(add(1, 2), int) and add(1, 2) in (3, 3.0)",
    "assert round(add(1, 2), 5) == 3",
    "expected = 3\nassert expected == add(1, 2)",
    "assert str(add(1, 2)) == '3'",
    "assert [add(1, 2), add(1, 2)] == [3, 3]",
]


@pytest.mark.parametrize("name", FORGERIES)
def test_a_program_cannot_forge_the_verdict_of_its_tests(name):
    assert scored(FORGERIES[name], VERDICTS, case_timeout_seconds=0.3) == 0


def test_the_forgeries_verdicts_can_be_earned():
    assert scored("import math\n" + ADD, VERDICTS) == 1


def test_unittests_own_machinery_is_out_of_reach():
    tests = (
        "import unittest\nclass Cases(unittest.TestCase):\n    def test(self): self.assertEqual(add(1, 2), 3)\n"
        "    def test_nearly(self): self.assertAlmostEqual(add(1, 2), 3)\n"
    )
    assert scored(ADD, tests) == 1
    for name in ("changes unittest", "equals everything", "changes built-in functions", "subtracts to nothing"):
        assert scored(FORGERIES[name], tests) == 0


@pytest.mark.parametrize(
    "source",
    [
        "print(4)\nimport os\nos._exit(1)",
        "import os\nos._exit(0)",
        "import sys, gc\nprint([o for o in gc.get_objects() if isinstance(o, dict) and 'output' in o])",
        "import glob\nprint(*[open(f).read() for f in glob.glob('/tmp/**', recursive=True)])",
        "import os\nprint(open(f'/proc/{os.getppid()}/environ').read())",
        "import os\nprint('passed')",
    ],
)
def test_outputs_are_not_where_a_program_could_find_them(source):
    assert scored(source, SQUARES[:1]) == 0


def test_attacks_of_completions_are_wrong_answers_and_the_pool_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    limits = {"memoryBytes": 2**28, "fileBytes": 2**20, "outputBytes": 2**16, "caseTimeoutSeconds": 1.5, "processes": 4}
    component = Reward(name="code", verifier={"code": limits}, timeout_seconds=5.0)
    attacks = ENDLESS | GREEDY | WITH_CHILDREN | LEAVING
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if os.access(parent, os.W_OK) and not parent.stat().st_mode & 1:
            parent.chmod(parent.stat().st_mode | 1)
    row = {"tests": SQUARES[:1]}
    with VerifierPool([component], {}, workers=2) as pool:
        calls = [Call("code", "", source.replace("{directory!r}", "'/'"), None, row) for source in attacks.values()]
        outcomes = pool.run([*calls, Call("code", "", SQUARE, None, row)])
    assert {name: outcome for name, outcome in zip(attacks, outcomes, strict=False) if outcome.value != 0} == {}
    assert outcomes[-1].value == 1
    assert list(tmp_path.iterdir()) == []
