"""Bind the keys of a recipe to the functions they name, checked against each function's signature."""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from types import MappingProxyType
from typing import Any

from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from tonsor.recipe.schema import Rule
from tonsor.spelling import unknown

Table = Mapping[str, Callable[..., Any]]  # rules by name


@dataclass
class Mistakes:
    """Gather what is wrong, each with its place, so that all is told at once.

    Example:
        >>> mistakes = Mistakes()
        >>> mistakes.add("train.epochs", "must be at least 0; got -1")
        >>> mistakes.found
        ['train.epochs: must be at least 0; got -1']
    """

    found: list[str] = field(default_factory=list)

    def add(self, place: str, what: str) -> None:
        """Note one mistake at its place in the recipe."""
        self.found.append(f"{place}: {what}")


def resolve(path: str, place: str, mistakes: Mistakes) -> Callable[..., Any] | None:
    """Return what an import path names.

    Args:
        path: `"package.module:function"`.
        place: Where in the recipe it stands, for the mistakes.
        mistakes: Gathers what is wrong.

    Returns:
        The function, or None where it was noted as a mistake.

    Example:
        >>> resolve("math:sqrt", "data.load", Mistakes())(9.0)
        3.0
        >>> mistakes = Mistakes(); resolve("math:sqrtt", "data.load", mistakes); mistakes.found
        ["data.load: unknown name in math 'sqrtt'; did you mean 'sqrt'? Known: ..."]
    """
    module_name, colon, name = path.partition(":")
    if not colon or not module_name or not name:
        mistakes.add(place, f"got '{path}', expected an import path like 'package.module:function'")
        return None
    try:
        module = import_module(module_name)
    except ImportError as error:
        mistakes.add(place, f"cannot import '{module_name}': {error}")
        return None
    found = getattr(module, name, None)
    if found is None:
        public = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        mistakes.add(place, unknown(f"name in {module_name}", name, public))
    elif not callable(found):
        mistakes.add(place, f"'{path}' is a {type(found).__name__}, expected a function")
        return None
    return found


def bind(
    function: Callable[..., Any], settings: Mapping[str, Any], place: str, mistakes: Mistakes
) -> Callable[..., Any]:
    """Check the settings against the function's signature and bind them.

    Args:
        function: A rule, a class or any function; its annotations say what each key may be.
        settings: Values by key, as TOML gives them.
        place: Where in the recipe they stand, for the mistakes.
        mistakes: Gathers unknown keys, missing keys and wrong types.

    Returns:
        The function with its settings bound; only fit for use if no mistake was added.

    Example:
        >>> from tonsor.clip import global_norm
        >>> bind(global_norm, {"max_norm": 2}, "train.clip", Mistakes()).keywords
        {'max_norm': 2.0}
        >>> mistakes = Mistakes(); _ = bind(global_norm, {"maxnorm": 2}, "train.clip", mistakes)
        >>> mistakes.found
        ["train.clip: unknown key 'maxnorm'; did you mean 'max_norm'? Known: max_norm"]
    """
    known = tunable(function)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature(function).parameters.values())
    checked = {}
    for key, value in settings.items():
        if key in known:
            checked[key] = _typed(known[key], value, f"{place}.{key}", mistakes)
        elif takes_any:
            checked[key] = value
        else:
            mistakes.add(place, unknown("key", key, known))
    return partial(function, **checked)


def tunable(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters that a recipe may set by key.

    Example:
        >>> from tonsor.clip import global_norm
        >>> list(tunable(global_norm))
        ['max_norm']
    """
    parameters = signature(function).parameters.values()
    return {p.name: p for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}


def missing(function: Callable[..., Any], settings: Mapping[str, Any]) -> list[str]:
    """Return the keys without a default that the settings do not have.

    Example:
        >>> from tonsor.schedule import linear
        >>> missing(linear, {"initial": 0.0})
        ['stop']
    """
    without_default = [name for name, p in tunable(function).items() if p.default is p.empty]
    return [name for name in without_default if name not in settings]


def signature(function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature with annotations as types where they can be read.

    Example:
        >>> str(signature(signature))[:10]
        '(function:'
    """
    try:
        return inspect.signature(function, eval_str=True)
    except NameError:
        return inspect.signature(function)


def bind_rule(
    table: Table,
    rule: Rule,
    place: str,
    mistakes: Mistakes,
    parts: Mapping[str, Table] = MappingProxyType({}),
) -> Callable[..., Any] | None:
    """Return the rule of a table that a recipe names, its settings bound; classes are instantiated.

    A rule that wraps others, or is put together from parts, has them among its settings; they are bound
    first.

    Args:
        table: Rules by name.
        rule: The name and its settings.
        place: Where in the recipe it stands, for the mistakes.
        mistakes: Gathers what is wrong.
        parts: The table of a part by its key, as `{"measure": MEASURES}`; what has none is of `table`.

    Returns:
        The bound rule, or None where a mistake was added.

    Example:
        >>> from tonsor.clip import RULES
        >>> bind_rule(RULES, Rule(rule="AutoClip", percentile=90), "train.clip", Mistakes())
        AutoClip(percentile=90.0, window=10000)
    """
    if rule.rule not in table:
        mistakes.add(place, unknown("rule", rule.rule, table))
        return None
    function, before = table[rule.rule], len(mistakes.found)
    wrapped = [
        _inner(name, rule.settings.get(name), table, place, mistakes, parts)
        if name in rule.settings or parameter.default is parameter.empty
        else parameter.default
        for name, parameter in wraps(function).items()
    ]
    settings = {key: value for key, value in rule.settings.items() if key not in wraps(function)}
    held = [key for key in tunable(function) if _holds_rules(settings.get(key))]
    nested = {key: _inner(key, settings[key], table, place, mistakes, parts) for key in held}
    plain = {key: value for key, value in settings.items() if key not in held}
    bound = partial(bind(function, plain, place, mistakes), **nested)
    if len(mistakes.found) > before:
        return None
    if not inspect.isclass(function):
        return bound
    try:
        made: Callable[..., Any] = bound(*wrapped)
    except (ValueError, TypeError) as error:
        mistakes.add(place, str(error))
        return None
    return made


def _holds_rules(value: Any) -> bool:
    """Tell whether a setting is a rule, or a table or list of them."""
    is_table = isinstance(value, dict)
    inside = value.values() if is_table else value if isinstance(value, list) else ()
    return (is_table and "rule" in value) or (bool(inside) and all(map(_holds_rules, inside)))


def wraps(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the rules that a rule wraps by name: the positional-only parameters of a class.

    Example:
        >>> from tonsor.compress import ErrorFeedback, TopK
        >>> list(wraps(ErrorFeedback)), list(wraps(TopK))
        (['compressor'], [])
    """
    if not inspect.isclass(function):
        return {}
    parameters = signature(function).parameters.values()
    return {p.name: p for p in parameters if p.kind is p.POSITIONAL_ONLY}


def _inner(
    name: str, value: Any, table: Table, place: str, mistakes: Mistakes, parts: Mapping[str, Table]
) -> Any:
    """Bind the rule that another one holds under a name; or a list of rules, or a table of them."""
    table, here = parts.get(name, table), f"{place}.{name}"
    if isinstance(value, list):
        return [_inner(str(number), each, table, here, mistakes, {}) for number, each in enumerate(value)]
    if isinstance(value, dict) and "rule" not in value and _holds_rules(value):
        return {key: _inner(key, each, table, here, mistakes, {}) for key, each in value.items()}
    value = {"rule": value} if isinstance(value, str) else value
    if not isinstance(value, dict) or not isinstance(value.get("rule"), str):
        return mistakes.add(place, f"key '{name}' must be a rule, as {{ rule = ... }}; got {value!r}")
    bound = bind_rule(table, Rule(**value), here, mistakes, parts)
    return bound.func if isinstance(bound, partial) and not bound.keywords else bound


def _typed(parameter: inspect.Parameter, value: Any, place: str, mistakes: Mistakes) -> Any:
    """Return the value as the annotation wants it (a TOML array as a tuple, say)."""
    if parameter.annotation is parameter.empty or isinstance(parameter.annotation, str):
        return value
    try:
        adapter = TypeAdapter(parameter.annotation, config=ConfigDict(arbitrary_types_allowed=True))
        return adapter.validate_json(json.dumps(value), strict=True)
    except PydanticSchemaGenerationError:
        return value
    except ValidationError as error:
        mistakes.add(place, f"{error.errors()[0]['msg']}; got {value!r}")
        return value
