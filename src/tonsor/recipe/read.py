"""Read a recipe: TOML in, a checked `Recipe` out, or every mistake at once."""

import tomllib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from tonsor.recipe.binding import Mistakes
from tonsor.recipe.schema import PrunePass, Recipe, Retraining, Training
from tonsor.spelling import unknown


class RecipeError(ValueError):
    """Tell every mistake of a recipe, one a line.

    Example:
        >>> print(RecipeError("my.toml", ["train.epochs: got -1"]))
        my.toml: 1 mistake
          train.epochs: got -1
    """

    def __init__(self, where: str, mistakes: Sequence[str]) -> None:
        count = f"{len(mistakes)} mistake" + "s" * (len(mistakes) != 1)
        super().__init__("\n  ".join([f"{where}: {count}", *mistakes]))


def read_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    r"""Read a TOML file, apply the changes, and check every key and type.

    What `[[prune]]` and `[finetune]` leave out of the training keys they take from `[train]`.

    Args:
        path: The recipe.
        changes: `"key=value"` each, where the key is a dotted path (`prune.0.sparsity=0.8`) and the
            value is TOML; a value that is no TOML is taken as text.

    Returns:
        The recipe; names of rules and import paths are looked up later, by `tonsor.recipe.build`.

    Raises:
        RecipeError: If the file is missing, is not TOML, or has mistakes: all are listed.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.toml"
        >>> _ = path.write_text('name = "a"\n[model]\nbuild = "m:f"\n[data]\nload = "m:g"\n[train]')
        >>> read_recipe(path, ["train.epochs=3"]).train.epochs
        3
        >>> read_recipe(path, ["train.epoch=3"])
        Traceback (most recent call last):
        tonsor.recipe.read.RecipeError: .../a.toml: 1 mistake
          train: unknown key 'epoch'; did you mean 'epochs'? Known: ...
    """
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(str(path), [f"cannot be read as TOML: {error}"]) from error
    mistakes = Mistakes()
    for change in changes:
        _change(content, change, mistakes)
    recipe = _validate(content, mistakes)
    if mistakes.found or recipe is None:
        raise RecipeError(str(path), mistakes.found)
    return recipe


def _change(content: dict[str, Any], change: str, mistakes: Mistakes) -> None:
    """Apply one `key=value` to the content of the file."""
    key, equals, text = change.partition("=")
    if not equals:
        mistakes.add(f"--set {change}", "expected key=value")
        return
    *parents, last = key.strip().split(".")
    place: Any = content
    for parent in parents:
        place = _child(place, parent)
    if isinstance(place, dict):
        place[last] = _value(text)
    else:
        mistakes.add(f"--set {change}", f"'{'.'.join(parents)}' is no table of this recipe")


def _child(place: Any, name: str) -> Any:
    """Return the table or list entry of that name, made where a table lacks it."""
    if isinstance(place, dict):
        return place.setdefault(name, {})
    if isinstance(place, list) and name.isdigit() and int(name) < len(place):
        return place[int(name)]
    return None


def _value(text: str) -> Any:
    """Return the text as a TOML value, or as it is."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def _inherit(content: Mapping[str, Any]) -> dict[str, Any]:
    """Fill the training keys of the later stages from `[train]`."""
    whole = deepcopy(dict(content))
    train = whole.get("train", {})
    if not isinstance(train, dict):
        return whole
    shared = {key: value for key, value in train.items() if key in Training.model_fields}
    if isinstance(whole.get("prune"), list):
        whole["prune"] = [{**shared, **p} if isinstance(p, dict) else p for p in whole["prune"]]
    if isinstance(whole.get("finetune"), dict):
        whole["finetune"] = {**shared, **whole["finetune"]}
    return whole


def _validate(content: Mapping[str, Any], mistakes: Mistakes) -> Recipe | None:
    """Return the checked recipe, or note what pydantic found in the words of the house."""
    try:
        return Recipe.model_validate(_inherit(content))
    except ValidationError as error:
        for entry in error.errors():
            if not _is_inherited(content, entry["loc"]):
                mistakes.add(*_told(entry["loc"], entry))
        return None


def _is_inherited(content: Mapping[str, Any], location: tuple[int | str, ...]) -> bool:
    """Say whether a mistake was already told at `[train]`, where the key stands."""
    depth = {"prune": 2, "finetune": 1}.get(str(location[0]), len(location))
    if len(location) <= depth or location[depth] not in content.get("train", {}):
        return False
    section: Any = content
    for part in location[:depth]:
        section = section[part]
    return location[depth] not in section


def _told(location: tuple[int | str, ...], entry: Any) -> tuple[str, str]:
    """Return the place and the sentence for one of pydantic's errors."""
    parent = ".".join(str(part) for part in location[:-1]) or "recipe"
    if entry["type"] == "extra_forbidden":
        return parent, unknown("key", str(location[-1]), _section(location[:-1]).model_fields)
    if entry["type"] == "missing":
        return parent, f"key '{location[-1]}' is missing"
    place = ".".join(str(part) for part in location)
    if entry["type"] == "value_error":  # of a section's own check
        return place, str(entry["ctx"]["error"])
    hint = "; write [[prune]], a list of passes" if location == ("prune",) else ""
    return place, f"{entry['msg'][0].lower()}{entry['msg'][1:]}; got {entry['input']!r}{hint}"


def _section(location: tuple[int | str, ...]) -> type[BaseModel]:
    """Return the section's model at a place of the recipe."""
    if not location:
        return Recipe
    if location[0] == "prune":
        return PrunePass
    if location[0] in ("train", "finetune"):
        return Training if location[0] == "train" else Retraining
    annotation = Recipe.model_fields[str(location[0])].annotation
    options = [annotation, *getattr(annotation, "__args__", ())]
    return next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
