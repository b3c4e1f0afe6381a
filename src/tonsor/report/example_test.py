"""A report as a run writes it, for the tests of this room: three stages of a small network on digits."""

import json

import numpy as np

SHAPES = {
    "features.0.weight": ([16, 1, 3, 3], [11, 1, 3, 3]),
    "features.3.weight": ([32, 16, 3, 3], [17, 11, 3, 3]),
    "classifier.0.weight": ([128, 128], [54, 68]),
    "classifier.2.weight": ([10, 128], [10, 54]),
}
STAGES = {"train": (600, 2.3, 0.09), "prune": (300, 0.35, 0.14), "finetune": (200, 0.16, 0.08)}
TIMES = {"encode": 0.31, "send": 1.94, "decode": 0.12}  # milliseconds


def example() -> dict:
    """Return a new report, the same each time."""
    chance = np.random.default_rng(0)
    layers = [_layer(name, *shapes) for name, shapes in SHAPES.items()]
    return {
        "name": "digits",
        "metric": "accuracy",
        "created": "2026-11-22T10:31:07Z",
        "models": {
            "dense": _model(0.978, 0.0871, 22_890, 22_890, 94_336, 61_824, 0.182, 0.911),
            "masked": _model(0.9694, 0.1012, 22_890, 5_617, 94_336, 61_824, 0.181, 0.904),
            "shrunk": _model(0.9694, 0.1012, 6_271, 5_617, 27_904, 26_350, 0.148, 0.467),
        },
        "layers": layers,
        "histograms": {layer["name"]: _histogram(layer, chance) for layer in layers},
        "history": {name: _history(*shape, chance) for name, shape in STAGES.items()},
        "evaluations": {name: _evaluations(*shape) for name, shape in STAGES.items()},
        "heal": [
            {"name": "features.3.weight", "sparsity": 0.5, "before": 0.3125, "after": 0.0417, "note": ""},
            {"name": "classifier.2.weight", "sparsity": 0.0, "before": None, "after": None, "note": "dense"},
        ],
        "shrink": {
            "groups": [
                {"name": "features.0", "units": 16, "removed": 5, "parameters_per_unit": 298},
                {"name": "features.3", "units": 32, "removed": 15, "parameters_per_unit": 657},
                {"name": "classifier.0", "units": 128, "removed": 74, "parameters_per_unit": 139},
            ],
            "frozen": [{"name": "classifier.2", "units": 10, "why": "its labels reach the output"}],
            "max_difference": 4.8e-7,
            "kept_back": {"features.0": 1},
        },
        "export": [
            {"format": "safetensors", "file": "small.safetensors", "bytes": 26_012, "max_difference": 0.0},
            {"format": "onnx", "file": "small.onnx", "bytes": 27_904, "max_difference": 2.4e-7},
        ],
        "sensitivity": _scan(layers),
        "trust": _trust(chance),
        "recipe": 'name = "digits"\n\n[data]\nname = "digits"\n\n[prune]\nsparsity = 0.75\n',
        "settings": {"prune": {"sparsity": 0.75}},
        "seed": 0,
        "versions": {"tonsor": "0.1.0", "torch": "2.13.0+cpu", "python": "3.11.7"},
        "hardware": {"processor": "x86_64", "cores": 2, "threads": 1, "gpu": None},
        "seconds": {"train": 8.31, "prune": 4.02, "finetune": 2.77, "shrink": 0.61, "export": 75.2},
        "workers": 1,
    }


def _model(accuracy, loss, parameters, nonzeros, size, macs, alone, together) -> dict:
    times = {"1": alone, "64": together}
    spread = {b: {"median": t, "low": t * 0.96, "high": t * 1.21} for b, t in times.items()}
    return {
        "accuracy": accuracy,
        "loss": loss,
        "parameters": parameters,
        "nonzeros": nonzeros,
        "bytes": size,
        "macs": macs,
        "latency_ms": spread,
    }


def _layer(name, shape, shrunk_shape) -> dict:
    weights, left = int(np.prod(shape)), int(np.prod(shrunk_shape) * 0.9)
    sparsity = 1 - left / weights
    return {
        "name": name,
        "shape": shape,
        "shrunk_shape": shrunk_shape,
        "weights": weights,
        "nonzeros": left,
        "sparsity": sparsity,
    }


def _histogram(layer, chance) -> dict:
    dense = chance.normal(0, 0.08, layer["weights"])
    masked = dense[np.abs(dense) > np.quantile(np.abs(dense), layer["sparsity"])]
    edges = np.linspace(-0.3, 0.3, 42)
    counts = {"dense": dense, "masked": masked}
    return {
        "edges": edges.tolist(),
        **{state: np.histogram(w, edges)[0].tolist() for state, w in counts.items()},
    }


def _trust(chance) -> dict:
    def falls(by):
        return {s: [0.97 - by * f * (s == "masked") - 0.1 * f for f in range(5)] for s in ("dense", "masked")}

    def recall(share):
        return {"recall": share, "low": share - 0.08, "high": min(1.0, share + 0.05)}

    picture = chance.integers(0, 256, (8, 8)).tolist()
    spread = {"median": 0.8, "low": 0.5, "high": 0.95}
    measures = {"cosine": spread, "spearman": {**spread, "low": -0.2}, "overlap": None}
    return {
        "samples": 397,
        "robust_samples": 397,
        "explained_samples": 128,
        "robustness": {
            "clean": {"dense": 0.978, "masked": 0.969},
            "corruptions": {kind: falls(0.02) for kind in ("noise", "blur", "contrast", "shift")},
            "fgsm": {"epsilons": [0.01, 0.02, 0.05, 0.1, 0.2], **falls(0.05)},
        },
        "explanations": {"integrated_gradients": measures, "saliency": measures},
        "classes": [
            {
                "class": number,
                "samples": 40,
                "dense": recall(0.975),
                "pruned": recall(0.9 + number / 100),
                "lost": 3,
                "gained": 1,
                "beyond": -0.06 + number / 100,
            }
            for number in range(10)
        ],
        "calibration": {"dense": 0.012, "masked": 0.031},
        "exemplars": {
            "indices": list(range(3, 33)),
            "shown": [
                {"index": 3 + n, "target": n % 10, "answer": (n + 3) % 10, "picture": picture}
                for n in range(6)
            ],
        },
    }


def _scan(layers) -> dict:
    asked = [0.2, 0.5, 0.8, 0.9, 0.95]
    weights = {}
    for number, layer in enumerate(layers):
        lost = [(1 + number) / 4 * sparsity**6 for sparsity in asked]
        weights[layer["name"]] = {
            "size": layer["weights"],
            "sparsity": asked,
            "removed": [round(sparsity * layer["weights"]) for sparsity in asked],
            "loss": [0.09 + 3 * loss for loss in lost],
            "accuracy": [0.978 - 0.8 * loss for loss in lost],
        }
    dense = {"loss": 0.09, "accuracy": 0.978}
    return {"part": "valid", "metric": "accuracy", "dense": dense, "weights": weights}


def _history(steps, start, stop, chance) -> dict:
    way = np.arange(1, steps + 1) / steps
    loss = stop + (start - stop) * np.exp(-6 * way) + chance.normal(0, 0.02, steps).clip(-0.05)
    norm = np.exp(chance.normal(0, 0.45, steps)) * (0.4 + 2 * np.exp(-4 * way))
    threshold = [None if step < 20 else 1.5 for step in range(steps)]
    return {
        "step": list(range(1, steps + 1)),
        "loss": loss.tolist(),
        "norm": norm.tolist(),
        "threshold": threshold,
        "clipped": [int(t is not None and n > t) for n, t in zip(norm, threshold, strict=True)],
        "lr": (0.1 * (1 - way)).tolist(),
        "sparsity": (0.75 * (1 - (1 - way) ** 3)).tolist()
        if steps == 300
        else [0.75 * (steps == 200)] * steps,
        **(_wire(steps, way, chance) if steps == 600 else {}),
    }


def _wire(steps, way, chance) -> dict:
    """Return what two workers with compressed gradients record."""
    return {
        "sent": [9_712] * steps,
        "factor": [91_560 / 9_712] * steps,
        "residual": (1.4 - np.exp(-9 * way)).tolist(),
        **{part: (at + chance.exponential(0.1, steps)).tolist() for part, at in TIMES.items()},
    }


def _evaluations(steps, start, stop) -> dict:
    at = np.arange(50, steps + 1, 50)
    loss = stop + (start - stop) * np.exp(-6 * at / steps)
    return {"step": at.tolist(), "loss": loss.tolist(), "accuracy": (0.985 - 0.2 * loss).tolist()}


def test_the_example_is_what_json_gives_back():
    assert json.loads(json.dumps(example())) == example()
