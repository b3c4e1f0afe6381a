"""The header of a packed file, read without trust."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

FORMAT, VERSION = "tonsor.pack", "1"
LONGEST = 100_000_000  # bytes of the longest header, as safetensors has it
TIE = "= "  # before the name that a tied name stands for
MARK = "@"  # before a tensor's name in the header's texts
TEXTS = "__metadata__"


@dataclass(frozen=True)
class Header:
    """Hold what a header says, compared with the length of the file.

    Args:
        lines: The line of each tensor, by name.
        ties: Names that stand for another.
        places: Where the bytes of each tensor begin and end in the file.
        about: Whatever else was kept.
    """

    lines: Mapping[str, str]
    ties: Mapping[str, str]
    places: Mapping[str, tuple[int, int]]
    about: Mapping[str, Any]


def read_header(file: BinaryIO, size: int, /) -> Header:
    """Read the header of a file of known size.

    Args:
        file: Open, at its beginning.
        size: Its bytes.

    Returns:
        The header.

    Raises:
        ValueError: If it is none, or does not fit the size.
    """
    first = file.read(8)
    if len(first) < 8:
        raise ValueError(f"it has {size} bytes, too few for a packed file")
    length = int.from_bytes(first, "little")
    if length > size - 8 or length > LONGEST:
        raise ValueError(
            f"its header would take {length:,} bytes, and {size - 8:,} are there; no packed file"
        )
    header = _json(file.read(length), "its header")
    texts = header.pop(TEXTS, None)
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise ValueError("its header has no texts")
    if texts.get("format") != FORMAT:
        raise ValueError("it was not written by tonsor's pack; a plain safetensors file needs no unpacking")
    if texts.get("version") != VERSION:
        raise ValueError(
            f"it has version {texts.get('version')!r}, this tonsor reads {VERSION}; update tonsor"
        )
    lines = {key[len(MARK) :]: text for key, text in texts.items() if key.startswith(MARK)}
    ties = {name: text[len(TIE) :] for name, text in lines.items() if text.startswith(TIE)}
    lines = {name: text for name, text in lines.items() if name not in ties}
    places = _places(header, 8 + length, size)
    if lines.keys() != places.keys() or not set(ties.values()) <= lines.keys():
        raise ValueError("its texts and its tensors have not the same names")
    return Header(lines, ties, places, _json(texts.get("about", "{}").encode(), "its 'about'"))


def _json(data: bytes, what: str) -> dict[str, Any]:
    """Return a JSON object, or say that it is none."""
    try:
        found = json.loads(data.decode(), object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} is no JSON: {str(error)[:200]}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{what} is no JSON object")
    return found


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return pairs as a dict; a key that is there twice could mean two things."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _places(header: Mapping[str, Any], start: int, size: int) -> dict[str, tuple[int, int]]:
    """Return where each tensor's bytes are; together they are the rest of the file, without a gap."""
    spans = []
    for name, told in header.items():
        span = told.get("data_offsets") if isinstance(told, dict) and told.get("dtype") == "U8" else None
        if not isinstance(span, list) or [type(x) for x in span] != [int, int] or not 0 <= span[0] <= span[1]:
            raise ValueError(f"its header tells no bytes of '{name[:80]}'")
        if told.get("shape") != [span[1] - span[0]]:
            raise ValueError(f"the shape of '{name[:80]}' is not the number of its bytes")
        spans.append((span[0] + start, span[1] + start, name))
    end = start
    for first, last, name in sorted(spans):
        if first != end:
            raise ValueError(f"the bytes of '{name[:80]}' begin at {first:,}, expected {end:,}")
        end = last
    if end != size:
        raise ValueError(f"it has {size:,} bytes, and its header tells of {end:,}: truncated or changed")
    return {name: (first, last) for first, last, name in spans}
