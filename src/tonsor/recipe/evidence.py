"""Gather what a run did into one dict of plain figures: the content of `report.json`."""

import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tonsor.files import read_json
from tonsor.recipe import build
from tonsor.recipe.binding import Mistakes
from tonsor.recipe.context import Run
from tonsor.recipe.evaluate import evaluate
from tonsor.recipe.folder import RECEIPT, versions
from tonsor.recipe.reporting import kept_sensitivity
from tonsor.recipe.trust import trust
from tonsor.report import latency, size

BINS = 60  # of a weight histogram


def gather(run: Run, models: Mapping[str, nn.Module], bytes_of: Mapping[str, int]) -> dict[str, Any]:
    """Measure the models and collect what the stages left.

    Args:
        run: The run, all stages before the report done.
        models: "dense", "masked", "shrunk" and "packed", as far as there are; "dense" is the first.
        bytes_of: Size on disk of each.

    Returns:
        Plain numbers, texts, lists and dicts, as JSON has them.
    """
    receipts = {stage: read_json(run.folder.file(stage, RECEIPT)) for stage in run.stages[:-1]}
    return {
        "name": run.recipe.name,
        "metric": run.recipe.train.metric,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "models": _figures(run, models, bytes_of),
        "layers": _layers(models),
        "histograms": _histograms(models),
        **_histories(run),
        "heal": receipts.get("heal", {}).get("heal", []),
        "shrink": receipts.get("shrink", {}).get("shrink"),
        "trust": trust(run, models),
        "sensitivity": kept_sensitivity(run.folder.path, models["dense"]),
        "pack": receipts.get("pack", {}).get("pack"),
        "export": receipts.get("export", {}).get("export", []),
        "recipe": (run.folder.path / "recipe.toml").read_text(),
        "settings": run.recipe.model_dump(mode="json"),
        "seed": run.recipe.seed,
        "workers": run.crew.size,
        "versions": versions(),
        "hardware": hardware(),
        "seconds": {stage: receipt["seconds"] for stage, receipt in receipts.items()},
    }


def _figures(
    run: Run, models: Mapping[str, nn.Module], bytes_of: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    """Return the table: quality, size and speed of each model, on the test data."""
    methods = build.methods(run.recipe.train, "train", Mistakes())
    test, example = run.data["test"], run.example()
    settings = run.recipe.report
    times = latency(models, example, batches=settings.batches, rounds=settings.rounds)
    return {
        name: {
            **evaluate(model, test, loss=methods.loss, metric=methods.metric),
            **size(model, example),
            "bytes": bytes_of[name],
            "latency_ms": times[name],
        }
        for name, model in models.items()
    }


def _layers(models: Mapping[str, nn.Module]) -> list[dict[str, Any]]:
    """Return size and sparsity of every weight of two or more dimensions."""
    masked = dict((models.get("masked") or models["dense"]).named_parameters())
    small = dict(models["shrunk"].named_parameters()) if "shrunk" in models else {}
    return [
        {
            "name": name,
            "shape": list(weight.shape),
            "shrunk_shape": list(small[name].shape) if name in small else None,
            "weights": weight.numel(),
            "nonzeros": int(weight.count_nonzero()),
            "sparsity": 1 - int(weight.count_nonzero()) / weight.numel(),
        }
        for name, weight in masked.items()
        if weight.ndim > 1
    ]


def _histograms(models: Mapping[str, nn.Module]) -> dict[str, dict[str, list[float]]]:
    """Return how the weights of each layer are spread, before and after; zeros are left out after."""
    if "masked" not in models:
        return {}
    masked = dict(models["masked"].named_parameters())
    return {
        name: _histogram(weight, masked[name])
        for name, weight in models["dense"].named_parameters()
        if weight.ndim > 1
    }


def _histogram(dense: Tensor, masked: Tensor) -> dict[str, list[float]]:
    """Count two weights over the same bins."""
    before = dense.detach().cpu().double().flatten().numpy()
    after = masked.detach().cpu().double().flatten().numpy()
    after = after[after != 0]
    edges = np.histogram_bin_edges(np.concatenate([before, after]), bins=BINS)
    return {
        "edges": edges.tolist(),
        "dense": np.histogram(before, edges)[0].tolist(),
        "masked": np.histogram(after, edges)[0].tolist(),
    }


def _histories(run: Run) -> dict[str, Any]:
    """Return what was measured at every step and epoch, by training stage or pass."""
    history, evaluations = {}, {}
    for stage in ("train", "prune", "finetune"):
        path = run.folder.file(stage, "history.json")
        for label, columns in read_json(path).items() if path.exists() else ():
            history[label] = columns["steps"]
            evaluations[label] = columns["valid"]
    return {"history": history, "evaluations": evaluations}


def hardware() -> dict[str, Any]:
    """Return what the latency depends on.

    Example:
        >>> list(hardware())
        ['processor', 'threads', 'system', 'gpu']
    """
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str:
    """Return the processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # another system has no such file
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
