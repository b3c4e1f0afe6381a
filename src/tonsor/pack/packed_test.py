import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tonsor.pack import SHARINGS, Coding, find_bits, kmeans, pack, share, unpack
from tonsor.pack.entry import DTYPES


def same(a, b):
    bits = (a.contiguous().reshape(-1).view(torch.uint8), b.contiguous().reshape(-1).view(torch.uint8))
    return (a.shape, a.dtype) == (b.shape, b.dtype) and torch.equal(*bits)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
@settings(max_examples=12)
@given(data=st.data())
def test_without_bits_every_type_comes_back_bit_for_bit(dtype, data):
    shape = data.draw(st.sampled_from([(), (0,), (3, 0, 2), (1,), (7,), (5, 9), (2, 3, 4, 5)]))
    drawn = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    few = data.draw(st.sampled_from([2, 40, 256]))
    count = torch.Size(shape).numel() * dtype.itemsize
    raw = torch.randint(0, few if dtype != torch.bool else 2, (count,), dtype=torch.uint8, generator=drawn)
    keep = torch.rand(torch.Size(shape).numel(), generator=drawn) < data.draw(
        st.sampled_from([0.0, 0.1, 1.0])
    )
    tensor = (raw * keep.repeat_interleave(dtype.itemsize)).view(dtype).view(shape)
    assert same(unpack(pack({"w": tensor}))["w"], tensor)


def test_what_is_not_a_number_and_what_is_minus_zero_comes_back():
    odd = torch.tensor([0.0, -0.0, float("nan"), float("-inf"), 1e-45, -0.0]).repeat(50)
    odd[2::6] = torch.tensor(0x7FC01234, dtype=torch.int32).view(torch.float32)
    for tensor in (odd, odd.double(), odd.to(torch.bfloat16), odd.half(), torch.randn(300) * odd):
        assert same(unpack(pack({"w": tensor}))["w"], tensor)


@pytest.mark.parametrize("name", SHARINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_what_is_unpacked_is_what_was_promised(name, dtype):
    torch.manual_seed(0)
    state = {"a": torch.randn(20, 30).to(dtype), "b": torch.randn(8, 2, 3, 3).to(dtype), "c": torch.randn(5)}
    masks = {"a": torch.rand(20, 30) < 0.1}
    for bits in (2, 5, 8):
        shared = share(state, bits=bits, masks=masks, sharing=SHARINGS[name])
        got = unpack(pack(state, bits=bits, masks=masks, sharing=SHARINGS[name]))
        assert list(shared) == ["a", "b"]
        assert all(same(got[n], s.values()) for n, s in shared.items())
        assert same(got["c"], state["c"])
        assert (got["a"][~masks["a"]] == 0).all()


def test_groups_and_large_tensors_come_back():
    torch.manual_seed(0)
    weight = torch.randn(1100, 1000) * (torch.rand(1100, 1) < 0.1)
    for sharing in (SHARINGS["uniform"], lambda w, bits: kmeans(w, bits=bits, groups=3)):
        shared = share({"w": weight}, bits=4, sharing=sharing)["w"]
        packed = pack({"w": weight}, bits=4, sharing=sharing)
        assert same(unpack(packed)["w"], shared.values())
        assert packed.unpacked_bytes > 60 * packed.bytes
    assert same(unpack(pack({"w": weight}))["w"], weight)
    with pytest.raises(ValueError, match="'w': pack: groups must be at least 1; got 0"):
        share({"w": torch.ones(2, 2)}, sharing=lambda w, bits: kmeans(w, bits=bits, groups=0))


def test_a_tied_weight_is_packed_once_and_comes_back_tied():
    model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 50, bias=False))
    model[1].weight = model[0].weight
    packed = pack(model, bits=4)
    assert packed.ties == {"1.weight": "0.weight"}
    state = unpack(packed)
    assert state["1.weight"] is state["0.weight"]
    assert unpack(packed, names=["1.weight"])["1.weight"].shape == (50, 8)
    model.load_state_dict(state)


def test_parts_of_one_memory_are_not_ties():
    whole = torch.arange(6.0)
    state = {"first": whole[:3], "last": whole[3:], "turned": whole.view(2, 3).t(), "same": whole.view(3, 2)}
    packed = pack(state)
    assert not packed.ties
    assert all(same(unpack(packed)[name], tensor) for name, tensor in state.items())


def test_packing_leaves_the_model_as_it_was_and_is_the_same_each_time():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, groups=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8, bias=False)
    )
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, second = (pack(model, bits=4, coding=Coding(threads=threads)) for threads in (1, 3))
    assert first == second
    assert all(same(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert unpack(first)["1.num_batches_tracked"].dtype == torch.int64


def test_mistakes_are_told_with_the_name():
    with pytest.raises(ValueError, match="'w' is a list; only tensors can be packed"):
        pack({"w": [1.0]})
    with pytest.raises(ValueError, match=r"'w': a torch.float32 tensor of layout torch.sparse_coo"):
        pack({"w": torch.ones(2, 2).to_sparse()})
    with pytest.raises(ValueError, match=r"'w': a torch.float32 tensor of layout .* on meta"):
        pack({"w": torch.ones(2, 2, device="meta")})
    with pytest.raises(ValueError, match="unknown tensor 'x'"):
        unpack(pack({"w": torch.ones(1)}), names=["x"])
    with pytest.raises(ValueError, match="unknown coder 'zst'; did you mean 'zstd'"):
        Coding(coders=("zst",))
    with pytest.raises(ValueError, match="positions must name one at least"):
        Coding(positions=())
    shared = share({"w": torch.randn(3, 3)})
    with pytest.raises(ValueError, match="unknown shared weight 'w'"):
        pack({"v": torch.randn(3, 3)}, shared=shared)
    with pytest.raises(ValueError, match="'w' has another shape or type than its codes"):
        pack({"w": torch.randn(3, 2)}, shared=shared)


def test_bits_are_found_for_a_budget_of_bytes():
    torch.manual_seed(0)
    state = {"a": torch.randn(40, 40), "b": torch.randn(60, 40), "c": torch.randn(7)}
    for limit in (2200, 1500, 1300):
        chosen = find_bits(state, max_bytes=limit)
        assert chosen.bytes <= limit
        assert pack(state, bits=chosen.bits).bytes == chosen.bytes
    with pytest.raises(ValueError, match="with the fewest bits the tensors take"):
        find_bits(state, max_bytes=100)


def test_bits_are_found_for_a_budget_of_loss_and_spared_where_it_matters():
    torch.manual_seed(0)
    state = {"matters": torch.randn(30, 30), "does_not": torch.randn(30, 30)}

    def measure(tensors):
        return float((tensors["matters"] - state["matters"]).square().mean())

    chosen = find_bits(state, max_loss=0.01, measure=measure)
    assert chosen.loss <= 0.01
    assert chosen.bits["does_not"] == 2 < chosen.bits["matters"]
    values = {name: s.values() for name, s in share(state, bits=chosen.bits).items()}
    assert measure(values) == chosen.loss
    with pytest.raises(ValueError, match=r"with the most bits the loss is .*, above max_loss=0"):
        find_bits(state, max_loss=0, measure=measure)
    with pytest.raises(ValueError, match="give one budget"):
        find_bits(state)
