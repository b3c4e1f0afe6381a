"""The folder of a run: one folder a stage, each with a receipt that says from what and how it was made."""

import contextlib
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch

from tonsor import __version__
from tonsor.files import PARTIAL, read_json, sha256, write_json, write_text

SETTINGS = "settings.json"
RECEIPT = "receipt.json"


class RunFolder:
    """Hold the files of one run.

    At the top lie the recipe, its settings after `--set`, and at the end the report. A stage is done
    when its receipt is there, and the receipt is written last: whatever was killed before is redone.

    Args:
        path: The folder; it need not exist.

    Example:
        >>> import tempfile
        >>> folder = RunFolder(Path(tempfile.mkdtemp()) / "run")
        >>> folder.claim('name = "a"', {"name": "a"}); sorted(p.name for p in folder.path.iterdir())
        ['recipe.toml', 'settings.json']
        >>> folder.claim('name = "b"', {"name": "b"})
        Traceback (most recent call last):
        ValueError: .../run belongs to another recipe: name is "a" there and "b" here; ...
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def nowhere(cls) -> "RunFolder":
        """Return a folder for those who only look."""
        return cls(Path(os.devnull))

    def claim(self, text: str, settings: Mapping[str, Any]) -> None:
        """Make the folder this recipe's own, or check that it already is.

        Args:
            text: The recipe as written.
            settings: What it says after all changes; two runs are the same where these are.

        Raises:
            ValueError: If the folder holds something else, or the run of another recipe.
        """
        settings_file = self.path / SETTINGS
        if settings_file.exists():
            there = read_json(settings_file)
            there.pop("workers", None)  # of an older version; any number may go on
            self._compare(there, settings)
            self._sweep()
        else:
            names = [p.name for p in self.path.iterdir()] if self.path.exists() else []
            strangers = [name for name in names if not name.endswith(PARTIAL)]
            if strangers:
                shown = ", ".join(sorted(strangers)[:3])
                raise ValueError(f"{self.path} is not empty and holds no run ({shown}); choose another --out")
            write_json(settings_file, settings)
        if not (self.path / "recipe.toml").exists():
            write_text(self.path / "recipe.toml", text)

    def _compare(self, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
        """Refuse a folder whose recipe differs, and say where."""
        if there == here:
            return
        old, new = dict(_leaves(there)), dict(_leaves(here))
        keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
        shown = "; ".join(
            f"{k} is {old.get(k, 'not set')} there and {new.get(k, 'not set')} here" for k in keys[:5]
        )
        raise ValueError(
            f"{self.path} belongs to another recipe: {shown}; choose another --out, or delete it"
        )

    def _sweep(self) -> None:
        """Remove what a killed run left half written."""
        for leftover in self.path.rglob(f"*{PARTIAL}"):
            leftover.unlink()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second process out of the folder meanwhile, where the system can.

        Raises:
            ValueError: If another process holds it.
        """
        try:
            import fcntl
        except ImportError:  # not on Windows
            yield
            return
        handle = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise ValueError(f"{self.path}: another tonsor run is writing here; wait for it") from error
        finally:
            os.close(handle)

    def file(self, stage: str, name: str) -> Path:
        """Return the path of a stage's file."""
        return self.path / stage / name

    def receipt(self, stage: str) -> dict[str, Any] | None:
        """Return the receipt of a stage that is done, or None where it must be made.

        It must be made anew where a file is gone, or its inputs are no longer what they were.

        Raises:
            ValueError: If a file it made has been changed since.
        """
        path = self.file(stage, RECEIPT)
        if not path.exists():
            return None
        receipt: dict[str, Any] = read_json(path)
        named = {**receipt["inputs"], **receipt["outputs"]}
        if not all((self.path / name).exists() for name in named):
            return None
        if any(sha256(self.path / name) != digest for name, digest in receipt["inputs"].items()):
            return None
        for name, digest in receipt["outputs"].items():
            if sha256(self.path / name) != digest:
                file = self.path / name
                raise ValueError(
                    f"{file} was changed after stage '{stage}' wrote it; delete it to redo the stage"
                )
        return receipt

    def finish(
        self, stage: str, *, inputs: Sequence[Path], outputs: Sequence[Path], started: float, **facts: Any
    ) -> None:
        """Write the receipt of a stage: from now on it is done.

        Args:
            stage: Its name.
            inputs: Files it read.
            outputs: Files it made.
            started: `time.time()` at its beginning.
            facts: What else is worth keeping: settings, seed, measurements.
        """
        receipt = {
            "stage": stage,
            "inputs": {self._relative(path): sha256(path) for path in inputs},
            "outputs": {self._relative(path): sha256(path) for path in outputs},
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
            "seconds": round(time.time() - started, 3),
            "versions": versions(),
            **facts,
        }
        write_json(self.file(stage, RECEIPT), receipt)

    def reset(self, stage: str) -> None:
        """Remove what is left of a stage whose inputs changed."""
        if self.file(stage, RECEIPT).exists():
            shutil.rmtree(self.path / stage)

    def _relative(self, path: Path) -> str:
        """Return the path as seen from the run's folder."""
        return path.relative_to(self.path).as_posix()


def versions() -> dict[str, str]:
    """Return the versions that a result may depend on.

    Example:
        >>> versions()["tonsor"]
        '0.1.0'
    """
    return {
        "tonsor": __version__,
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
        "python": platform.python_version(),
    }


def _leaves(settings: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Yield each value of nested settings with its dotted place, as text."""
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            yield from _leaves(value, f"{place}.{key}" if place else str(key))
    else:
        yield place, json.dumps(settings)
