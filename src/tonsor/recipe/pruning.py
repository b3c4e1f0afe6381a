"""One pass of pruning: masks that rise with a schedule while the model trains on."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from tonsor.prune import Pruner, apply_masks_, collect, find_masks, needs
from tonsor.recipe import build
from tonsor.recipe.batches import Batches, mix, place
from tonsor.recipe.binding import Mistakes
from tonsor.recipe.context import Run
from tonsor.recipe.coupled import Coupled
from tonsor.recipe.fit import Fit
from tonsor.recipe.job import Job, until
from tonsor.recipe.schema import PrunePass
from tonsor.recipe.selection import prunable
from tonsor.shrink import channel_groups

Data = Mapping[str, Dataset[Any]]


def one_pass(
    run: Run, model: nn.Module, data: Data, number: int, masks: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], Fit]:
    """Prune to the sparsity of one pass, within the masks of the passes before.

    Args:
        run: The run.
        model: The model, trained on and masked in place.
        data: Data sets by name.
        number: Which pass of the recipe.
        masks: Masks so far.

    Returns:
        The masks after the pass, all that hold, and the training.
    """
    section, label = run.recipe.prune[number], f"prune.{number}"
    methods = build.methods(section, label, Mistakes())
    cut = build.cut(section, label, Mistakes())
    weights = prunable(model, section.include, section.exclude)
    samples = _calibration(run, data, section, label)
    wanted = needs(cut.importance)
    statistics = partial(collect, model, samples, names=wanted, weights=weights, loss=methods.loss)
    pattern = (
        cut.pattern.of(channel_groups(model, samples[0][0]))
        if isinstance(cut.pattern, Coupled)
        else cut.pattern
    )
    find = partial(find_masks, importance=cut.importance, pattern=pattern, scope=cut.scope)
    batches = Batches(data["train"], batch_size=section.batch_size, seed=0, size=run.crew.size)
    last_finding = section.epochs * len(batches) // section.every * section.every
    pruner = Pruner(
        weights,
        find,
        schedule=until(cut.schedule, last_finding),
        every=section.every,
        collect=statistics if wanted else None,
        within=masks,
    )
    folder = run.folder.file("prune", f"checkpoints-{number}")
    fit = Fit(run, Job(label, section, methods, model, data, masks=masks, pruner=pruner), folder)
    fit.run()
    # Where the ramp had no step to end at (no epochs, say), this is the one stroke that prunes.
    stats = statistics() if wanted else None
    found = {**masks, **find(weights, section.sparsity, stats=stats, within=pruner.masks)}
    apply_masks_(dict(model.named_parameters(remove_duplicate=False)), found)
    return found, fit


def _calibration(run: Run, data: Data, section: PrunePass, label: str) -> list[tuple[Any, Any]]:
    """Return the batches for the statistics: the same on every worker, so that the masks are."""
    seed = mix(run.recipe.seed, label, "calibration")
    batches = Batches(data["train"], batch_size=section.batch_size, seed=seed)
    taken = [batches(step) for step in range(section.calibration)]
    return [(place(inputs, run.device), place(targets, run.device)) for inputs, targets in taken]
