"""Events of one job and reason are limited in number and time; nothing else of a decision is left out."""

from __future__ import annotations

from plumbline_operator.event_budget import MOST, WINDOW_SECONDS, EventBudget
from plumbline_operator.model import DeleteJob, PostEvent
from plumbline_operator.resources import JobKey

ONE, OTHER = JobKey("PreferenceJob", "team", "one"), JobKey("PreferenceJob", "team", "other")


def warning(number: int, reason: str = "TrainerWarning") -> PostEvent:
    return PostEvent("Warning", reason, f"warning {number}", "trainer")


def test_of_a_flood_the_first_ones_are_told() -> None:
    budget = EventBudget()
    steps, left_out = budget.within(ONE, [*map(warning, range(100)), DeleteJob("uid")], 0.0)
    assert steps == (*map(warning, range(MOST)), DeleteJob("uid"))
    assert left_out == 100 - MOST


def test_another_reason_and_another_job_have_budgets_of_their_own() -> None:
    budget = EventBudget()
    budget.within(ONE, map(warning, range(MOST)), 0.0)
    for key, event in ((ONE, warning(0, "Stalled")), (OTHER, warning(99))):
        assert budget.within(key, [event], 1.0) == ((event,), 0)


def test_the_budget_comes_back_with_time() -> None:
    budget = EventBudget()
    budget.within(ONE, map(warning, range(MOST)), 0.0)
    assert budget.within(ONE, [warning(50)], WINDOW_SECONDS - 1)[1] == 1
    assert budget.within(ONE, [warning(50)], WINDOW_SECONDS)[1] == 0


def test_the_same_event_posted_again_is_not_counted_again() -> None:
    budget = EventBudget()
    for _ in range(3 * MOST):
        assert budget.within(ONE, [warning(1)], 1.0)[1] == 0
    assert budget.within(ONE, [warning(2)], 1.0)[1] == 0


def test_a_job_that_is_gone_leaves_nothing() -> None:
    budget = EventBudget()
    budget.within(ONE, map(warning, range(MOST)), 0.0)
    budget.forget(ONE)
    assert budget.within(ONE, [warning(50)], 1.0)[1] == 0
