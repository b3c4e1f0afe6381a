"""How the masks of a pass move: which keys of `[[prune]]` go together."""

from collections.abc import Callable, Sequence
from typing import Any

from tonsor.prune import WATCHES, needs
from tonsor.recipe.binding import Mistakes
from tonsor.recipe.schema import PrunePass, Rule
from tonsor.spelling import unknown


def is_in_rounds(section: PrunePass) -> bool:
    """Return whether a pass prunes at once, before each of its trainings.

    Example:
        >>> is_in_rounds(PrunePass(sparsity=0.5)), is_in_rounds(PrunePass(sparsity=0.5, rounds=3))
        (False, True)
    """
    return section.rounds > 1 or section.rewind != "none"


def ramp(section: PrunePass) -> Rule:
    """Return the schedule of the sparsity; soft manners choose for the whole sparsity, as in their papers.

    Example:
        >>> ramp(PrunePass(sparsity=0.5)).rule, ramp(PrunePass(sparsity=0.5, soft=True)).rule
        ('cubic', 'constant')
    """
    is_pressed = section.soft or section.penalty is not None
    is_open = "schedule" not in section.model_fields_set
    return Rule(rule="constant") if is_pressed and is_open else section.schedule


def check(section: PrunePass, importance: Callable[..., Any] | None, place: str, mistakes: Mistakes) -> None:
    """Note keys of a pass that exclude one another, or have no effect together.

    Args:
        section: The pass.
        importance: Its bound importance; None where that was a mistake.
        place: Its name in the recipe.
        mistakes: Gathers what is wrong.

    Example:
        >>> mistakes = Mistakes()
        >>> check(PrunePass(sparsity=0.5, soft=True, rounds=2), None, "prune.0", mistakes); mistakes.found
        ['prune.0: soft and rounds exclude one another: they say how masks move; keep one of them']
    """
    manners = {
        "regrow": section.regrow is not None,
        "soft": section.soft,
        "penalty": section.penalty is not None,
        "rounds" if section.rounds > 1 else "rewind": is_in_rounds(section),
    }
    chosen = [name for name, is_asked in manners.items() if is_asked]
    if len(chosen) > 1:
        text = f"{' and '.join(chosen)} exclude one another: they say how masks move; keep one of them"
        mistakes.add(place, text)
    if section.rewind_to and section.rewind != "weights":
        mistakes.add(f"{place}.rewind_to", f'needs rewind = "weights"; got rewind = "{section.rewind}"')
    if section.regrow is not None and section.pattern.rule != "element":
        mistakes.add(
            f"{place}.regrow", f'moves single weights, not "{section.pattern.rule}"; leave out pattern'
        )
    if chosen in (["regrow"], ["rounds"], ["rewind"]) and "schedule" in section.model_fields_set:
        mistakes.add(f"{place}.schedule", f"has no effect with {chosen[0]}; leave it out")
    if section.statistics == "training":
        _check_watched(section, importance, place, mistakes)


def _check_watched(
    section: PrunePass, importance: Callable[..., Any] | None, place: str, mistakes: Mistakes
) -> None:
    """Note where the statistics of an importance cannot come from the training of the pass."""
    where = f"{place}.statistics"
    if section.regrow is not None or is_in_rounds(section):
        mistakes.add(where, 'masks are found before the training begins; leave out "training"')
    names = needs(importance) if importance is not None else ()
    if importance is not None and not names:
        mistakes.add(where, f"importance '{section.importance.rule}' asks for none; leave it out")
    for name in names:
        if name not in WATCHES:
            mistakes.add(where, f'{unknown("statistic of a training", name, WATCHES)}; take "calibration"')
        elif section.soft and getattr(WATCHES[name], "only_when_due", False):
            mistakes.add(where, f"'{name}' is gone when soft chooses for the last time; leave it out")


def check_kept(passes: Sequence[PrunePass], steps: int) -> None:
    """Refuse a pass that goes back to a step which the training does not have.

    Args:
        passes: The passes of the recipe.
        steps: Steps of the training.

    Raises:
        ValueError: With the pass and both numbers.

    Example:
        >>> check_kept([PrunePass(sparsity=0.5, rewind="weights", rewind_to=7)], 5)
        Traceback (most recent call last):
        ValueError: prune.0.rewind_to: step 7 lies after the end of [train], which has 5 steps
    """
    for number, section in enumerate(passes):
        if section.rewind_to > steps:
            raise ValueError(
                f"prune.{number}.rewind_to: step {section.rewind_to} lies after the end of [train], which has"
                f" {steps} steps"
            )
