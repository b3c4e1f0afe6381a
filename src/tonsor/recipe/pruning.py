"""One pass of pruning: masks that rise with a schedule while the model trains on."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from tonsor.prune import Budget, Pruner, Stats, apply_masks_, collect, find_masks, find_sparsity, needs
from tonsor.recipe import build
from tonsor.recipe.batches import Batches, mix, place
from tonsor.recipe.binding import Mistakes, tunable
from tonsor.recipe.context import Run
from tonsor.recipe.fit import Fit
from tonsor.recipe.job import Job, until
from tonsor.recipe.schema import Heal, PrunePass
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
    samples = calibration(run, data, section, label)
    wanted = needs(cut.importance)
    statistics = partial(collect, model, samples, names=wanted, weights=weights, loss=methods.loss)
    pattern = cut.pattern or channel_groups(model, samples[0][0])
    parts: dict[str, Any] = {"importance": cut.importance, "pattern": pattern, "scope": cut.scope}
    find = partial(find_masks, **parts)
    aim = partial(_aim, section, _with_positions(cut.budget, run, model, data, weights), weights, parts)
    before = {name: mask for name, mask in masks.items() if name in weights}
    final = aim(statistics() if wanted and cut.budget else None, before)
    schedule = partial(cut.schedule, final=final) if cut.budget else cut.schedule
    batches = Batches(data["train"], batch_size=section.batch_size, seed=0, size=run.crew.size)
    last_finding = section.epochs * len(batches) // section.every * section.every
    pruner = Pruner(
        weights,
        find,
        schedule=until(schedule, last_finding),
        every=section.every,
        collect=statistics if wanted else None,
        within=masks,
    )
    folder = run.folder.file("prune", f"checkpoints-{number}")
    fit = Fit(run, Job(label, section, methods, model, data, masks=masks, pruner=pruner), folder)
    fit.run()
    # Where the ramp had no step to end at (no epochs, say), this is the one stroke that prunes; a budget
    # is solved for again, because the weights, and with them what goes, have changed meanwhile.
    stats = statistics() if wanted else None
    found = {**masks, **find(weights, aim(stats, pruner.masks), stats=stats, within=pruner.masks)}
    apply_masks_(dict(model.named_parameters(remove_duplicate=False)), found)
    return found, fit


def _aim(
    section: PrunePass,
    budget: Budget | None,
    weights: Mapping[str, Tensor],
    parts: Mapping[str, Any],
    stats: Stats | None,
    within: Mapping[str, Tensor],
) -> float:
    """Return the sparsity that the section names, or the one that meets its budget now."""
    if budget is None:
        return section.sparsity or 0.0
    return find_sparsity(weights, budget, stats=stats, within=within, **parts)


def _with_positions(
    budget: Budget | None, run: Run, model: nn.Module, data: Data, weights: Mapping[str, Tensor]
) -> Budget | None:
    """Return the budget, told how often one sample uses each weight, where its cost asks for that."""
    if budget is None or "positions" not in tunable(budget.cost):
        return budget
    inputs, targets = Batches(data["train"], batch_size=1, seed=0)(0)
    sample = [(place(inputs, run.device), place(targets, run.device))]
    found = collect(model, sample, names=["positions"], weights=weights)
    positions = {name: of["positions"] for name, of in found.items()}
    return replace(budget, cost=partial(budget.cost, positions=positions))


def calibration(run: Run, data: Data, section: PrunePass | Heal, label: str) -> list[tuple[Any, Any]]:
    """Return the batches for statistics and repair: the same on every worker, so that the masks are.

    Args:
        run: The run.
        data: Data sets by name.
        section: Says how many batches, and of what size.
        label: The stage's place in the recipe; another one gets other batches.
    """
    seed = mix(run.recipe.seed, label, "calibration")
    batches = Batches(data["train"], batch_size=section.batch_size, seed=seed)
    taken = [batches(step) for step in range(section.calibration)]
    return [(place(inputs, run.device), place(targets, run.device)) for inputs, targets in taken]
