"""Codes of neighbours can be cut and put together, and shares cover a vector once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tonsor.compress.codec import empty_parts, pieces_of
from tonsor.compress.floats import Floats, Halves
from tonsor.compress.grid import Grid
from tonsor.compress.powers import Powers
from tonsor.compress.signs import Signs
from tonsor.compress.vector import join, unit_of, vector_of

CODECS = {
    "8 bits": Grid(levels=127, block=16),
    "4 bits": Grid(levels=7, block=12),
    "2 bits": Grid(levels=1, block=5),
    "signs": Signs(block=8),
    "powers": Powers(),
    "float16": Floats(torch.float16, block=16, top=14),
    "e4m3": Floats(torch.float8_e4m3fn, block=16, top=7),
    "bfloat16": Halves(),
}


def written(codec, values):
    parts = empty_parts(codec, values.numel(), values.device)
    codec.encode(values, parts, None)  # nothing is drawn: what is depends on the place
    return parts


def read(codec, parts, count):
    codec.decode(parts, values := torch.empty(count))
    return values


@pytest.mark.parametrize("name", CODECS)
@settings(max_examples=20)
@given(units=st.integers(1, 5), blocks=st.integers(1, 4), rest=st.integers(0, 200), seed=st.integers(0, 99))
def test_a_code_can_be_cut_after_every_unit_and_put_together_again(name, units, blocks, rest, seed):
    unit = blocks * unit_of(CODECS[name].block)
    codec, count = CODECS[name].fitted(unit, None), units * unit + rest % unit
    values = torch.randn(count, generator=torch.Generator().manual_seed(seed))
    code = written(codec, values)
    whole = read(codec, code, count)
    starts = range(0, count, unit)
    pieces = [pieces_of(codec, code, start, min(unit, count - start)) for start in starts]
    for start, piece in zip(starts, pieces, strict=True):
        length = min(unit, count - start)
        assert torch.equal(read(codec, piece, length), whole[start : start + length])
        alone = written(codec, values[start : start + length])
        assert all(torch.equal(*map(raw, pair)) for pair in zip(alone, piece, strict=True))
    together = [torch.cat(parts) for parts in zip(*pieces, strict=True)]
    assert all(torch.equal(*map(raw, pair)) for pair in zip(together, code, strict=True))


def raw(part):
    """Return the bytes: short floats know no equality."""
    return part.contiguous().view(torch.uint8)


@settings(max_examples=30)
@given(sizes=st.lists(st.integers(1, 9000), min_size=1, max_size=6), workers=st.integers(1, 7))
def test_the_own_share_and_those_of_the_others_cover_a_vector_once(sizes, workers):
    grads = {f"layer{i}": torch.randn(1, n) for i, n in enumerate(sizes)}
    vectors = {name: vector_of(name, grad, workers, CODECS["signs"]) for name, grad in grads.items()}
    places = join(vectors)
    for vector in vectors.values():
        for rank in range(workers):
            runs = vector.others(rank)
            spans = [(run.start, run.length) for run in runs] + [vector.shares[rank]]
            covered = torch.cat([torch.arange(start, start + length) for start, length in spans])
            assert torch.equal(covered.sort().values, torch.arange(vector.values.numel()))
            assert sorted(other for run in runs for other in run.ranks) == [
                other for other, (_, length) in enumerate(vector.shares) if length and other != rank
            ]
    for name, grad in grads.items():
        held = [vectors[whole].values.narrow(0, start, count) for whole, start, count in places[name]]
        assert torch.equal(torch.cat(held), grad.view(-1))
