"""Prune one weight at a time, at one sparsity after the other, and measure the model each time."""

import json
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from tonsor.files import write_text
from tonsor.prune.find import find_masks
from tonsor.prune.protocol import Masks, Stats
from tonsor.prune.unchanged import unchanged
from tonsor.spelling import unknown
from tonsor.tensors import apply_masks_, fingerprint

Evaluate: TypeAlias = Callable[[nn.Module], float | Mapping[str, float]]
SPARSITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


class Measured(NamedTuple):
    """A line of a sensitivity scan: one weight at one sparsity, the others dense.

    Example:
        >>> Measured("0.weight", 0.5, 8, 16, {"loss": 0.3}).figures["loss"]
        0.3
    """

    weight: str  # its name; '' for the model as it is
    sparsity: float  # asked for
    removed: int  # elements set to zero
    size: int  # elements there are
    figures: dict[str, float]  # "loss", and what else `evaluate` gave


def scan_sensitivity(
    model: nn.Module,
    evaluate: Evaluate,
    /,
    *,
    weights: Iterable[str] | None = None,
    sparsities: Sequence[float] = SPARSITIES,
    find: Callable[..., Masks] = find_masks,
    stats: Stats | None = None,
    path: Path | None = None,
) -> Iterator[Measured]:
    """Measure a model with one weight pruned at a time, at each sparsity; the others stay as they are.

    After every measurement, and after an error or a stop, the model is as before, bit for bit: weights,
    buffers, modes and torch's random state. What was measured is kept in the file, which is whole at any
    moment: called again, the scan goes on where it was.

    Args:
        model: The model, in eval mode while it is evaluated.
        evaluate: Called with the model; gives its loss on data that were not trained on, or a mapping of
            figures with "loss" among them. It may draw random numbers: they are the same each time.
        weights: Names of the parameters (the mapping that `find_masks` gets will do); without it every
            parameter of two or more dimensions.
        sparsities: Fractions removed, each in (0, 1).
        find: Finds the masks of one weight: `find_masks`, its parts bound by `functools.partial`.
        stats: Statistics for the importance, as `collect` gives them.
        path: A file of JSON lines; without it nothing is kept.

    Yields:
        The row of the model as it is, then one for each weight and sparsity.

    Raises:
        ValueError: If a name or sparsity is wrong, or the file belongs to another model or other data.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> model.weight.data = torch.tensor([[3.0, 1.0]])
        >>> for row in scan_sensitivity(model, lambda m: -m.weight.sum().item(), sparsities=[0.5]):
        ...     print(row.weight, row.removed, row.figures)
         0 {'loss': -4.0}
        weight 1 {'loss': -3.0}

    References:
        Han et al., 2015, "Learning both Weights and Connections", section 4,
        https://arxiv.org/abs/1506.02626
    """
    chosen = _chosen(model, weights)
    _check_sparsities(sparsities)
    known = _Kept(path, model)
    dense = Measured("", 0.0, 0, 0, _figures(model, evaluate))
    known.check(dense)
    yield dense
    for name, weight in chosen.items():
        for sparsity in sparsities:
            with warnings.catch_warnings(action="ignore"):  # that nothing stays is what may be measured here
                mask = find({name: weight}, sparsity, stats=stats)[name]
            row = known.find(name, sparsity, mask)
            if row is None:
                figures = _pruned(model, evaluate, name, weight, mask)
                removed = weight.numel() - int(mask.count_nonzero())
                row = Measured(name, sparsity, removed, weight.numel(), figures)
                known.add(row, mask)
            yield row


def read_scan(path: Path, /) -> list[Measured]:
    """Read the rows of a scan that were kept in a file, the dense model's first.

    Args:
        path: What `scan_sensitivity` was given.

    Raises:
        ValueError: If it is no such file.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "scan.jsonl"
        >>> model = nn.Linear(2, 1)
        >>> made = list(scan_sensitivity(model, lambda m: 1.0, sparsities=[0.5], path=path))
        >>> read_scan(path) == made
        True
    """
    return [Measured(*(line[key] for key in Measured._fields)) for line in _lines(path)[1:]]


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a scan's file: what it belongs to, then the rows."""
    try:
        lines: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
        whole = lines[0]["tonsor"] == "sensitivity" and all(
            set(Measured._fields) <= set(x) for x in lines[1:]
        )
    except (json.JSONDecodeError, UnicodeDecodeError, LookupError, TypeError) as error:
        raise ValueError(f"{path}: not the file of a sensitivity scan ({error}); choose another") from error
    if not whole:
        raise ValueError(f"{path}: not the file of a sensitivity scan; choose another")
    return lines


class _Kept:
    """The rows in a scan's file."""

    def __init__(self, path: Path | None, model: nn.Module) -> None:
        self._path = path
        self._head = {"tonsor": "sensitivity", "model": fingerprint(model.state_dict())}
        self._rows: dict[tuple[str, float], dict[str, Any]] = {}
        if path is not None and path.exists():
            head, *rows = _lines(path)
            if head != self._head:
                raise ValueError(f"{path}: belongs to a model of other weights; delete it, or choose another")
            self._rows = {(row["weight"], row["sparsity"]): row for row in rows}

    def check(self, dense: Measured) -> None:
        """Take in the dense model's row, or compare it with the one that is there."""
        if not self._rows:
            self._write(dense, "")
        there = self._rows["", 0.0]["figures"]["loss"]
        if not math.isclose(there, dense.figures["loss"], rel_tol=1e-5, abs_tol=1e-8):
            raise ValueError(
                f"{self._path}: the loss of the dense model was {there:g} there and is"
                f" {dense.figures['loss']:g} here: measured on other data; delete the file, or choose another"
            )

    def find(self, name: str, sparsity: float, mask: Tensor) -> Measured | None:
        """Return the row of a weight and sparsity that was measured with the same mask."""
        row = self._rows.get((name, sparsity))
        if row is None or row["mask"] != fingerprint({"": mask}):
            return None
        return Measured(*(row[key] for key in Measured._fields))

    def add(self, row: Measured, mask: Tensor) -> None:
        """Keep a row, in place of one that another mask gave."""
        self._write(row, fingerprint({"": mask}))

    def _write(self, row: Measured, mask: str) -> None:
        """Add a row and write the file anew, whole or not at all."""
        self._rows[row.weight, row.sparsity] = {**row._asdict(), "mask": mask}
        if self._path is not None:
            lines = [self._head, *self._rows.values()]
            write_text(self._path, "".join(json.dumps(line) + "\n" for line in lines))


def _chosen(model: nn.Module, weights: Iterable[str] | None) -> dict[str, Tensor]:
    """Return the parameters that were named, or all of two or more dimensions."""
    known = dict(model.named_parameters(remove_duplicate=False))
    if weights is None:
        return {name: weight for name, weight in model.named_parameters() if weight.ndim > 1}
    chosen = list(weights)
    for name in chosen:
        if name not in known:
            raise ValueError(f"prune.scan_sensitivity: {unknown('parameter', name, known)}")
    return {name: known[name] for name in chosen}


def _check_sparsities(sparsities: Sequence[float]) -> None:
    """Refuse a sparsity that is no fraction."""
    wrong = [sparsity for sparsity in sparsities if not 0 < sparsity < 1]
    if wrong or not sparsities:
        got = wrong[0] if wrong else "none"
        raise ValueError(f"prune.scan_sensitivity: sparsities must lie in (0, 1); got {got}")


def _pruned(
    model: nn.Module, evaluate: Evaluate, name: str, weight: Tensor, mask: Tensor
) -> dict[str, float]:
    """Return the figures of the model with one weight masked, and put the weight back whatever happens."""
    before = weight.detach().clone()
    try:
        apply_masks_({name: weight}, {name: mask})
        return _figures(model, evaluate)
    finally:
        with torch.no_grad():
            weight.copy_(before)


def _figures(model: nn.Module, evaluate: Evaluate) -> dict[str, float]:
    """Return what `evaluate` says, as a dict with "loss" in it."""
    with unchanged(model), torch.no_grad():
        said = evaluate(model)
    figures = dict(said) if isinstance(said, Mapping) else {"loss": said}
    if "loss" not in figures:
        raise ValueError(
            f"prune.scan_sensitivity: evaluate must give a loss, or figures with 'loss'; got"
            f" {sorted(figures)}"
        )
    return {key: float(value) for key, value in figures.items()}
