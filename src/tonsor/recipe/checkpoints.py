"""The checkpoints of one training: a file a worker, the newest complete set counts."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tonsor.recipe.checkpoint import load_state, save_state
from tonsor.recipe.crew import Crew

_NAME = re.compile(r"step-(\d+)-worker-(\d+)(?:-of-(\d+))?\.safetensors")


class Parts:
    """A part of the states of all workers that wrote a set, each read when it is asked for.

    Args:
        paths: The files by rank.
        key: Which part of a state.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
        >>> save_state(path, {"w": 1.5, "v": 2.5})
        >>> Parts([path], "v")[0], len(Parts([path], "v"))
        (2.5, 1)
    """

    def __init__(self, paths: Sequence[Path], key: str) -> None:
        self._paths = paths
        self._key = key

    def __len__(self) -> int:
        """Return how many workers there were."""
        return len(self._paths)

    def __getitem__(self, rank: int, /) -> Any:
        """Return the part of one worker."""
        return load_state(self._paths[rank])[self._key]


class Checkpoints:
    """Keep the newest state of a training on disk.

    A new set is written beside the old one, and the old one is removed when every worker has written
    its own: a run that is killed in between finds the old set whole. Another number of workers finds it too.

    Args:
        folder: Where the files lie, shared by all workers.
        crew: The workers.

    Example:
        >>> import tempfile
        >>> checkpoints = Checkpoints(Path(tempfile.mkdtemp()), Crew.alone())
        >>> checkpoints.save(3, {"w": 1.5}); checkpoints.save(7, {"w": 2.5})
        >>> checkpoints.newest(), checkpoints.load()
        (7, {'w': 2.5})
        >>> [path.name for path in checkpoints.folder.iterdir()]
        ['step-7-worker-0.safetensors']
    """

    def __init__(self, folder: Path, crew: Crew) -> None:
        self.folder = folder
        self._crew = crew

    def save(self, step: int, state: Any) -> None:
        """Write this worker's state, then drop the older set.

        Raises:
            OSError: If it cannot be written; the older set is kept.
        """
        save_state(self._file(step, self._crew.rank, self._crew.size), state)
        self._crew.wait()
        if self._crew.is_first:
            for path, found, _, size in self._found():
                if (found, size) != (step, self._crew.size):
                    path.unlink()

    def newest(self) -> int:
        """Return the last step that all workers of then have saved, 0 if there is none."""
        return self._newest()[0]

    def workers(self) -> int:
        """Return how many workers wrote the newest set; as many as there are now where there is none."""
        return self._newest()[1]

    def load(self) -> Any | None:
        """Return this worker's state of the newest step, or None where there is no checkpoint.

        Where another number of workers wrote it, this is the state of one of them.

        Raises:
            ValueError: If the file is corrupt.
        """
        step, size = self._newest()
        self._crew.wait()
        if not step:
            return None
        path = self._file(step, self._crew.rank * size // self._crew.size, size)
        try:
            return load_state(path)
        except ValueError as error:
            raise ValueError(f"{error}; delete {self.folder} to begin this part of the run again") from error

    def parts(self, key: str) -> Parts:
        """Return a part of the states of all workers that wrote the newest set, by rank."""
        step, size = self._newest()
        return Parts([self._file(step, worker, size) for worker in range(size)], key)

    def _newest(self) -> tuple[int, int]:
        """Return step and number of workers of the newest set that is whole."""
        sets = [(step, size) for _, step, _, size in self._found()]
        whole = [one for one in sets if sets.count(one) == one[1]]
        # Of one step the set of as many workers as now goes first.
        return max(whole, key=lambda one: (one[0], one[1] == self._crew.size), default=(0, self._crew.size))

    def _file(self, step: int, worker: int, size: int) -> Path:
        """Return the path of a worker's state."""
        of = f"-of-{size}" if size > 1 else ""
        return self.folder / f"step-{step}-worker-{worker}{of}.safetensors"

    def _found(self) -> Iterator[tuple[Path, int, int, int]]:
        """Yield path, step, worker and number of workers of every checkpoint there is."""
        for path in list(self.folder.iterdir()) if self.folder.exists() else []:
            match = _NAME.fullmatch(path.name)
            if match:
                yield path, int(match[1]), int(match[2]), int(match[3] or 1)
