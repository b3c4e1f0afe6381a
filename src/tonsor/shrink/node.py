"""Read one node of an exported graph: its operation, its arguments by name, where it stands."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tonsor.shrink.compact import even
from tonsor.shrink.value import Call, Value

FLAGS = ("train", "training")


def bind(op: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return all arguments by the names of the schema, defaults filled in."""
    given = {}
    for place, argument in enumerate(op._schema.arguments):
        default = argument.default_value if argument.has_default_value() else None
        value = args[place] if place < len(args) else kwargs.get(argument.name, default)
        given[argument.name] = value
    return given


def completed(result: Any, real: Any, fixed: str, *, constant: bool) -> Any:
    """Return the values with what does not depend on the rule."""
    if isinstance(result, Value):
        live = result.live.expand((1,) * len(result.shape)) if not result.live.ndim else result.live
        return replace(
            result, live=even(live.cpu()), fixed=result.fixed or fixed, constant=constant, real=real
        )
    if isinstance(result, (list, tuple)):
        reals = [None] * len(result) if real is None else real
        return [completed(r, x, fixed, constant=constant) for r, x in zip(result, reals, strict=True)]
    return real


def real_of(item: Any) -> Any:
    """Return arguments with each value replaced by its tensor."""
    if isinstance(item, Value):
        return item.real
    return [real_of(part) for part in item] if isinstance(item, (list, tuple)) else item


def leaves(item: Any) -> list[Value]:
    """Return all values inside lists, tuples and dicts."""
    if isinstance(item, Value):
        return [item]
    parts = list(item.values()) if isinstance(item, Mapping) else item
    return [v for part in parts for v in leaves(part)] if isinstance(parts, (list, tuple)) else []


def shapes(meta: Any) -> list[tuple[int, ...]]:
    """Return the shapes of all tensors that a node returns."""
    if isinstance(meta, Tensor):
        return [tuple(int(size) for size in meta.shape)]
    return [shape for part in meta for shape in shapes(part)] if isinstance(meta, (list, tuple)) else []


def key(op: Any, *, overload: bool) -> str:
    """Return the operation's name in the table: without the underscore of its in-place twin."""
    namespace, name = op._schema.name.split("::")
    tail = f".{op._overloadname}" if overload else ""
    name = name if name.endswith("__") else name.removesuffix("_")
    return f"{namespace}.{name}{tail}"


def named(node: Any) -> str:
    """Return the operation's name and where it stands."""
    return key(node.target, overload=False) + place(node)


def place(node: Any) -> str:
    """Return the module that a node stands in, as in " in head"."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return f" in {stack[-1][0]}" if stack and stack[-1][0] else ""


def flags_of(node: Any) -> list[int]:
    """Return the places of arguments that say whether a module trains, where they say no."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return []
    names = [argument.name for argument in node.target._schema.arguments]
    return [i for i, name in enumerate(names[: len(node.args)]) if name in FLAGS and node.args[i] is False]


def returns_list(op: Any) -> bool:
    """Say whether the operation returns a list."""
    schema = getattr(op, "_schema", None)
    return schema is None or any(r.type.kind() == "ListType" for r in schema.returns)


def written(call: Call) -> list[Value]:
    """Return the tensors that an operation changes in place."""
    changed = [a.name for a in call.op._schema.arguments if a.alias_info and a.alias_info.is_write]
    return leaves([call.given[name] for name in changed])


def memory_of(value: Value) -> int:
    """Return where a value's tensor lies in memory."""
    return 0 if value.real is None else value.real.untyped_storage().data_ptr()


def checked(result: Value | list[Value], call: Call) -> Value | list[Value]:
    """Return what a rule gave if it has the right shapes."""
    for value, shape in zip(leaves(result), call.shapes, strict=True):
        for tensor in (*value.layers, value.live):
            fits = tensor.ndim in (0, len(shape)) and all(
                size in (1, whole) for size, whole in zip(tensor.shape, shape[: tensor.ndim], strict=True)
            )
            if value.shape != shape or not fits:
                raise RuntimeError(f"a rule gave {value} for shape {shape}")
    return result
