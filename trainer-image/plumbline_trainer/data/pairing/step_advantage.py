"""The pair at the first step of a solution that costs success."""

from __future__ import annotations

import random

from plumbline_api.methods.pairing_trees import StepAdvantage
from plumbline_trainer.data.pairing.registry import PAIRINGS
from plumbline_trainer.data.rows import PairRow
from plumbline_trainer.data.valued_steps import StepsRow


@PAIRINGS.implements(StepAdvantage)
def step_advantage(parameters: StepAdvantage, row: StepsRow, generator: random.Random) -> list[PairRow]:
    """The first step that costs success against its best alternatives (Setlur et al. 2024, arXiv:2406.14532, sec. 6).

    The scores of a pair are the advantages of its steps, whose difference is what advantage-weighted objectives use;
    it exceeds the threshold. Empty where no step costs more than the threshold or none of its alternatives is good.
    """
    solution = row.solution
    pit = solution.pit(parameters.threshold)
    if pit is None:
        return []
    before, bad, after = solution.values[pit], solution.steps[pit], solution.values[pit + 1]
    good = [other for other in solution.alternatives[pit] if other.value - after > parameters.threshold]
    best = sorted((other for other in good if other.text != bad), key=lambda other: -other.value)
    prefix = "".join(solution.steps[:pit])
    return [
        PairRow(row.place, row.prompt, other.text, bad, prefix, False, other.value - before, after - before)
        for other in best[: parameters.pairs_per_row]
    ]
