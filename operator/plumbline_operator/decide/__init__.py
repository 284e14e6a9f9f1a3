"""Pure decisions: what to do about a job, given what was observed and the time. No I/O below this package."""

from plumbline_operator.decide.lifecycle import decide

__all__ = ["decide"]
