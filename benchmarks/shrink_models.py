"""Shrink every network of the tests by half and write docs/shrink-models.md.

    python benchmarks/shrink_models.py

The networks are the tests' own, small and with random weights: the table says what is found and proved,
not what accuracy is left.
"""

import copy
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import families_conv
import families_hybrid
import families_joined
import families_more
import families_sequence
import families_tasks
import families_vit
import torch
from after_shrink import ONNX, onnx_difference, trains
from results import markdown
from torch import nn

from tonsor.shrink import ChannelGroups, channel_groups, nets_test, shrink_, transformers_test, zoo_test

PAGE = Path(__file__).parent.parent / "docs" / "shrink-models.md"
HEAD = """# What shrinks, model by model

Written by `python benchmarks/shrink_models.py`: half of the units of every group are removed from small
models with random weights in float64, and the result is compared with the masked model on the example and
two random inputs. *Frozen* is the share of the parameters that no removable unit has a slice of, with the
reason that holds most of them beside inputs and outputs. *Runs* says what runs afterwards: the model's own
code, its code with numbers corrected (`num_heads` and the like), or its rewritten graph. The difference is
a share of the largest output. *Trains*: a step of SGD in training mode moved it and left it finite. *ONNX*:
how far ONNX Runtime lies from torch in float32, for the models that are exported here. Below the table
stands how to read a reason.

"""
TAIL = """
A reason names an operation and the module it stands in. `layer_norm`, `group_norm` with one group, `mean`
(of squares: RMS norms) and `batch_norm` of a weight (standardised weights) take statistics over the
channels: without some of them the rest would be another number. `embedding` and `index` look rows up.
`one channel of a part must stay` keeps one channel of each unequal part of a split.
"""
HEADER = "model,groups,units,frozen,main reason,parameters,after,runs,difference,trains,ONNX,find s,cut s"
OWN = [families_conv, families_joined, families_more, families_vit]
OWN += [families_hybrid, families_tasks, families_sequence]


def main() -> None:
    """Measure all models and write the page."""
    warnings.simplefilter("ignore")
    rows = []
    for name, example in networks().items():
        rows.append(measured(name, *example))
        print(*rows[-1], sep=" | ", flush=True)
    page = HEAD + markdown(HEADER.split(","), rows) + "\n" + TAIL
    PAGE.write_text(page)


def networks() -> dict[str, tuple[nn.Module, tuple[Any, ...], dict[str, Any]]]:
    """Return every model with the arguments of one call."""
    found: dict[str, tuple[nn.Module, tuple[Any, ...], dict[str, Any]]] = {}
    for name in nets_test.NETS:
        model, x = nets_test.built(name)
        found[name] = (model.eval(), (x,), {})
    frozen = {name: make for name, (make, _) in zoo_test.FROZEN.items()}
    for name, make in {**zoo_test.FAMILIES, **frozen}.items():
        model, x = zoo_test.ready(make)
        found[name] = (model, (x,), {})
    for module in OWN:
        for name, make in module.FAMILIES.items():
            model, x = zoo_test.ready(make)
            given = getattr(module, "EXAMPLES", {}).get(name, lambda x=x: (x,))()
            wide = tuple(t.double() if t.is_floating_point() else t for t in given)
            found[name if name not in found else f"{name}, another"] = (model, wide, {})
    for name in transformers_test.MODELS:
        model, given = transformers_test.built(name)
        found[f"{name} (transformers)"] = (model, (), given)
    return found


def measured(name: str, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[object]:
    """Shrink one model and return its line."""
    start = time.perf_counter()
    groups = channel_groups(model, args, kwargs)
    found = time.perf_counter()
    weights = dict(model.named_parameters())
    share, reason = frozen(groups, weights)
    keep = {name: torch.arange(group.units) % 2 == 0 for name, group in groups.groups.items()}
    shrunk_model = copy.deepcopy(model)
    shrunk = shrink_(shrunk_model, groups, groups.expand(keep, weights))
    runs = "rewritten" if shrunk.rewritten else "corrected" if shrunk.attributes else "own code"
    units = sum(group.units for group in groups.groups.values())
    times = [f"{found - start:.1f}", f"{time.perf_counter() - found:.1f}"]
    sizes = [f"{shrunk.before:,}", f"{shrunk.after:,}"]
    line = [name, len(groups.groups), units, f"{share:.0%}", reason, *sizes]
    small = shrunk_model, (args, kwargs)
    more = [trains(*small), onnx_difference(*small) if name in ONNX else ""]
    return [*line, runs, f"{shrunk.max_difference:.0e}", *more, *times]


def frozen(groups: ChannelGroups, weights: dict[str, nn.Parameter]) -> tuple[float, str]:
    """Return the share of the parameters without a removable unit, and why most of them stay."""
    none = {name: torch.zeros(group.units, dtype=torch.bool) for name, group in groups.groups.items()}
    masks = groups.expand(none, weights)
    left = sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())
    reasons: Counter[str] = Counter()
    for group in groups.frozen:
        if group.reason not in ("model input", "model output"):
            reasons[group.reason.partition(" in ")[0]] += group.cost * group.units
    return left, f"`{reasons.most_common(1)[0][0]}`" if reasons and left > 0 else ""


if __name__ == "__main__":
    main()
