"""What does bounding the weights cost after a step, beside the code one would write in torch?

Every rule and its peer run in turn, round by round, on the same weights, which are put back in between:

    OMP_NUM_THREADS=1 python benchmarks/constrain.py
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from clip import GPT2, SMALL, Case, measured, parameters
from results import markdown, write_section
from torch import Tensor
from torch.nn.utils import parametrizations

from tonsor import constrain

NOTE = """Milliseconds of one thread, the median over rounds, in turn and on the same weights. The peer is the
loop one would write: `clamp_`, `torch.renorm` and a copy, Keras' formulas, `vector_norm` of each tensor.

- Bounds by value make the same call as the loop.
- Bounds on norms are right to 1e-6, keep zeros and what is not finite, leave bit for bit what keeps its
  bound, and write no more than what leaves it: faster where little moves, slower where the loop writes all.
"""
KEEPS, SOME, ALL = "all keep the bound", "one unit in fifty does not", "none keeps the bound"


def loop(change: Callable[[Tensor], object], given: list[Tensor]) -> None:
    """Change weight by weight."""
    with torch.no_grad():
        for weight in given:
            change(weight)


def renorm_(weight: Tensor, bound: float) -> None:
    """Bound each row as torch does."""
    if weight.ndim > 1:
        weight.copy_(torch.renorm(weight, 2, 0, bound))


def unit_(weight: Tensor) -> None:
    """Bring each row to length 1, as Keras does."""
    if weight.ndim > 1:
        weight.div_(weight.norm(dim=1, keepdim=True) + 1e-7)


def between_(weight: Tensor, low: float, high: float) -> None:
    """Bring each row between two lengths, as Keras does."""
    if weight.ndim > 1:
        norms = weight.norm(dim=1, keepdim=True)
        weight.mul_(norms.clamp(low, high) / (norms + 1e-7))


def whole_(weight: Tensor, bound: float) -> None:
    """Bound the norm of a tensor."""
    norm = torch.linalg.vector_norm(weight)
    if norm > bound:
        weight.mul_(bound / norm)


def fan_(weight: Tensor) -> None:
    """Clamp to the range of the initialisation."""
    bound = (weight.numel() // len(weight)) ** -0.5 if weight.ndim > 1 else 1.0
    weight.clamp_(-bound, bound)


def cases(given: list[Tensor]) -> list[Case]:
    """Return the rules on one list, with their peers."""
    norms = torch.cat([weight.norm(dim=1) for weight in given if weight.ndim > 1])
    bounds = {KEEPS: 1e6, SOME: norms.quantile(0.98).item(), ALL: norms.min().item() / 2}
    whole = max(weight.norm().item() for weight in given)
    back = partial(torch._foreach_copy_, given, [weight.clone() for weight in given])
    found = [
        Case(
            "value",
            partial(loop, lambda w: w.clamp_(-0.03, 0.03), given),
            partial(constrain.value, given, clip_value=0.03),
            "",
            back,
        ),
        Case(
            "nonnegative",
            partial(loop, lambda w: w.clamp_(min=0), given),
            partial(constrain.nonnegative, given),
            "",
            back,
        ),
        Case("init_bound", partial(loop, fan_, given), partial(constrain.init_bound, given), "", back),
    ]
    for name, bound in bounds.items():
        theirs, ours = (
            partial(loop, partial(renorm_, bound=bound), given),
            partial(constrain.max_norm, given, max_norm=bound),
        )
        found.append(Case(f"max_norm, {name} (peer: renorm)", theirs, ours, "", back))
    low, high = 0.0, bounds[SOME]
    found += [
        Case("unit_norm", partial(loop, unit_, given), partial(constrain.unit_norm, given), "", back),
        Case(
            f"min_max_norm, {SOME}",
            partial(loop, partial(between_, low=low, high=high), given),
            partial(constrain.min_max_norm, given, min_norm=low, max_norm=high),
            "",
            back,
        ),
    ]
    for name, bound in ((KEEPS, 2 * whole), (ALL, 1e-3 * whole)):
        theirs, ours = (
            partial(loop, partial(whole_, bound=bound), given),
            partial(constrain.norm, given, max_norm=bound),
        )
        found.append(Case(f"norm of the tensor, {name}", theirs, ours, "", back))
    return found


def spectral() -> list[Case]:
    """Return spectral bounds on the four matrices of one block: the singular values, and torch's own hook."""
    given = [weight.detach() for weight in parameters(GPT2[:4])]
    back = partial(torch._foreach_mul_, given, 1.0 + 1e-6)  # a step that changes each weight a little
    layers = []
    for weight in given:
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        layers.append(parametrizations.spectral_norm(layer))

    def exact(weight: Tensor) -> None:
        sigma = torch.linalg.matrix_norm(weight, ord=2)
        weight.mul_((1.0 / sigma).clamp(max=1.0))

    rule = constrain.SpectralNorm()
    rule(given)
    ours = partial(rule, given)
    return [
        Case("peer: `linalg.matrix_norm(ord=2)`", partial(loop, exact, given), ours, "", back),
        Case(
            "peer: `parametrizations.spectral_norm`, at each use",
            lambda: [layer.weight for layer in layers],
            ours,
            "",
            back,
        ),
    ]


def main() -> None:
    """Measure everything and write the section."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    head = ["rule", "torch, ms", "tonsor, ms", "faster", "10 to 90 % of rounds"]
    body = NOTE
    lists = {
        "85M elements in 146 tensors (the blocks of GPT-2 small)": (GPT2, rounds),
        "3M elements in 1000 tensors": (SMALL, 3 * rounds),
    }
    for title, (shapes, count) in lists.items():
        given = [weight.detach() for weight in parameters(shapes)]
        rows = [measured(case, count)[:5] for case in cases(given)]
        body += f"\n### {title}\n\n{markdown(head, rows)}\n"
    rows = [measured(case, max(3, rounds // 4))[:5] for case in spectral()]
    body += f"\n### `SpectralNorm` on the four matrices of one block, 7M elements\n\n{markdown(head, rows)}\n"
    write_section("Constraining weights", "OMP_NUM_THREADS=1 python benchmarks/constrain.py", body)


if __name__ == "__main__":
    main()
