"""The folder of a search: figures and a packed file for each candidate, and which are worth having."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tonsor.files import PARTIAL, read_json, write_json

Figures = dict[str, Any]
DENSE, TABLES, SUMMARY, PICTURE, PICKED = "dense", "tables.json", "fit.json", "frontier.svg", "picked.tonsor"
ROWS = "candidates"


class Rows:
    """Hold the rows of a folder, all of one dense model and one set of calibration data.

    Args:
        folder: Made if it is not there.
        of: What the rows must be of: digests by name.

    Raises:
        ValueError: If the folder holds a row of anything else.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> row = Rows(folder, {"weights": "abc"}).once("dense", lambda path: {"bytes": 5})
        >>> row["bytes"], Rows(folder, {"weights": "abc"}).once("dense", lambda path: {"bytes": 7})["bytes"]
        (5, 5)
        >>> Rows(folder, {"weights": "other"})
        Traceback (most recent call last):
        ValueError: .../dense.json: is of other weights; choose another folder, or delete it
    """

    def __init__(self, folder: Path, of: Mapping[str, str]) -> None:
        self._folder, self._of = folder / ROWS, dict(of)
        self._folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.rglob(f"*{PARTIAL}"):  # of a search that was killed
            leftover.unlink()
        self.known = {row["name"]: row for row in map(self._read, sorted(self._folder.glob("*.json")))}

    def once(self, name: str, make: Callable[[Path], Mapping[str, Any]]) -> Figures:
        """Return the row of a name; what makes it is called, with a path for its packed file, if need be.

        The row is written last, so that what was stopped before is done again.
        """
        if name not in self.known:
            row = {"name": name, "of": self._of, **make(self.packed(name))}
            write_json(self._folder / f"{name}.json", row)
            self.known[name] = row
        return self.known[name]

    def packed(self, name: str) -> Path:
        """Return where the packed file of a row lies."""
        return self._folder / f"{name}.tonsor"

    def _read(self, path: Path) -> Figures:
        """Return a row that is of the same weights and data."""
        row: Figures = read_json(path)
        other = [key for key, digest in self._of.items() if row["of"].get(key) != digest]
        if other:
            raise ValueError(
                f"{path}: is of other {' and '.join(other)}; choose another folder, or delete it"
            )
        return row


def frontier(rows: Sequence[Mapping[str, Any]], costs: Sequence[str], /) -> list[str]:
    """Return the names of the rows that no other one beats in metric and all costs, the cheapest first.

    Args:
        rows: Each with a `name`, a `metric` and the costs.
        costs: Names of figures of which less is better.

    Example:
        >>> rows = [{"name": "a", "metric": 0.9, "bytes": 10}, {"name": "b", "metric": 0.8, "bytes": 12},
        ...         {"name": "c", "metric": 0.7, "bytes": 5}]
        >>> frontier(rows, ["bytes"])
        ['c', 'a']
    """

    def is_beaten(row: Mapping[str, Any]) -> bool:
        """Say whether another row is as good in everything and better in something."""
        mine = (-row["metric"], *(row[cost] for cost in costs))
        others = [(-other["metric"], *(other[cost] for cost in costs)) for other in rows]
        return any(o != mine and all(x <= y for x, y in zip(o, mine, strict=True)) for o in others)

    best = [row for row in rows if not is_beaten(row)]
    return [row["name"] for row in sorted(best, key=lambda row: (row[costs[0]], -row["metric"]))]
