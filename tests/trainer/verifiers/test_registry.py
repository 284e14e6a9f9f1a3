"""What holds for every verifier."""

import subprocess
import sys

import pytest

from plumbline_api.methods.verifiers.family import Verifier
from plumbline_api.methods.verifiers.mathematics import Math, Numeric
from plumbline_api.methods.verifiers.text import ExactMatch
from plumbline_trainer.rewards.components import BATCH_COMPONENTS
from plumbline_trainer.rewards.verifiers import VERIFIERS, checked_reward
from tests.trainer.verifiers.verifying import reward


def test_every_verifier_of_the_api_is_implemented():
    """In the processes of verifiers, or as a component that scores many completions at once."""
    in_batches = [member.member_key for member in Verifier.members() if member.in_batches]
    assert VERIFIERS.missing() == in_batches
    assert not set(BATCH_COMPONENTS.missing()) & set(in_batches)


def test_the_worker_loads_no_torch():
    """A worker must start in a fraction of a second, and a pod runs several."""
    code = "import sys, plumbline_trainer.rewards.worker; sys.exit(any(m in sys.modules for m in ('torch', 'sympy')))"
    environment = {"PYTHONPATH": ":".join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


@pytest.mark.parametrize("parameters", [ExactMatch(), Numeric(), Math()])
def test_a_missing_answer_is_an_error_and_not_a_zero(parameters):
    with pytest.raises(ValueError, match="the row has no answer"):
        reward(parameters, "7", None)


@pytest.mark.parametrize(("returned", "expected"), [(1, 1.0), (True, 1.0), (-0.5, -0.5)])
def test_numbers_are_rewards(returned, expected):
    assert checked_reward(returned) == expected


@pytest.mark.parametrize("returned", [float("nan"), float("inf"), None, "1", [1], 1j])
def test_anything_else_is_an_error(returned):
    with pytest.raises((TypeError, ValueError), match="returned"):
        checked_reward(returned)
