"""A packed model as one file: a safetensors file of bytes, whose header people can read."""

import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from tonsor.files import write_bytes
from tonsor.pack.entry import Entry, parsed
from tonsor.pack.header import FORMAT, MARK, TEXTS, TIE, VERSION, Header, read_header
from tonsor.pack.named import told
from tonsor.pack.packed import Packed
from tonsor.spelling import unknown

LIMIT = 1 << 33  # bytes that a file may unpack to: eight GiB


def save(packed: Packed, path: str | Path, /) -> int:
    """Write a packed model as one file, whole or not at all.

    The file is a safetensors file: each tensor's bytes lie in it under the tensor's name, and a line of text
    for each says type, shape, how it is shared and where its zeros are, and the CRC-32 of the line and the
    bytes. Equal models give equal files.

    Args:
        packed: What `pack` returned.
        path: Where the file shall stand; its folder is made.

    Returns:
        The bytes of the file.

    Raises:
        ValueError: If `about` is no JSON, or a name is one that the format keeps for itself.
        OSError: If the file cannot be written; what stood there before is kept.

    Example:
        >>> import tempfile, torch
        >>> from tonsor.pack import pack
        >>> path = Path(tempfile.mkdtemp()) / "a.tonsor"
        >>> size = save(pack({"w": torch.zeros(2, 3)}), path)
        >>> path.read_bytes()[8:].partition(b'"@w":')[2][:15]
        b'"F32 [2,3] raw '
    """
    try:
        about = json.dumps(dict(packed.about), allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"pack.save: about must be what JSON can hold: {error}") from error
    texts = {"format": FORMAT, "version": VERSION, **({"about": about} if packed.about else {})}
    header: dict[str, Any] = {TEXTS: texts}
    if TEXTS in packed.names:
        raise ValueError(f"pack.save: safetensors has no tensor named '{TEXTS}'; call it otherwise")
    place = 0
    for name, entry in packed.entries.items():
        texts[MARK + name] = entry.line(_checksum(name, entry))
        end = place + len(entry.payload)
        header[name] = {"dtype": "U8", "shape": [end - place], "data_offsets": [place, end]}
        place = end
    texts.update({MARK + name: TIE + first for name, first in packed.ties.items()})
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    pieces = [len(text).to_bytes(8, "little"), text, *(entry.payload for entry in packed.entries.values())]
    data = b"".join(pieces)
    write_bytes(Path(path), data)
    return len(data)


def _checksum(name: str, entry: Entry) -> str:
    """Return the CRC-32 of a tensor's name, its line without the checksum, and its bytes."""
    start = zlib.crc32(f"{name}\n{entry.line('')}".encode())
    return f"{zlib.crc32(entry.payload, start):08x}"


def load(path: str | Path, /, *, names: Iterable[str] | None = None, limit: int = LIMIT) -> Packed:
    """Read a packed model, or some of its tensors, for `unpack`; nothing in the file is ever executed.

    What the header says is compared with the length of the file and with the limit before memory is taken.
    Of the tensors only the bytes of those that are wanted are read, and checked against their CRC-32.

    Args:
        path: The file.
        names: The tensors that are wanted; all if not given.
        limit: How many bytes the wanted tensors may unpack to; higher allows larger models. To decode a
            tensor takes a few times its own size meanwhile.

    Returns:
        The packed tensors.

    Raises:
        ValueError: If the file is truncated, changed, or no such file, or it would unpack to more than the
            limit: says what.
        FileNotFoundError: If it is not there.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.tonsor"
        >>> written = path.write_bytes(b"no model")
        >>> load(path)
        Traceback (most recent call last):
        ValueError: .../a.tonsor: its header would take ... bytes, and 0 are there; no packed file
    """
    path = Path(path)
    with path.open("rb") as file:
        try:
            header = read_header(file, path.stat().st_size)
            return _read(file, header, names, limit)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _read(file: BinaryIO, header: Header, names: Iterable[str] | None, limit: int) -> Packed:
    """Return the wanted tensors of an open file."""
    known = [*header.lines, *header.ties]
    wanted = known if names is None else list(names)
    for name in wanted:
        if name not in known:
            raise ValueError(unknown("tensor", name, known))
    found = dict.fromkeys(header.ties.get(name, name) for name in wanted)
    drafts = {name: told(name, parsed, header.lines[name], b"") for name in found}
    total = sum(entry.unpacked_bytes for entry, _ in drafts.values())
    if total > limit:
        raise ValueError(f"it unpacks to {total:,} bytes; limit={limit:,} allows less")
    entries = {}
    for name, (_, crc) in drafts.items():
        start, end = header.places[name]
        file.seek(start)
        entry, _ = parsed(header.lines[name], file.read(end - start))
        if _checksum(name, entry) != crc:
            raise ValueError(f"'{name}' has another checksum than the file says: it was changed")
        entries[name] = entry
    return Packed(entries, {n: header.ties[n] for n in wanted if n in header.ties}, header.about)
