import pytest
import torch

from tonsor.pack import bit_path, find_bits, pack


def state():
    torch.manual_seed(0)
    return {"a.weight": torch.randn(40, 30), "b.weight": torch.randn(20, 40).sign(), "bias": torch.randn(40)}


@pytest.mark.parametrize("most", [1500, 1100, 900, 700])
def test_the_first_step_that_fits_is_what_find_bits_finds(most):
    path = bit_path(state())
    found = find_bits(state(), max_bytes=most)
    step = next(n for n, size in enumerate(path.bytes) if size <= most)
    assert (path.bits[step], path.bytes[step]) == (found.bits, found.bytes)


def test_each_step_takes_one_weight_down_and_saves_bytes_to_the_fewest_of_all():
    path = bit_path(state(), choices=(2, 4, 8), names=["a.weight", "bias"])
    assert path.bits[0] == {"a.weight": 8, "bias": 8}
    assert path.bits[-1] == {"a.weight": 2, "bias": 2}
    for before, after in zip(path.bits, path.bits[1:], strict=False):
        assert sum(before[name] != after[name] for name in before) == 1
    assert path.bytes == sorted(path.bytes, reverse=True)
    last = len(path.bits) - 1
    assert pack(state(), shared=path.shared(last)).bytes == path.bytes[last]


def test_what_is_measured_decides_the_order():
    torch.manual_seed(0)
    tensors = {"a": torch.randn(20, 20), "b": torch.randn(20, 20)}

    def only_b(found):
        return float((found["b"] - tensors["b"]).square().sum())

    path = bit_path(tensors, measure=only_b, choices=(2, 4))
    assert path.bits == [{"a": 4, "b": 4}, {"a": 2, "b": 4}, {"a": 2, "b": 2}]
    with pytest.raises(ValueError, match="between 2 and 8"):
        bit_path(tensors, choices=(1,))
