"""What does it cost to write gradients in few bytes and to read them back, beside plain torch?

25 million float32, one worker, no link; everything is a multiple of a copy into memory that is there, run
in the same rounds. A method more is a line more in `cases`:

    OMP_NUM_THREADS=1 python benchmarks/compress_kernels.py
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from results import markdown, write_section
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import _orthogonalize

from tonsor.compress.bits import pack_signs, unpack_signs
from tonsor.compress.codec import Codec, empty_parts
from tonsor.compress.draws import Draws
from tonsor.compress.floats import Floats, Halves
from tonsor.compress.grid import Grid, euclidean_norm
from tonsor.compress.powers import Powers
from tonsor.compress.powersgd import _product, orthonormal
from tonsor.compress.signs import Signs

MATRICES, WIDTH = 24, 1024
COUNT = MATRICES * WIDTH * WIDTH  # 25,165,824
CPU = torch.device("cpu")
NOTE = """Time of one thread as a multiple of `copy_` between two buffers of the same size, which took
{copy} ms (the median {median} ms) in the same interleaved rounds, on a machine that others use as well.
Least over {rounds} rounds, the median in brackets. Encode writes into memory that is there, and so does
decode. The peer does both and makes its own memory, as its lines are written; to touch new memory for the
first time costs about as much as five copies into old.

- int8: 2.2x is met by encode, which reads a block for its largest magnitude, multiplies, rounds and casts;
  not by both. Signs likewise: 1.5x is for packing.
- Rounding at random: 32 random bits for each element are mixed in eight passes over what lies in the cache.
- PowerSGD forms P Qᵀ once here; with more than one worker twice, for the mean and for what was sent.
"""


class Case(NamedTuple):
    """One method: what writes, what reads, and the peer that does both."""

    name: str
    encode: Callable[[], object]
    decode: Callable[[], object]
    wanted: str = ""
    peer_name: str = ""
    peer: Callable[[], object] | None = None


def coded(
    name: str, codec: Codec, values: Tensor, out: Tensor, draws: Draws | None = None, **others: object
) -> Case:
    """Return the case of a codec."""
    parts = empty_parts(codec, values.numel(), CPU)
    encode = partial(codec.encode, values, parts, draws)
    return Case(name, encode, partial(codec.decode, parts, out), **others)  # type: ignore[arg-type]


def signs_alone(values: Tensor, out: Tensor) -> Case:
    """Return the case of packing bits without sizes."""
    packed = torch.empty(values.numel() // 8, dtype=torch.uint8)
    powers = torch.tensor([1 << bit for bit in range(8)], dtype=torch.uint8)

    def multiply() -> Tensor:
        bits = (values.view(-1, 8) >= 0).to(torch.uint8)
        words = (bits * powers).sum(1, dtype=torch.uint8)
        return ((words.unsqueeze(1) & powers) != 0).to(torch.float32).mul_(2).sub_(1)

    encode, decode = partial(pack_signs, values, packed), partial(unpack_signs, packed, out)
    return Case(
        "signs packed, no sizes", encode, decode, "encode 1.5x", "bits times powers, summed", multiply
    )


def powersgd(rank: int, values: Tensor, out: Tensor, wanted: str = "") -> Case:
    """Return the case of one step on 24 matrices, beside torch's arithmetic: bmm, and Gram-Schmidt or QR."""
    matrices, made = values.view(MATRICES, WIDTH, WIDTH), out.view(MATRICES, WIDTH, WIDTH)
    generator = torch.Generator().manual_seed(0)
    rights = [torch.randn(rank, WIDTH, generator=generator) for _ in range(MATRICES)]
    batched = torch.stack([right.t() for right in rights])
    factors: list[tuple[Tensor, Tensor]] = []

    def encode() -> None:
        factors.clear()
        for matrix, right in zip(matrices, rights, strict=True):
            base = orthonormal(matrix @ right.t())
            factors.append((base, base.t() @ matrix))

    def decode() -> None:
        for (base, right), target in zip(factors, made, strict=True):
            _product(base, right, out=target)

    def theirs() -> None:
        lefts = torch.bmm(matrices, batched)
        _orthogonalize(lefts, 1e-8)
        torch.bmm(lefts, torch.bmm(matrices.transpose(1, 2), lefts).transpose(1, 2), out=made)

    return Case(f"PowerSGD, rank {rank}", encode, decode, wanted, "torch's PowerSGD arithmetic", theirs)


def naive_grid(values: Tensor, levels: int) -> Tensor:
    """Return what a few lines of torch do for integers in blocks."""
    rows = values.view(-1, 256)
    scale = rows.abs().amax(1, keepdim=True) / levels
    codes = (rows / scale).round().clamp(-levels, levels).to(torch.int8)
    return codes.to(torch.float32) * scale


def naive_random(values: Tensor, levels: int) -> Tensor:
    """Return what a few lines of torch do for QSGD."""
    rows = values.view(-1, 512)
    scale = rows.norm(dim=1, keepdim=True) / levels
    codes = torch.floor(rows / scale + torch.rand_like(rows)).clamp(-levels, levels).to(torch.int8)
    return codes.to(torch.float32) * scale


def naive_sign(values: Tensor) -> Tensor:
    """Return what a few lines of torch do for signs with sizes: a byte a sign."""
    rows = values.view(-1, 1024)
    size = rows.abs().mean(1, keepdim=True)
    bits = (rows >= 0).to(torch.uint8)
    return (bits.to(torch.float32) * 2 - 1) * size


def naive_natural(values: Tensor) -> Tensor:
    """Return what a few lines of torch do for natural compression."""
    mantissa, exponent = torch.frexp(values)
    power = torch.where(torch.rand_like(values) < mantissa.abs() * 2 - 1, exponent, exponent - 1)
    return torch.ldexp(values.sign(), power)


def cases(x: Tensor, y: Tensor) -> list[Case]:
    """Return every method, a line each."""
    draws = Draws(0, torch.tensor(0))

    def cast(dtype: torch.dtype) -> dict[str, object]:
        return {"peer_name": "`.to()` and back", "peer": lambda: x.to(dtype).to(torch.float32)}

    def few_lines(call: Callable[..., object], *args: object) -> dict[str, object]:
        return {"peer_name": "a few lines of torch", "peer": partial(call, x, *args)}

    e4m3, e5m2 = torch.float8_e4m3fn, torch.float8_e5m2
    return [
        coded("bf16", Halves(), x, y, **cast(torch.bfloat16)),
        coded("fp16, block 256", Floats(torch.float16, block=256, top=14), x, y, **cast(torch.float16)),
        coded("e4m3, block 256", Floats(e4m3, block=256, top=7), x, y, **cast(e4m3)),
        coded("e5m2, block 256", Floats(e5m2, block=256, top=14), x, y, **cast(e5m2)),
        coded(
            "int8, block 256",
            Grid(levels=127, block=256),
            x,
            y,
            wanted="encode 2.2x",
            **few_lines(naive_grid, 127),
        ),
        coded("int4, block 256", Grid(levels=7, block=256), x, y, **few_lines(naive_grid, 7)),
        signs_alone(x, y),
        coded("signs, block 1024", Signs(block=1024), x, y, **few_lines(naive_sign)),
        coded(
            "QSGD, 4 bits",
            Grid(levels=7, block=512, measure=euclidean_norm),
            x,
            y,
            draws,
            **few_lines(naive_random, 7),
        ),
        coded("natural", Powers(), x, y, draws, **few_lines(naive_natural)),
        powersgd(1, x, y, wanted="3x"),
        powersgd(2, x, y),
        powersgd(4, x, y),
    ]


def seconds(call: Callable[[], object]) -> float:
    """Return how long the thread computed: what the neighbours of a shared machine do is left out."""
    start = time.thread_time()
    call()
    return time.thread_time() - start


def measured(
    found: list[Case], copy: Callable[[], object], rounds: int
) -> tuple[list[float], dict[str, list[list[float]]]]:
    """Return the times of the copy and, for each case, of encode, decode and peer."""
    copies: list[float] = []
    times: dict[str, list[list[float]]] = {case.name: [[], [], []] for case in found}
    for number in range(rounds + 1):
        for case in found[:: 1 if number % 2 else -1]:
            taken = [seconds(copy)]
            taken += [seconds(call) for call in (case.encode, case.decode, case.peer) if call is not None]
            if number:
                copies.append(taken[0])
                for kept, time_of in zip(times[case.name], taken[1:], strict=False):
                    kept.append(time_of)
    return copies, times


def main() -> None:
    """Measure everything and write the section."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    x, y = torch.randn(COUNT, generator=torch.Generator().manual_seed(0)), torch.empty(COUNT)
    found = cases(x, y)
    copies, times = measured(found, partial(y.copy_, x), rounds)
    least, middle = min(copies), statistics.median(copies)

    def figure(taken: list[float]) -> str:
        return f"{min(taken) / least:.2f} ({statistics.median(taken) / middle:.2f})" if taken else ""

    rows: list[list[object]] = []
    for case in found:
        encode, decode, peer = times[case.name]
        both = [a + b for a, b in zip(encode, decode, strict=True)]
        rows.append([case.name, *map(figure, (encode, decode, both, peer)), case.peer_name, case.wanted])
    head = ["25M float32", "encode", "decode", "both", "peer, both", "peer", "wanted"]
    note = NOTE.format(copy=f"{least * 1e3:.1f}", median=f"{middle * 1e3:.1f}", rounds=rounds)
    command = "OMP_NUM_THREADS=1 python benchmarks/compress_kernels.py"
    write_section("Compressing gradients: the kernels", command, f"{note}\n{markdown(head, rows)}")


if __name__ == "__main__":
    main()
