"""Pairs out of rows with several completions. Importing this package registers all ways to make them."""

from plumbline_trainer.data.pairing import lists, solutions, step_advantage, trees  # noqa: F401
