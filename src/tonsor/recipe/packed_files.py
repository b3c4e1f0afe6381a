"""Files that are packed and unpacked by the command, without a recipe."""

import base64
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tonsor import pack as room
from tonsor.files import read_json, read_tensors, write_json, write_tensors
from tonsor.recipe.tables import TABLES
from tonsor.spelling import unknown

PLAN = "plan"  # of a shrunk model, in a packed file: JSON, deflated, in base 64
LONGEST = 1 << 26  # bytes of a plan at most


def plan_text(plan: Mapping[str, Any]) -> str:
    """Return a shrink plan as a short text.

    Example:
        >>> read_plan(plan_text({"slices": {}, "biases": []}))
        {'slices': {}, 'biases': []}
    """
    data = json.dumps(plan, separators=(",", ":")).encode()
    return base64.b64encode(zlib.compress(data, 9)).decode()


def read_plan(text: str) -> dict[str, Any]:
    """Return the plan of `plan_text`.

    Raises:
        ValueError: If the text is no such plan.

    Example:
        >>> read_plan("no plan")
        Traceback (most recent call last):
        ValueError: the packed file's plan cannot be read: ...
    """
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(text, validate=True), LONGEST)
        plan = json.loads(data)
    except (ValueError, zlib.error, RecursionError) as error:
        raise ValueError(f"the packed file's plan cannot be read: {error}") from error
    if not isinstance(plan, dict):
        raise ValueError("the packed file's plan cannot be read: it is no JSON object")
    return plan


def pack_file(
    path: Path, out: Path, *, bits: room.Bits, max_bytes: int | None, sharing: str
) -> dict[str, Any]:
    """Pack a safetensors file; where the plan of a shrunk model lies beside it, it is packed too.

    Args:
        path: The safetensors file.
        out: The packed file.
        bits: As `tonsor.pack.share` takes them; none for nothing lost.
        max_bytes: Instead: what the tensors may take; bits are found.
        sharing: A name of `tonsor.pack.SHARINGS`.

    Returns:
        The bytes of the file, those unpacked, and a row for each tensor.

    Raises:
        ValueError: If a file cannot be read, or the budget not met.
    """
    if sharing not in TABLES["sharing"]:
        raise ValueError(unknown("sharing", sharing, TABLES["sharing"]))
    rule = TABLES["sharing"][sharing]
    tensors, _ = read_tensors(path)
    about = _about(path.with_suffix(".json"))
    chosen = room.find_bits(tensors, max_bytes=max_bytes, sharing=rule).bits if max_bytes else bits
    packed = room.pack(tensors, bits=chosen, sharing=rule, about=about)
    size = room.save(packed, out)
    return {"bytes": size, "unpacked_bytes": packed.unpacked_bytes, "tensors": room.listing(packed)}


def _about(beside: Path) -> dict[str, Any]:
    """Return what the file with the sizes of a shrunk model says, short; nothing where there is none."""
    header = read_json(beside) if beside.exists() else {}
    if not isinstance(header, dict) or "plan" not in header:
        return {}
    return {**header.get("about", {}), PLAN: plan_text(header["plan"])}


def unpack_file(path: Path, out: Path) -> list[Path]:
    """Write what a packed file holds as safetensors, and the plan of a shrunk model beside it.

    Args:
        path: The packed file.
        out: The safetensors file; `tonsor.shrink.load` reads it, and the file beside it, where there is one.

    Returns:
        What was written.

    Raises:
        ValueError: If the file is truncated, changed or no packed file.
    """
    packed = room.load(path)
    about = dict(packed.about)
    plan = read_plan(about.pop(PLAN)) if PLAN in about else None
    write_tensors(out, room.unpack(packed), about={"format": "pt"})
    if plan is None:
        return [out]
    beside = out.with_suffix(".json")
    write_json(beside, {"format": "tonsor", "version": 1, "plan": plan, "about": about})
    return [out, beside]


def read_bits(given: list[str]) -> room.Bits:
    """Return the bits that the command was given: a number, or several of the form PATTERN=NUMBER.

    Args:
        given: As typed; nothing is lost where there are none.

    Raises:
        ValueError: If one is no number.

    Example:
        >>> read_bits(["4"]), read_bits(["*.weight=4", "*.bias=6"]), read_bits([])
        (4, {'*.weight': 4, '*.bias': 6}, None)
    """
    pairs = [text.rpartition("=") for text in given]
    wrong = [text for text, (_, _, number) in zip(given, pairs, strict=True) if not number.isdecimal()]
    if wrong or (len(given) > 1 and any(not pattern for pattern, _, _ in pairs)):
        raise ValueError(
            f"--bits must be a number, or several of the form PATTERN=NUMBER; got {', '.join(wrong or given)}"
        )
    if len(given) == 1 and not pairs[0][0]:
        return int(given[0])
    return {pattern: int(number) for pattern, _, number in pairs} or None
