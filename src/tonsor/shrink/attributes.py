"""Correct numbers that modules remember and that their forward uses as sizes."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from tonsor.shrink.rewrite import Change
from tonsor.spelling import unknown


def corrected(
    model: nn.Module, changes: Sequence[Change], *, last: bool = False
) -> dict[str, dict[str, Any]]:
    """Return which attributes of which modules are to have another number.

    A number in the graph that changed is looked for in the module whose code it stands in, then in those
    around it: an attribute, or an item of a list or tuple, that equals it. Where two changes disagree
    about one attribute it is left alone.

    Args:
        model: It is only looked at.
        changes: The numbers that changed, each with the modules it stands in.
        last: Where two changes disagree, take what stands later in the graph, as the size of an output.

    Returns:
        By module the attributes with what they become.

    Example:
        >>> layer = nn.Linear(2, 2); layer.heads = 12
        >>> corrected(layer, [Change(("",), 12, 6)])
        {'': {'heads': 6}}
        >>> twice = [Change(("",), 12, 6), Change(("",), 12, 9)]
        >>> corrected(layer, twice), corrected(layer, twice, last=True)
        ({}, {'': {'heads': 9}})
    """
    wanted: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for change in changes:
        for path in change.paths:
            module = model.get_submodule(path)
            found = [name for name, value in vars(module).items() if _holds(value, change.old)]
            found = [] if _sized(module, change.old) else found
            for name in found:
                wanted.setdefault((path, name), []).append((change.old, change.new))
            if found:
                break
    result: dict[str, dict[str, Any]] = {}
    for (path, name), pairs in wanted.items():
        by_old = dict(pairs)
        if last or len(by_old) == len(set(pairs)):
            value = getattr(model.get_submodule(path), name)
            result.setdefault(path, {})[name] = _replaced(value, by_old)
    return result


def correct_(model: nn.Module, attributes: dict[str, dict[str, Any]]) -> None:
    """Set attributes of modules.

    Example:
        >>> layer = nn.Linear(2, 2); layer.heads = 12
        >>> correct_(layer, {"": {"heads": 6}}); layer.heads
        6
    """
    for path, values in attributes.items():
        for name, value in values.items():
            own = vars(model.get_submodule(path))
            own[name] = type(own[name])(value) if isinstance(own[name], tuple) else value


def check_attributes(model: nn.Module, given: Any, where: str) -> dict[str, dict[str, Any]]:
    """Check numbers from a file against the attributes that a model has.

    Raises:
        ValueError: If a module, an attribute or a number is not what the model has.

    Example:
        >>> check_attributes(nn.Linear(1, 1), {"": {"heads": 6}}, "a.json")
        Traceback (most recent call last):
        ValueError: a.json: the model itself has no whole number 'heads'
    """
    if not isinstance(given, Mapping) or not all(isinstance(own, Mapping) for own in given.values()):
        raise ValueError(f"{where}: must be objects of numbers by module; got {given!r:.60}")
    modules = dict(model.named_modules())
    for path, own in given.items():
        if path not in modules:
            raise ValueError(f"{where}: {unknown('module', str(path), modules)}")
        for name, value in own.items():
            before = vars(modules[path]).get(name)
            if not _alike(before, value):
                raise ValueError(f"{where}: {path or 'the model itself'} has no whole number {name!r}")
    return {path: dict(own) for path, own in given.items()}


def _alike(before: Any, after: Any) -> bool:
    """Say whether both are whole numbers above zero, or lists of as many."""
    if type(before) is int:
        return type(after) is int and 0 < after <= before
    if type(before) not in (list, tuple) or not isinstance(after, list) or len(before) != len(after):
        return False
    return all(_alike(a, b) or a == b for a, b in zip(before, after, strict=True))


def _sized(module: nn.Module, old: int) -> bool:
    """Say whether a sliced weight of the module has this size still: its attributes tell of that one."""
    return any(old in tensor.shape for tensor in module.parameters(recurse=False))


def _holds(value: Any, old: int) -> bool:
    """Say whether an attribute is the number, or a list or tuple of whole numbers with it."""
    if type(value) is int:
        return value == old
    plain = type(value) in (list, tuple) and all(type(item) is int for item in value)
    return plain and old in value


def _replaced(value: Any, by_old: dict[int, int]) -> Any:
    """Return the attribute with its numbers replaced."""
    if isinstance(value, int):
        return by_old.get(value, value)
    return [by_old.get(item, item) for item in value]
