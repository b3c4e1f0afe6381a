"""Build everything a recipe names, without training; and say which rules there are."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from tonsor.modes import call
from tonsor.recipe.binding import Mistakes, tunable, wraps
from tonsor.recipe.build import check_rules, methods
from tonsor.recipe.context import Run
from tonsor.recipe.coupled import Coupled
from tonsor.recipe.folder import RunFolder
from tonsor.recipe.schema import PrunePass, Recipe
from tonsor.recipe.selection import prunable
from tonsor.recipe.tables import COUPLED, TABLES
from tonsor.shrink import channel_groups
from tonsor.spelling import unknown

# What an optimizer, a regrowing rule or a format works on, and what a run finds out by itself.
GIVEN = ("params", "stats", "within", "step", "among", "positions", "calibration")


def check_recipe(recipe: Recipe) -> Iterator[str]:
    """Build the model, load the data, try every rule, and take one loss; nothing is trained or written.

    Args:
        recipe: A recipe that was read.

    Yields:
        A line for each thing that was found in order.

    Raises:
        RecipeError: With every mistake in the names and settings of rules.
        ValueError: If data and model do not fit together.

    Example:
        >>> recipe = Recipe.model_validate({
        ...     "name": "a", "model": {"build": "tonsor.examples.models:linear"}, "train": {"loss": "mse"},
        ...     "data": {"load": "tonsor.examples.data:diabetes"}})
        >>> for line in check_recipe(recipe): print(line)
        rules: every name, key and value is known
        data: test 100, train 300, valid 42 samples
        model: Sequential, 11 parameters
        loss of the untrained model on one batch: ...
        stages: train, report
    """
    check_rules(recipe)
    yield "rules: every name, key and value is known"
    run = Run(recipe, RunFolder.nowhere())
    data = run.data
    sizes = ", ".join(f"{name} {len(dataset)}" for name, dataset in sorted(data.items()))  # type: ignore[arg-type]
    yield f"data: {sizes} samples"
    model = run.fresh_model()
    yield f"model: {type(model).__name__}, {sum(p.numel() for p in model.parameters()):,} parameters"
    inputs, targets = run.batch(data["test"])
    loss = methods(recipe.train, "train", Mistakes()).loss
    try:
        yield f"loss of the untrained model on one batch: {loss(call(model, inputs), targets).item():.4g}"
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"model, data and loss do not fit together: {error}") from error
    for number, section in enumerate(recipe.prune):
        names = ", ".join(prunable(model, section.include, section.exclude))
        yield f"prune.{number}: {_aim(section)} of {names}"
    yield f"stages: {', '.join(run.stages)}"


def _aim(section: PrunePass) -> str:
    """Return how far a pass goes, in words."""
    if section.budget is None:
        return f"{section.sparsity or 0:.0%}"
    bounds = ", ".join(f"{key} = {value}" for key, value in section.budget.settings.items())
    return f"a budget of {section.budget.rule} ({bounds})"


def describe(kind: str | None = None) -> Iterator[str]:
    """Yield a line for every rule with its keys and defaults, kind by kind; of one kind also what each does.

    Args:
        kind: One kind only.

    Raises:
        ValueError: If the kind is not known.

    Example:
        >>> for line in list(describe("scope"))[:3]: print(line)
        scope
          local
              Let the units of each tensor compete among themselves: every tensor loses the same fraction.
    """
    if kind is not None and kind not in TABLES:
        raise ValueError(unknown("kind of rule", kind, TABLES))
    for name, table in TABLES.items():
        if kind in (None, name):
            yield name
            rules = {rule: _keys(function) for rule, function in table.items()}
            if name == "pattern":
                rules[COUPLED] = _keys(Coupled)
            width = max(len(rule) for rule in rules)
            for rule, keys in rules.items():
                yield f"  {rule:<{width}}  {keys}".rstrip()
                if kind is not None:
                    yield f"      {_sentence(table.get(rule, channel_groups))}"


def _sentence(function: Callable[..., Any]) -> str:
    """Return what a rule says of itself first."""
    return (inspect.getdoc(function) or "").partition("\n")[0]


def _keys(function: Callable[..., Any]) -> str:
    """Return the keys of a rule with their defaults."""
    named = [p for p in tunable(function).values() if p.name not in GIVEN]
    keys = [p.name if p.default is inspect.Parameter.empty else f"{p.name}={p.default!r}" for p in named]
    bounds = ["share or limit"] if function in TABLES["budget"].values() else []
    return ", ".join([f"{name}={{ rule = ... }}" for name in wraps(function)] + bounds + keys)
