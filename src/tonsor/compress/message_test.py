import struct
import zlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tonsor.compress.levels import WIDTHS
from tonsor.compress.message import START, header_bytes, pack_sparse, unpack_sparse
from tonsor.compress.sparse import join, planned, sparse

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def part_of(numel, count, seed, dtype=torch.float32, *, is_clustered=False):
    generator = torch.Generator().manual_seed(seed)
    places = torch.arange(count) if is_clustered else torch.randperm(numel, generator=generator)[:count]
    values = torch.randn(count, generator=generator).to(dtype)
    return sparse(values, places.sort().values, numel)


sizes = st.integers(0, 400).flatmap(lambda numel: st.tuples(st.just(numel), st.integers(0, numel)))


@settings(max_examples=50)
@given(
    sizes=st.lists(st.lists(sizes, min_size=1, max_size=3), max_size=3),
    seed=st.integers(0, 99),
    dtype=st.sampled_from(DTYPES),
    bits=st.sampled_from([None, *WIDTHS]),
    is_fitted=st.booleans(),
    is_clustered=st.booleans(),
)
def test_any_parts_come_back_in_a_message_of_the_length_that_was_planned(
    sizes, seed, dtype, bits, is_fitted, is_clustered
):
    parts = [
        join([part_of(*size, seed, dtype, is_clustered=is_clustered) for size in some]) for some in sizes
    ]
    message = pack_sparse(parts, bits=bits, is_fitted=is_fitted)
    back = unpack_sparse(message)
    assert [(part.numels, part.counts) for part in back] == [(part.numels, part.counts) for part in parts]
    for got, want in zip(back, parts, strict=True):
        assert torch.equal(got.places, want.places)
        assert torch.equal(got.values, want.values) if bits is None else got.values.shape == want.values.shape
    if not is_fitted:
        bodies = [planned(part.numels, part.counts, dtype, bits).nbytes for part in parts]
        heads = [3 + sum(header_bytes(*size) for size in some) for some in sizes]
        assert message.numel() == START.size + 1 + sum(bodies) + sum(heads)


@pytest.mark.parametrize("bits", [None, 2, 4, 16])
@pytest.mark.parametrize("is_fitted", [True, False])
def test_every_single_bit_that_flips_is_noticed(bits, is_fitted):
    message = pack_sparse(
        [join([part_of(300, 9, 1), part_of(50, 4, 2)]), part_of(9, 0, 1)], bits=bits, is_fitted=is_fitted
    )
    for place in range(message.numel()):
        for bit in range(8):
            damaged = message.clone()
            damaged[place] ^= 1 << bit
            with pytest.raises(ValueError, match="unpack_sparse: "):
                unpack_sparse(damaged)


def test_a_message_that_was_cut_or_goes_on_is_refused():
    message = pack_sparse([part_of(300, 9, 1)])
    for length in range(message.numel()):
        with pytest.raises(ValueError, match="unpack_sparse: "):
            unpack_sparse(message[:length].clone())
    with pytest.raises(ValueError, match="the checksum does not fit"):
        unpack_sparse(torch.cat([message, torch.zeros(1, dtype=torch.uint8)]))


def sealed(rest: bytes) -> torch.Tensor:
    """Return a message with a right checksum around whatever stands in it."""
    return torch.tensor([*START.pack(0xD1, zlib.crc32(rest)), *rest], dtype=torch.uint8)


@settings(max_examples=50)
@given(rest=st.binary(max_size=60))
def test_nonsense_with_a_right_checksum_is_refused_or_is_a_message(rest):
    try:
        parts = unpack_sparse(sealed(rest))
    except ValueError as error:
        assert "the message contradicts itself" in str(error) or "rice_decode" in str(error)
        return
    for part in parts:
        assert part.values.shape == part.places.shape
        assert part.places.numel() <= min(sum(part.numels), 8 * len(rest))


@settings(max_examples=50)
@given(edits=st.lists(st.tuples(st.integers(0, 70), st.integers(0, 255)), min_size=1, max_size=3))
def test_a_changed_message_with_a_right_checksum_breaks_nothing(edits):
    rest = bytearray(
        pack_sparse([join([part_of(300, 9, 1), part_of(50, 4, 2)]), part_of(9, 0, 1)])[START.size :].tolist()
    )
    for place, byte in edits:
        rest[place % len(rest)] = byte
    try:
        parts = unpack_sparse(sealed(bytes(rest)))
    except ValueError as error:
        assert "the message contradicts itself" in str(error) or "rice_decode" in str(error)
        return
    for part in parts:
        assert part.places.numel() == 0 or part.places.max() < sum(part.numels)
        assert (part.places.diff() > 0).all()


def number(value):
    groups = [value >> shift & 0x7F for shift in range(0, 49, 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (number(2**40), "its header is cut"),
        (bytes([1]) + number(2**40), "its header is cut"),
        (bytes([1, 1]) + number(2**48) + number(2**47) + bytes([0x40, 30]), "its parts take"),
        (bytes([1, 1, 10, 11, 0x40, 0]), r"no part has elements \[\(10, 11\)\] of kind 64"),
        (bytes([1, 1, 10, 1, 0x41, 0]), "of kind 65"),
        (bytes([1, 1, 10, 1, 0x80, 0]), "of kind 128"),
        (bytes([1, 0, 0x40, 0]), r"no part has elements \[\]"),
        (bytes([1, 1, 10, 1, 0x40, 40]), "do not have 40 low bits"),
        (bytes([1, 1, 10, 2, 0x40, 64, 1]), "2 of 10 places cannot take 1 high bits"),
        (bytes([1, 1, 10, 2, 0x40, 64, 11]), "2 of 10 places cannot take 11 high bits"),
        (bytes([1]) + bytes([0x80] * 7), "a number is too large"),
        (b"", "its header is cut"),
        (bytes([0, 7]), "its parts take 0 bytes, but 1 are there"),
        (bytes([1, 2, 4, 1, 4, 1, 0x00, 0, 0, 0, 0, 0, 0b11]), "should have \\(1, 1\\) places"),
    ],
)
def test_a_header_that_asks_for_too_much_is_refused_before_memory_is_taken(head, says):
    with pytest.raises(ValueError, match=says):
        unpack_sparse(sealed(head))


@pytest.mark.parametrize("what", [torch.zeros(3, dtype=torch.uint8), torch.zeros(9), torch.zeros(0).byte()])
def test_what_is_no_message_at_all_is_refused(what):
    with pytest.raises(ValueError, match="a message is a vector of 5 bytes at least"):
        unpack_sparse(what)


def test_another_version_is_told():
    message = pack_sparse([part_of(300, 9, 1)])
    message[0] += 1
    with pytest.raises(ValueError, match="begins with 0xd2, a sparse message with 0xd1"):
        unpack_sparse(message)


def test_a_message_on_the_wire_is_as_small_as_wanted():
    generator = torch.Generator().manual_seed(0)
    numel, count = 4_000_000, 4_000
    places = torch.randint(0, numel, (2 * count,), generator=generator).unique()
    places = places[torch.randperm(places.numel(), generator=generator)[:count]].sort().values
    values = torch.randn(count, generator=generator) / torch.rand(count, generator=generator).sqrt()
    dense_bytes = 4 * numel
    lengths = {
        (bits, is_fitted): pack_sparse(
            [sparse(values, places, numel)], bits=bits, is_fitted=is_fitted
        ).numel()
        for bits in (None, 4)
        for is_fitted in (True, False)
    }
    assert dense_bytes / lengths[None, True] > 735
    assert dense_bytes / lengths[None, False] > 727
    assert dense_bytes / lengths[4, True] > 2050
    assert dense_bytes / lengths[4, False] > 2000


def test_the_header_is_that_of_the_format():
    message = pack_sparse([sparse(torch.tensor([5.0]), torch.tensor([2]), 200)], is_fitted=False)
    assert message[0] == 0xD1
    assert struct.unpack("<I", bytes(message[1:5].tolist()))[0] == zlib.crc32(bytes(message[5:].tolist()))
    assert message[5:12].tolist() == [
        1,
        1,
        0xC8,
        1,
        1,
        2 << 5,
        7,
    ]  # one part of one tensor: 200, 1 of them ...
