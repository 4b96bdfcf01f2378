"""How often to save: every so many steps, or as their measured cost and the failures of the machine ask for.

J. W. Young, "A first order approximation to the optimum checkpoint interval", Communications of the ACM 17 (1974): with
failures every M seconds on average and checkpoints that each cost C seconds, the least time is lost if there are
sqrt(2 C M) seconds between them. J. T. Daly (2006) has higher orders, which matter only where C is no longer small
beside M.
"""

from __future__ import annotations

import math

FIRST = 10  # steps until the first checkpoint, while nothing is known of their cost


class Frequency:
    """When a run saves; all ranks must tell it the same.

    Args:
        every: Steps between checkpoints; 0 if the next two are to decide.
        budget: Share of the run's time that checkpoints may take, 0 for any.
        mtbf: Seconds between failures, 0 if there are none.

    Attributes:
        on: Whether it saves at all before the run is asked to stop.
        adapts: Whether it wants to be told what a save took.
    """

    def __init__(self, every: int = 0, budget: float = 0.0, mtbf: float = 0.0) -> None:
        self.budget, self.mtbf = budget, mtbf
        self.adapts = not every and bool(budget or mtbf)
        self.on = bool(every) or self.adapts
        self._every = every or FIRST
        self._saved = 0

    def begin(self, step: int) -> None:
        """The run begins with `step` steps done."""
        self._saved = step - step % self._every if not self.adapts else step

    def due(self, step: int) -> bool:
        """Whether to save after `step` steps."""
        return self.on and step >= self._saved + self._every

    def saved(self, step: int) -> None:
        """Note a save after `step` steps."""
        self._saved = step

    def adapt(self, cost: float, seconds_per_step: float, least: float = 0.0) -> None:
        """Choose anew how many steps lie between two checkpoints.

        Args:
            cost: Seconds for which the last save held the run up.
            seconds_per_step: Of the steps since the one before.
            least: Seconds until a save is committed, before which the next had to wait.
        """
        self._every = max(1, math.ceil(max(self.interval(cost), least) / seconds_per_step))

    def interval(self, cost: float) -> float:
        """Seconds between two checkpoints that each cost `cost` seconds; the budget is kept whatever may fail."""
        within_budget = cost / self.budget if self.budget else 0.0
        young = math.sqrt(2 * cost * self.mtbf)
        return max(within_budget, young)
