"""Write the report of a run, and write it again from its figures."""

from pathlib import Path
from typing import Any

from torch import nn

from tonsor.files import read_json, sha256, write_json, write_text
from tonsor.recipe.folder import RECEIPT
from tonsor.report import render
from tonsor.tensors import fingerprint

FIGURES = "report.json"
PAGE = "report.html"
SENSITIVITY = "sensitivity.json"  # what `tonsor inspect sensitivity` found


def write_report(folder: Path, report: dict[str, Any]) -> list[Path]:
    """Write the figures and the page of a run.

    Args:
        folder: The run's folder.
        report: What `tonsor.recipe.evidence.gather` returned.

    Returns:
        The two files.
    """
    write_json(folder / FIGURES, report)
    write_text(folder / PAGE, render(report))
    return [folder / FIGURES, folder / PAGE]


def read_report(folder: Path) -> dict[str, Any]:
    """Read the figures of a run.

    Raises:
        ValueError: If the folder holds no finished run.

    Example:
        >>> read_report(Path("no-such-run"))
        Traceback (most recent call last):
        ValueError: no-such-run holds no report.json; give the folder of a finished run
    """
    if not (folder / FIGURES).exists():
        raise ValueError(f"{folder} holds no {FIGURES}; give the folder of a finished run")
    report: dict[str, Any] = read_json(folder / FIGURES)
    return report


def add_to_report(folder: Path, **parts: Any) -> None:
    """Draw a report that is there again with more parts in it, and renew the receipt of its stage.

    Args:
        folder: The run's folder; where it holds no report yet, nothing is done.
        parts: Figures by the name of the part; they take the place of what bears the same name.

    Example:
        >>> add_to_report(Path("no-such-run"), sensitivity={})
    """
    path = folder / "report" / RECEIPT
    if not (folder / FIGURES).exists() or not path.exists():
        return
    receipt = read_json(path)
    path.unlink()  # whoever is killed from here on has the stage to be done again, not a broken one
    written = write_report(folder, {**read_report(folder), **parts})
    receipt["outputs"] = {file.relative_to(folder).as_posix(): sha256(file) for file in written}
    write_json(path, receipt)


def kept_sensitivity(folder: Path, dense: nn.Module) -> dict[str, Any] | None:
    """Return the figures of a scan of this dense model, if one lies in the folder.

    Args:
        folder: The run's folder.
        dense: The model the figures must be of.

    Example:
        >>> kept_sensitivity(Path("no-such-run"), nn.Linear(1, 1)) is None
        True
    """
    path = folder / SENSITIVITY
    figures: dict[str, Any] | None = read_json(path) if path.exists() else None
    return figures if figures and figures["model"] == fingerprint(dense.state_dict()) else None
