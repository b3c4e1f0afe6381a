"""What moves the masks of a pass while it trains."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from torch import Tensor

from tonsor.prune import (
    WATCHES,
    DenseGradient,
    Masks,
    Pruner,
    SoftPruner,
    Stats,
    Watch,
    gathered,
    needs,
)
from tonsor.recipe.build import Cut
from tonsor.recipe.job import until
from tonsor.recipe.schema import PrunePass

Gathering: TypeAlias = Callable[[], Stats] | Watch | None
LAST = 0.75  # share of the training after which regrowing masks rest, as in RigL's paper


@dataclass(frozen=True)
class Finding:
    """Hold what masks of a pass are found by.

    Args:
        weights: The weights that may be pruned, by name.
        find: `find_masks`, with its parts bound.
        gathering: Where the statistics come from; None where the weights are enough.
        before: Masks of the passes before, of any weights.
        sparsity: Where the pass ends.
    """

    weights: Mapping[str, Tensor]
    find: Callable[..., Masks]
    gathering: Gathering
    before: Mapping[str, Tensor]
    sparsity: float

    def masks(self, sparsity: float, within: Mapping[str, Tensor]) -> Masks:
        """Return the masks of a sparsity within others, beside those of the weights that are left alone."""
        own = {name: mask for name, mask in within.items() if name in self.weights}
        found = self.find(self.weights, sparsity, stats=gathered(self.gathering), within=own)
        return {**self.before, **within, **found}


def gathering(section: PrunePass, cut: Cut, weights: Mapping[str, Tensor], calibrate: Gathering) -> Gathering:
    """Return where the statistics of a pass come from: its own training, batches beforehand, or nowhere."""
    names = needs(cut.importance)
    if not names:
        return None
    return WATCHES[names[0]](weights) if section.statistics == "training" else calibrate


def driver(section: PrunePass, cut: Cut, finding: Finding, steps: int) -> Pruner | SoftPruner:
    """Return what moves the masks of a pass.

    Args:
        section: The pass.
        cut: Its bound rules.
        finding: What masks are found by.
        steps: Steps of its training.
    """
    last = steps // section.every * section.every
    schedule = until(cut.schedule, last)
    if cut.regrow is not None:
        return _regrowing(section, cut, finding, steps)
    if section.soft or cut.penalty is not None:
        return SoftPruner(
            finding.weights,
            finding.find,
            schedule=schedule,
            every=section.every,
            penalty=cut.penalty and until(cut.penalty, steps),
            collect=finding.gathering,
            within=finding.before,
        )
    return Pruner(
        finding.weights,
        finding.find,
        schedule=schedule,
        every=section.every,
        collect=finding.gathering,
        within=finding.before,
    )


def _regrowing(section: PrunePass, cut: Cut, finding: Finding, steps: int) -> Pruner:
    """Return a pruner that begins at the whole sparsity; what earlier passes removed never comes back."""
    assert cut.regrow is not None, "asked for by the caller"
    among = {name: mask for name, mask in finding.before.items() if name in finding.weights}
    return Pruner(
        finding.weights,
        partial(cut.regrow, among=among),
        schedule=until(cut.regrow_schedule, int(LAST * steps)),
        every=section.every,
        collect=DenseGradient(finding.weights),
        within=finding.masks(finding.sparsity, finding.before),
        regrow=True,
    )
