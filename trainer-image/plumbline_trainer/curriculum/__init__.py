"""Which prompts a rollout takes. Importing the package registers all curricula."""

from __future__ import annotations

from plumbline_api.methods.curriculum.family import Curriculum as CurriculumParameters
from plumbline_trainer.curriculum import bandit, probed  # noqa: F401  (importing a module registers its curricula)
from plumbline_trainer.curriculum.orders import InOrder
from plumbline_trainer.curriculum.probe import Probe
from plumbline_trainer.curriculum.protocol import CURRICULA, Curriculum, Prompts

__all__ = ["CURRICULA", "Curriculum", "Probe", "Prompts", "open_curriculum"]


def open_curriculum(parameters: CurriculumParameters | None, prompts: Prompts) -> Curriculum:
    """The curriculum that `parameters` belongs to; the data's own order without any.

    Raises `DataError` where the prompts lack what it needs.
    """
    return InOrder(prompts) if parameters is None else CURRICULA.of(parameters)(parameters, prompts)
