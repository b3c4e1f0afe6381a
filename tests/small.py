"""A recipe that goes through every stage in seconds, and ways to run it as a user does."""

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

RECIPE = """
name = "small"
seed = 3
threads = 1

[model]
build = "tonsor.examples.models:mlp"
sizes = [64, 32, 16, 10]

[data]
load = "tonsor.examples.data:digits"

[train]
epochs = 6
batch_size = 50
optimizer = { rule = "SGD", lr = 0.2, momentum = 0.9 }
lr_schedule = "cosine"
clip = { rule = "AutoClip", percentile = 80 }
constrain = { rule = "max_norm", max_norm = 4.0 }
checkpoint_every = 10

[[prune]]
pattern = "channel_groups"
importance = "taylor"
sparsity = 0.4
epochs = 2
every = 10

[[prune]]
sparsity = 0.8
epochs = 2
every = 10

[finetune]
epochs = 3

[shrink]

[export]

[report]
rounds = 5
"""


def write(folder: Path, text: str = RECIPE) -> Path:
    """Write the recipe into a folder."""
    path = folder / "small.toml"
    path.write_text(text)
    return path


def tonsor(
    *arguments: object,
    cwd: Path | None = None,
    variables: dict[str, str] | None = None,
    **options: object,
) -> subprocess.CompletedProcess:
    """Run the command in a process of its own and wait for it.

    The process is forked from one that has imported torch already, which saves seconds a run; one with
    options of its own is started anew.
    """
    if options:
        settings = {"capture_output": True, "text": True, "env": environment(), "cwd": cwd, **options}
        return subprocess.run(command(*arguments), check=False, **settings)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tonsor.cli", "tonsor.recipe.run", "torch"])
    words = list(map(str, arguments))
    with tempfile.TemporaryDirectory() as folder:
        told, error = Path(folder) / "stdout", Path(folder) / "stderr"
        process = context.Process(target=_play, args=(words, cwd or Path.cwd(), variables or {}, told, error))
        process.start()
        process.join()
        return subprocess.CompletedProcess(words, process.exitcode, told.read_text(), error.read_text())


def _play(words: list[str], cwd: Path, variables: dict[str, str], told: Path, error: Path) -> None:
    """Be the command: its words, its folder, its variables, its streams."""
    for path, stream in ((told, sys.stdout), (error, sys.stderr)):
        stream.flush()
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream.fileno())
    os.chdir(cwd)
    os.environ.update(environment() | variables)
    sys.argv = ["tonsor", *words]
    from tonsor.cli import main

    main()


def command(*arguments: object) -> list[str]:
    """Return the command line."""
    return [sys.executable, "-m", "tonsor", *map(str, arguments)]


def environment() -> dict[str, str]:
    """Return an environment of one thread and a wide screen."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}


def weights_of(folder: Path) -> dict[str, str]:
    """Return the digest of the weights that each stage left."""
    receipts = [
        folder / stage / "receipt.json" for stage in ("train", "prune", "finetune", "shrink", "export")
    ]
    return {
        name: digest
        for path in receipts
        for name, digest in json.loads(path.read_text())["outputs"].items()
        if not name.endswith("history.json") or name.startswith("train")
    }


def files_of(folder: Path) -> set[str]:
    """Return every file below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
