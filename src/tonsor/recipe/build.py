"""Build what a recipe names: every rule found, bound and tried before anything is trained."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from tonsor import prune
from tonsor.recipe import manners, trial
from tonsor.recipe.binding import Mistakes, bind, bind_rule, missing, resolve
from tonsor.recipe.bounded import measure
from tonsor.recipe.coupled import Coupled
from tonsor.recipe.read import RecipeError
from tonsor.recipe.schema import Named, PrunePass, Recipe, Retraining, Rule, Training
from tonsor.recipe.tables import COUPLED, INSIDE, TABLES
from tonsor.schedule import SCHEDULES
from tonsor.spelling import unknown


@dataclass(frozen=True)
class Methods:
    """Hold what a training stage uses, bound and fresh: rules that remember start with no memory."""

    loss: Callable[[Tensor, Tensor], Tensor]
    metric: Callable[[Tensor, Tensor], float]
    optimizer: Callable[..., Optimizer]
    lr_schedule: Callable[..., float]
    clip: Callable[[Sequence[Tensor]], Tensor]
    constrain: Callable[[Sequence[Tensor]], None] | None
    compress: Any | None
    distill: Callable[..., Tensor] | None


@dataclass(frozen=True)
class Cut:
    """Hold what a pass of pruning uses, bound; a pattern that is `Coupled` is read off the model.

    The schedule leads to the sparsity it is given as `final`.
    """

    importance: Callable[..., Tensor]
    pattern: Any | None
    scope: Callable[..., dict[str, Tensor]]
    schedule: Callable[..., float]
    budget: prune.Budget | None = None
    regrow: Callable[..., dict[str, Tensor]] | None = None
    regrow_schedule: Callable[..., float] | None = None
    penalty: Callable[..., float] | None = None


def methods(training: Training, place: str, mistakes: Mistakes) -> Methods:
    """Bind and try the rules of a training stage.

    Args:
        training: The section.
        place: Its name in the recipe.
        mistakes: Gathers what is wrong; the result is fit for use only if nothing was added.

    Example:
        >>> methods(Training(), "train", Mistakes()).loss.__name__
        'cross_entropy'
    """

    def rule(kind: str, named: Rule | None, test: Callable[[Any], None] | None = None) -> Any:
        if named is None:
            return None
        bound = bind_rule(TABLES[kind], named, f"{place}.{kind}", mistakes, INSIDE)
        if bound is not None and test is not None:
            trial.attempt(partial(test, bound), f"{place}.{kind}", mistakes)
        return bound

    taught = training.distill if isinstance(training, Retraining) else None
    return Methods(
        loss=_function("loss", training.loss, place, mistakes),
        metric=_function("metric", training.metric, place, mistakes),
        optimizer=_optimizer(training.optimizer, f"{place}.optimizer", mistakes),
        lr_schedule=_schedule(training.lr_schedule, f"{place}.lr_schedule", mistakes, (1.0, 0.0, 1.0)),
        clip=rule("clip", training.clip, trial.clipper) or measure,
        constrain=rule("constrain", training.constrain, trial.constraint),
        compress=rule("compress", training.compress, trial.compressor),
        distill=rule("distill", taught, trial.distillation),
    )


def cut(section: PrunePass, place: str, mistakes: Mistakes) -> Cut:
    """Bind and try the rules of a pass of pruning.

    Example:
        >>> cut(PrunePass(sparsity=0.5), "prune.0", Mistakes()).pattern
        Element()
    """
    bound = {
        kind: bind_rule(TABLES[kind], named, f"{place}.{kind}", mistakes)
        for kind, named in (("importance", section.importance), ("scope", section.scope))
    }
    table = {**TABLES["pattern"], COUPLED: Coupled}
    pattern = bind_rule(table, section.pattern, f"{place}.pattern", mistakes)
    importance, scope = bound["importance"], bound["scope"]
    sparsity = section.sparsity or 0.0
    if importance and scope:
        trial.attempt(partial(trial.finder, importance, scope, sparsity), f"{place}.scope", mistakes)
    levels = (0.0, sparsity, sparsity)
    manners.check(section, importance, place, mistakes)
    regrow, moved, pressed = section.regrow, section.regrow_schedule, section.penalty
    return Cut(
        importance=importance or prune.magnitude,
        pattern=pattern,
        scope=scope or prune.across,
        budget=_budget(section.budget, f"{place}.budget", mistakes),
        schedule=_schedule(manners.ramp(section), f"{place}.schedule", mistakes, levels),
        regrow=bind_rule(TABLES["regrow"], regrow, f"{place}.regrow", mistakes) if regrow else None,
        regrow_schedule=_schedule(moved, f"{place}.regrow_schedule", mistakes, (0.3, 0.0, 0.3)),
        penalty=_schedule(pressed, f"{place}.penalty", mistakes, (0.0, 1.0, 1.0)) if pressed else None,
    )


def check_rules(recipe: Recipe) -> None:
    """Bind and try every rule of a recipe, and look up its model and data.

    Raises:
        RecipeError: With every mistake, each at its place.

    Example:
        >>> check_rules(Recipe.model_validate({
        ...     "name": "a", "model": {"build": "torch.nn:Lineer"}, "data": {"load": "m:f"},
        ...     "train": {"clip": {"rule": "value", "clip_value": 0.0}}}))
        Traceback (most recent call last):
        tonsor.recipe.read.RecipeError: a: 3 mistakes
          train.clip: clip.value: clip_value must be above 0; got 0.0
          model.build: unknown name in torch.nn 'Lineer'; did you mean 'Linear'? Known: ...
          data.load: cannot import 'm': No module named 'm'
    """
    mistakes = Mistakes()
    methods(recipe.train, "train", mistakes)
    for number, section in enumerate(recipe.prune):
        methods(section, f"prune.{number}", mistakes)
        cut(section, f"prune.{number}", mistakes)
    if recipe.heal is not None:
        _check_heal(recipe, mistakes)
    if recipe.finetune is not None:
        methods(recipe.finetune, "finetune", mistakes)
    if recipe.pack is not None:
        trial.packing(recipe.pack, mistakes)
    source(recipe.model, recipe.model.build, "model", "build", mistakes)
    source(recipe.data, recipe.data.load, "data", "load", mistakes)
    if recipe.export is not None:
        trial.exporting(recipe.export, mistakes)
    if recipe.device not in ("auto", "cpu") and not recipe.device.startswith("cuda"):
        mistakes.add("device", unknown("device", recipe.device, ("auto", "cpu", "cuda")))
    if mistakes.found:
        raise RecipeError(recipe.name, mistakes.found)


def _check_heal(recipe: Recipe, mistakes: Mistakes) -> None:
    """Refuse a repair of nothing, and one that would throw away what the passes have trained."""
    if not recipe.prune:
        mistakes.add("heal", "there is nothing to make up for; add [[prune]], or leave [heal] out")
    for number, section in enumerate(recipe.prune):
        if section.epochs:
            mistakes.add(
                "heal",
                f"it starts from the dense weights, and prune.{number} trains for {section.epochs} epochs;"
                " set epochs = 0 in it (and train in [finetune]), or leave [heal] out",
            )


def source(named: Named, path: str, place: str, key: str, mistakes: Mistakes) -> Callable[[], Any] | None:
    """Return the function behind an import path with its keys bound, or None where it was a mistake.

    Example:
        >>> from tonsor.recipe.schema import ModelSource
        >>> mlp = ModelSource.model_validate({"build": "tonsor.examples.models:mlp", "sizes": [2, 3]})
        >>> source(mlp, mlp.build, "model", "build", Mistakes())()[-1]
        Linear(in_features=2, out_features=3, bias=True)
    """
    function = resolve(path, f"{place}.{key}", mistakes)
    if function is None:
        return None
    bound = bind(function, named.settings, place, mistakes)
    for name in missing(function, named.settings):
        mistakes.add(place, f"key '{name}' is missing; '{path}' needs it")
    return bound


def _function(kind: str, name: str, place: str, mistakes: Mistakes) -> Callable[..., Any]:
    """Return a loss or metric by its name or import path."""
    table = TABLES[kind]
    if ":" in name:
        return resolve(name, f"{place}.{kind}", mistakes) or next(iter(table.values()))
    if name not in table:
        mistakes.add(f"{place}.{kind}", f"{unknown(kind, name, table)}; or give an import path")
    return table.get(name, next(iter(table.values())))


def _optimizer(named: Rule, place: str, mistakes: Mistakes) -> Callable[..., Optimizer]:
    """Return the optimizer class with its settings bound, tried on a small weight."""
    table = TABLES["optimizer"]
    if named.rule not in table:
        mistakes.add(place, unknown("optimizer", named.rule, table))
        return torch.optim.SGD
    before = len(mistakes.found)
    bound = bind(table[named.rule], named.settings, place, mistakes)
    if len(mistakes.found) == before:
        trial.attempt(lambda: bound([torch.zeros(2, 2, requires_grad=True)]), place, mistakes)
    return bound


def _budget(named: Rule | None, place: str, mistakes: Mistakes) -> prune.Budget | None:
    """Return what the weights that stay may cost, the cost's keys bound."""
    if named is None:
        return None
    before = len(mistakes.found)
    own = {key: value for key, value in named.settings.items() if key in ("share", "limit")}
    rest = {key: value for key, value in named.settings.items() if key not in own}
    cost = bind_rule(TABLES["budget"], Rule(rule=named.rule, **rest), place, mistakes)
    budget = bind(partial(prune.Budget, cost=cost or prune.parameters), own, place, mistakes)
    made: list[prune.Budget] = []
    if len(mistakes.found) == before:
        trial.attempt(lambda: made.append(budget()), place, mistakes)
    return made[0] if made else None


def _schedule(
    named: Rule, place: str, mistakes: Mistakes, levels: tuple[float, float, float]
) -> Callable[..., float]:
    """Return a schedule with what the recipe leaves open filled in: first, last, and constant level."""
    initial, final, level = levels
    given = {"final": level} if named.rule == "constant" else {"initial": initial, "final": final}
    bound = bind_rule(SCHEDULES, named, place, mistakes)
    if bound is None:
        return partial(SCHEDULES["constant"], final=level)
    return partial(bound, **{key: value for key, value in given.items() if key not in named.settings})
