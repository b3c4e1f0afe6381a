"""One packed tensor: a line that people can read, and its bytes."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

LONGEST = 12  # digits of a number in a line
DIMENSIONS = 64  # torch has no tensor of more
DTYPES: Mapping[str, torch.dtype] = {  # the names that safetensors has for them
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
RULES = ("raw", "palette", "kmeans", "uniform")
HALF, WHOLE = b"h", b"w"  # a table in half precision, or in the type of the tensor
LINE = re.compile(
    rf"(?P<dtype>\w{{1,9}}) \[(?P<shape>(\d{{1,{LONGEST}}}(,\d{{1,{LONGEST}}})*)?)\]"
    r" (?P<rule>[a-z]{1,9})(:(?P<bits>\d)x(?P<groups>\d{1,9}))? (?P<positions>[a-z]{1,9})"
    r" crc32=(?P<crc>[0-9a-f]{8})"
)


@dataclass(frozen=True)
class Entry:
    """Hold a packed tensor: what its line in the file says, and its bytes.

    Args:
        dtype: Of the tensor, as safetensors names it.
        shape: Of the tensor.
        rule: "raw": its values as they are; else what its table of values was found by.
        bits: Of a code, of shared values; 0 for raw ones.
        groups: Rows of the table; 0 for raw values.
        positions: How it is written which elements are zero: a name of `POSITIONS`, or "inline".
        payload: The bytes.

    Example:
        >>> entry = Entry("F32", (2, 3), "kmeans", 4, 1, "runs", b"...")
        >>> entry.unpacked_bytes, entry.line("00c0ffee")
        (24, 'F32 [2,3] kmeans:4x1 runs crc32=00c0ffee')
    """

    dtype: str
    shape: tuple[int, ...]
    rule: str
    bits: int
    groups: int
    positions: str
    payload: bytes

    @property
    def elements(self) -> int:
        """How many elements the tensor has."""
        return math.prod(self.shape)

    @property
    def unpacked_bytes(self) -> int:
        """How much memory the tensor takes."""
        return self.elements * DTYPES[self.dtype].itemsize

    @property
    def matrix(self) -> tuple[int, int]:
        """The rows (output channels) and columns that the elements are looked at in."""
        rows = self.shape[0] if len(self.shape) > 1 else 1
        return rows, self.elements // rows if rows else 0

    def line(self, crc: str) -> str:
        """Return the line of the file."""
        shared = f":{self.bits}x{self.groups}" if self.rule != "raw" else ""
        sizes = ",".join(map(str, self.shape))
        return f"{self.dtype} [{sizes}] {self.rule}{shared} {self.positions} crc32={crc}"


def parsed(line: str, payload: bytes, /) -> tuple[Entry, str]:
    """Return the entry that a line tells of, and the checksum in the line.

    Args:
        line: Of the file.
        payload: The bytes of the tensor.

    Returns:
        The entry; its sizes are what the line says and have yet to be compared with a limit.

    Raises:
        ValueError: If the line is no such line.

    Example:
        >>> parsed("F32 [2,3] raw inline crc32=00c0ffee", b"")[0].shape
        (2, 3)
    """
    found = LINE.fullmatch(line)
    if found is None:
        raise ValueError(
            f"its line is {line[:80]!r}, expected as in 'F32 [2,3] kmeans:4x1 runs crc32=00c0ffee'"
        )
    if found["dtype"] not in DTYPES or found["rule"] not in RULES:
        raise ValueError(f"its line {line[:80]!r} names a type or rule that this tonsor does not know")
    shape = tuple(int(size) for size in found["shape"].split(",") if size)
    if len(shape) > DIMENSIONS or (found["rule"] == "raw") != (found["bits"] is None):
        raise ValueError(f"its line {line[:80]!r} contradicts itself")
    bits, groups = int(found["bits"] or 0), int(found["groups"] or 0)
    entry = Entry(found["dtype"], shape, found["rule"], bits, groups, found["positions"], payload)
    return entry, found["crc"]
