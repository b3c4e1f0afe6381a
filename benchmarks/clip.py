"""What does clipping cost, and how right is the norm, beside torch and timm?

Every case runs the peer and ours in turn, round by round, on the same gradients:

    OMP_NUM_THREADS=1 python benchmarks/clip.py
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from results import markdown, write_section
from roof import roof
from torch import Tensor
from torch.nn import Parameter
from torch.nn import utils as peer

import tonsor
from tonsor import clip
from tonsor.tensors import joint_norm

WIDTH, LAYERS = 768, 12
BLOCK = [(3 * WIDTH, WIDTH), (WIDTH, WIDTH), (4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH)]
VECTORS = [(WIDTH,)] * 4 + [(3 * WIDTH,), (WIDTH,), (4 * WIDTH,), (WIDTH,)]
GPT2 = (BLOCK + VECTORS) * LAYERS + [(WIDTH,)] * 2  # 85,056,000 elements in 146 tensors
SMALL = [(40, 78)] * 1000  # 3,120,000 elements
NOTE = """Milliseconds of one thread, the median over rounds; both see the same gradients, in turn, on a
machine that others use at the same time. Where a wanted figure is missed:

- Not clipping, 85M elements: ours is one read, a tenth slower than a plain sum (last table but one), and
  torch's own norm takes as long as the sum; only torch's write can be saved, so about 2x is all there is.
- 1000 tensors side by side: the sum takes half the time, the rest is asking each tensor in Python where it
  lies, what it is and whether it may be changed. One parameter over the buffer is asked once.
- AGC reads weights and gradients, two passes, and writes what changes, two more; timm's formula takes about
  twelve. With every unit clipped four passes are the least, so about 3x is all there is.
- A fused step: the norm is one more read of the gradients, and a kernel that is told a scale stores the
  gradients too (last table but one). Torch's clip is three passes, so a third to two thirds is the least.
"""
NEVER, ALWAYS = 1e9, 1.0  # bounds above and below every norm here


class Case(NamedTuple):
    """One thing that both do."""

    name: str
    theirs: Callable[[], object]
    ours: Callable[[], object]
    wanted: str
    reset: Callable[[], object] = lambda: None


def parameters(shapes: list[tuple[int, ...]], *, is_joined: bool = False) -> list[Parameter]:
    """Return weights with gradients, which lie apart or side by side in one buffer."""
    generator = torch.Generator().manual_seed(0)
    found = [Parameter(0.02 * torch.randn(shape, generator=generator)) for shape in shapes]
    buffer = torch.randn(sum(p.numel() for p in found), generator=generator)
    parts = buffer.split([p.numel() for p in found])
    for parameter, part in zip(found, parts, strict=True):
        parameter.grad = (part if is_joined else part.clone()).view(parameter.shape)
    return found


def grads_of(given: list[Parameter]) -> list[Tensor]:
    """Return the gradients."""
    return [p.grad for p in given if p.grad is not None]


def by_units(tensor: Tensor) -> Tensor:
    """Return the norms of rows, or of a whole vector."""
    return (
        tensor.norm(2) if tensor.ndim <= 1 else tensor.norm(2, dim=tuple(range(1, tensor.ndim)), keepdim=True)
    )


def timm_agc(given: list[Parameter], *, clipping: float = 0.01, eps: float = 1e-3) -> None:
    """Do what timm's adaptive clipping does to each tensor: a bound, a scaled copy, a choice, a copy back."""
    for parameter in given:
        weight, grad = parameter.detach(), parameter.grad
        bound = by_units(weight).clamp_(min=eps).mul_(clipping)
        size = by_units(grad)
        scaled = grad * (bound / size.clamp(min=1e-6))
        grad.copy_(torch.where(size < bound, grad, scaled))


def clip_cases(given: list[Parameter], wanted: dict[str, str]) -> list[Case]:
    """Return the cases on one list."""
    grads = grads_of(given)
    kept = [grad.clone() for grad in grads]
    back = partial(torch._foreach_copy_, grads, kept)
    ours, theirs = partial(tonsor.clip_grad_norm_, given), partial(peer.clip_grad_norm_, given)
    rule = partial(clip.global_norm, given, max_norm=NEVER)
    norm, our_norm = partial(peer.get_total_norm, grads), partial(tonsor.get_total_norm, grads)
    value, our_value = (
        partial(peer.clip_grad_value_, given, 3.0),
        partial(tonsor.clip_grad_value_, given, 3.0),
    )
    found = [
        Case(
            "global norm, not clipping", partial(theirs, NEVER), partial(ours, NEVER), wanted.get("not", "")
        ),
        Case("global norm, clipping", partial(theirs, ALWAYS), partial(ours, ALWAYS), "", back),
        Case("the rule `global_norm`, not clipping", partial(theirs, NEVER), rule, ""),
        Case("inf norm", partial(norm, math.inf), partial(our_norm, math.inf), wanted.get("inf", "")),
        Case("1-norm", partial(norm, 1.0), partial(our_norm, 1.0), ""),
        Case("by value", value, our_value, wanted.get("value", "")),
    ]
    shares = {
        "no unit clipped": 1e6,
        "one unit in fifty clipped": share_for(given, 0.98),
        "all clipped": 0.01,
    }
    for name, share in shares.items():
        by_timm, by_us = partial(timm_agc, given, clipping=share), partial(clip.agc, given, clipping=share)
        found.append(Case(f"AGC, {name} (peer: timm's formula)", by_timm, by_us, wanted.get("agc", ""), back))
    buffer = grads[0]._base
    if buffer is not None and buffer.numel() == sum(map(Tensor.numel, grads)) and len(grads) > 1:
        whole = Parameter(torch.zeros_like(buffer))
        whole.grad = buffer
        name = "global norm, not clipping, ours of one parameter over the buffer"
        one = partial(tonsor.clip_grad_norm_, whole, NEVER)
        found.append(Case(name, partial(theirs, NEVER), one, wanted.get("not", "")))
    return found


def share_for(given: list[Parameter], quantile: float) -> float:
    """Return the share of the weights' norm that this part of the units stays below."""
    ratios = [(by_units(p.grad) / by_units(p.detach()).clamp(min=1e-3)).flatten() for p in given]
    return torch.cat(ratios).quantile(quantile).item()


def seconds(call: Callable[[], object]) -> float:
    """Return how long the thread computed: what the neighbours of a shared machine do is left out."""
    start = time.thread_time()
    call()
    return time.thread_time() - start


def measured(case: Case, rounds: int) -> list[object]:
    """Return a row: the medians, the ratio of every round in the middle, and its spread."""
    pairs = []
    for number in range(rounds + 1):
        order = (case.theirs, case.ours) if number % 2 else (case.ours, case.theirs)
        times = {}
        for call in order:
            case.reset()
            times[call] = seconds(call)
        pairs.append((times[case.theirs], times[case.ours]))
    theirs, ours = zip(*pairs[1:], strict=True)
    ratios = sorted(a / b for a, b in pairs[1:])
    low, high = ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]
    middle = f"{statistics.median(theirs) * 1e3:.2f}", f"{statistics.median(ours) * 1e3:.2f}"
    return [case.name, *middle, f"{statistics.median(ratios):.2f}x", f"{low:.2f} to {high:.2f}", case.wanted]


def added(given: list[Parameter], rounds: int, max_norm: float) -> list[object]:
    """Return a row: what clipping adds to a fused AdamW step."""
    ways: dict[str, Callable[[], object]] = {}
    for name in ("bare", "torch", "tonsor"):
        optimizer = torch.optim.AdamW(given, lr=1e-6, fused=True)
        ways[name] = optimizer.step
        if name == "torch":
            clipping = partial(peer.clip_grad_norm_, given, max_norm)
            ways[name] = lambda clipping=clipping, step=optimizer.step: (clipping(), step())
        elif name == "tonsor":
            tonsor.attach(optimizer, clip=partial(clip.global_norm, max_norm=max_norm))
    kept = [grad.clone() for grad in grads_of(given)]
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in list(ways)[:: 1 if number % 2 else -1]:
            torch._foreach_copy_(grads_of(given), kept)
            times[name].append(seconds(ways[name]))
    bare, theirs, ours = (statistics.median(times[name][1:]) * 1e3 for name in ways)
    costs = [(t - b) for b, t in zip(times["bare"][1:], times["tonsor"][1:], strict=True)]
    spread = f"{min(costs) * 1e3:.1f} to {max(costs) * 1e3:.1f}"
    share = f"{(ours - bare) / (theirs - bare):.2f}"
    name = "clipping" if max_norm == ALWAYS else "not clipping"
    return [
        name,
        f"{bare:.1f}",
        f"{theirs - bare:.1f}",
        f"{ours - bare:.1f}",
        spread,
        share,
    ]


def accuracy() -> list[list[object]]:
    """Return rows: the relative error of the norm against float64."""
    blocks = grads_of(parameters(GPT2))
    lists = {
        "85M elements in 146 tensors": blocks,
        "the same in one buffer": [torch.cat([grad.flatten() for grad in blocks])],
        "one embedding, 38.6M elements": [torch.randn(50257, WIDTH)],
        "38.6M equal elements": [torch.full((50257, WIDTH), 0.1)],
    }
    rows = []
    for name, given in lists.items():
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            tensors = [tensor.to(dtype) for tensor in given]
            squares = [part.double().square().sum() for t in tensors for part in t.flatten().split(1 << 20)]
            exact = torch.stack(squares).sum().sqrt()
            errors = [
                abs(norm.double() / exact - 1).item()
                for norm in (peer.get_total_norm(tensors), joint_norm(tensors))
            ]
            rows.append([name, str(dtype).removeprefix("torch."), *(f"{error:.0e}" for error in errors)])
    return rows


def main() -> None:
    """Measure everything and write the section."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    head = ["case", "torch, ms", "tonsor, ms", "faster", "10 to 90 % of rounds", "wanted"]
    large = {"not": "2.5x", "inf": "10x", "value": "1.8x", "agc": "6x"}
    lists = [
        ("85M elements in 146 tensors (the blocks of GPT-2 small)", parameters(GPT2), large),
        ("3M elements in 1000 tensors, apart", parameters(SMALL), {}),
        (
            "3M elements in 1000 tensors, side by side in one buffer",
            parameters(SMALL, is_joined=True),
            {"not": "5x"},
        ),
    ]
    body = NOTE
    for title, given, wanted in lists:
        rows = [
            measured(case, rounds if len(given) < 1000 else 3 * rounds) for case in clip_cases(given, wanted)
        ]
        body += f"\n### {title}\n\n{markdown(head, rows)}\n"
    given = parameters(GPT2)
    rows = [added(given, rounds, bound) for bound in (ALWAYS, NEVER)]
    head = [
        "85M elements",
        "bare step, ms",
        "torch adds, ms",
        "tonsor adds, ms",
        "least to most",
        "share (wanted 0.40)",
    ]
    body += f"\n### Added to a fused AdamW step by `tonsor.attach`\n\n{markdown(head, rows)}\n"
    head = ["85M elements", "passes", "ms", "least ms", "GB/s", "most GB/s"]
    body += f"\n### The limit of the memory\n\n{markdown(head, roof(given, rounds))}\n"
    head = ["2-norm of", "type", "error of torch", "error of tonsor (wanted 1e-06)"]
    body += f"\n### Relative error against float64\n\n{markdown(head, accuracy())}\n"
    write_section("Clipping gradients", "OMP_NUM_THREADS=1 python benchmarks/clip.py", body)


if __name__ == "__main__":
    main()
