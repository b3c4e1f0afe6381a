import copy
import io

import pytest
import torch
from torch import nn

from tonsor.pack import WAYS, SparseLayer, sparse_rows
from tonsor.pack.sparse_compiled import Compiled
from tonsor.pack.sparse_unfold import convolved

every_way = pytest.mark.parametrize("way", WAYS)
CONVOLUTIONS = {
    "1x1": (nn.Conv2d(6, 5, 1), (2, 6, 5, 7)),
    "1x1, stride": (nn.Conv2d(6, 5, 1, stride=2), (2, 6, 5, 7)),
    "3x3": (nn.Conv2d(6, 20, 3), (3, 6, 9, 11)),
    "padding": (nn.Conv2d(6, 5, 3, padding=(1, 2), bias=False), (2, 6, 9, 8)),
    "same": (nn.Conv2d(6, 5, (2, 4), padding="same"), (2, 6, 9, 8)),
    "reflect": (nn.Conv2d(6, 5, 3, padding=2, padding_mode="reflect"), (2, 6, 9, 8)),
    "stride": (nn.Conv2d(6, 5, 3, stride=(2, 3), padding=1), (2, 6, 9, 8)),
    "dilation": (nn.Conv2d(6, 5, 3, dilation=(2, 1)), (2, 6, 9, 8)),
    "groups": (nn.Conv2d(6, 9, 3, groups=3, padding=1), (2, 6, 9, 8)),
    "depthwise": (nn.Conv2d(6, 12, 3, groups=6, stride=2), (2, 6, 9, 8)),
    "one place": (nn.Conv2d(6, 5, 3), (2, 6, 3, 3)),
    "one sample": (nn.Conv2d(6, 5, 3), (6, 9, 8)),
    "sequence": (nn.Conv1d(6, 5, 3, padding=1), (2, 6, 90)),
    "sequence, stride": (nn.Conv1d(6, 4, 4, stride=3, groups=2, dilation=2), (1, 6, 90)),
    "volume": (nn.Conv3d(2, 5, 3, padding=(0, 1, 1)), (2, 2, 4, 5, 6)),
}


def pruned(layer, density=0.4):
    torch.manual_seed(0)
    layer = copy.deepcopy(layer).eval()
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape))
        layer.weight.mul_(torch.rand(layer.weight.shape) < density)
    return layer


def assert_like(out, layer, x, way):
    """Compare with the dense layer in float64."""
    truth = copy.deepcopy(layer).double()(x.double()).detach()
    assert out.shape == truth.shape
    assert out.dtype == torch.float32
    if way == "int8":
        assert (out.double() - truth).norm() <= 0.03 * truth.norm()
    else:
        torch.testing.assert_close(out.double(), truth, rtol=1e-5, atol=1e-4)


@every_way
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "shape", [(0, 19), (1, 19), (2, 19), (37, 19), (64, 19), (19,), (3, 5, 19), (2, 1, 3, 19)]
)
def test_a_linear_layer_gives_what_the_dense_one_gives(way, bias, shape):
    layer = pruned(nn.Linear(19, 23, bias=bias))
    x = torch.randn(shape)
    for turned in (False, True):
        out = SparseLayer(layer, {1: way}, turned=turned)(x)
        assert turned or out.is_contiguous()
        assert_like(out, layer, x, way)


@every_way
@pytest.mark.filterwarnings("ignore:Using padding='same'")  # the dense layer's own
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_gives_what_the_dense_one_gives(way, name):
    layer, shape = CONVOLUTIONS[name]
    layer, x = pruned(layer), torch.randn(shape)
    out = SparseLayer(layer, {1: way})(x)
    assert out.is_contiguous()
    assert_like(out, layer, x, way)


@every_way
@pytest.mark.parametrize("name", ["stride", "groups", "sequence"])
def test_a_large_batch_is_unfolded_piece_by_piece(way, name, monkeypatch):
    monkeypatch.setitem(convolved.__globals__, "PIECE", 4000)  # one sample, or two
    layer, (_, *shape) = CONVOLUTIONS[name]
    layer, x = pruned(layer), torch.randn(5, *shape)
    assert_like(SparseLayer(layer, {1: way})(x), layer, x, way)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_do_without_a_compiler(name, monkeypatch):
    monkeypatch.setattr(sparse_rows, "compiled", lambda: Compiled(None, "none"))
    layer, shape = CONVOLUTIONS[name]
    layer, x = pruned(layer), torch.randn(shape)
    assert_like(SparseLayer(layer, {1: "kernel"})(x), layer, x, "kernel")


@every_way
def test_inputs_may_lie_anyhow(way):
    conv, linear = pruned(nn.Conv2d(6, 5, 3)), pruned(nn.Linear(19, 23))
    image = torch.randn(2, 6, 9, 8).to(memory_format=torch.channels_last)
    assert_like(SparseLayer(conv, {1: way})(image), conv, image, way)
    rows = torch.randn(19, 4, 6).permute(2, 1, 0)
    assert_like(SparseLayer(linear, {1: way})(rows), linear, rows, way)
    assert_like(SparseLayer(linear, {1: way})(rows[:, 0]), linear, rows[:, 0], way)


@every_way
def test_a_weight_of_zeros_gives_the_bias(way):
    layer = pruned(nn.Linear(19, 23), density=0)
    out = SparseLayer(layer, {1: way})(torch.randn(4, 19))
    assert torch.equal(out, layer.bias.expand(4, 23))


def test_a_transposed_linear_layer_keeps_its_shape():
    transformers = pytest.importorskip("transformers.pytorch_utils")
    layer = pruned(transformers.Conv1D(23, 19))
    x = torch.randn(2, 3, 19)
    for way in WAYS:
        swapped = SparseLayer(layer, {1: way})
        assert_like(swapped(x), layer, x, way)
        assert torch.equal(swapped.state_dict()["weight"], layer.weight)
        assert torch.equal(swapped.dense_layer().weight, layer.weight)


@pytest.mark.parametrize(
    "layer", [nn.Linear(19, 23), nn.Linear(19, 23, bias=False), nn.Conv2d(6, 9, 3, groups=3)]
)
def test_its_state_is_the_dense_layers_and_a_dense_one_loads(layer):
    first, second = pruned(layer), pruned(layer, density=0.1)
    swapped = SparseLayer(first, {1: "dense", 8: "kernel", 64: "csr"})
    state, dense = swapped.state_dict(), first.state_dict()
    assert list(state) == list(dense)
    assert all(torch.equal(state[name], dense[name]) for name in dense)
    swapped.load_state_dict(second.state_dict())
    x = torch.randn((40, 19) if isinstance(layer, nn.Linear) else (2, 6, 9, 8))
    assert_like(swapped(x), second, x, "kernel")
    swapped.load_state_dict(first.state_dict(), assign=True)
    assert_like(swapped(x), first, x, "kernel")


def test_what_does_not_fit_is_told_as_the_dense_layer_tells_it():
    swapped = SparseLayer(pruned(nn.Linear(19, 23)), {1: "kernel"})
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        swapped.load_state_dict(nn.Linear(19, 22).state_dict())
    with pytest.raises(RuntimeError, match=r'Missing key.*"bias"'):
        swapped.load_state_dict(nn.Linear(19, 23, bias=False).state_dict())
    with pytest.raises(ValueError, match="takes 19 features"):
        swapped(torch.ones(2, 18))
    with pytest.raises(ValueError, match="takes 6 channels"):
        SparseLayer(pruned(nn.Conv2d(6, 5, 3)), {1: "kernel"})(torch.ones(2, 5, 9, 9))


@every_way
def test_a_copy_is_its_own_and_so_is_one_that_was_saved(way):
    layer = pruned(nn.Linear(19, 23))
    swapped = SparseLayer(layer, {1: way})
    file = io.BytesIO()
    torch.save(swapped, file)
    file.seek(0)
    x = torch.randn(4, 19)
    for copied in (copy.deepcopy(swapped), torch.load(file, weights_only=False)):
        copied.load_state_dict(pruned(nn.Linear(19, 23), density=0).state_dict() | {"bias": torch.ones(23)})
        assert (copied(x) == 1).all()
    assert_like(swapped(x), layer, x, way)


def test_training_is_refused_with_the_way_out():
    swapped = SparseLayer(pruned(nn.Linear(19, 23)), {1: "kernel"})
    x = torch.randn(4, 19, requires_grad=True)
    out = swapped(x)
    with pytest.raises(ValueError, match="densify_"):
        out.sum().backward()
    assert not swapped(x.detach()).requires_grad
    with torch.inference_mode():
        assert torch.equal(swapped(x), out)
    swapped.train()
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        swapped(x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_refused(dtype):
    swapped = SparseLayer(pruned(nn.Linear(19, 23)), {1: "kernel"})
    with pytest.raises(ValueError, match="takes float32 on the CPU"):
        swapped(torch.randn(4, 19).to(dtype))


def test_an_export_is_refused_with_the_way_out():
    model = nn.Sequential(SparseLayer(pruned(nn.Linear(19, 23)), {1: "kernel"})).eval()
    with pytest.raises(ValueError, match="cannot be exported; call"):
        torch.export.export(model, (torch.ones(2, 19),), strict=False)
    assert model(nn.Parameter(torch.ones(2, 19))).shape == (2, 23)


def test_the_dense_layer_comes_back_as_it_was():
    for given in (nn.Linear(19, 23), CONVOLUTIONS["groups"][0], CONVOLUTIONS["reflect"][0]):
        layer = pruned(given)
        layer.weight.requires_grad_(False)
        before = copy.deepcopy(layer.state_dict())
        dense = SparseLayer(layer, {1: "kernel"}).dense_layer()
        assert (type(dense), str(dense), list(dense.state_dict())) == (type(layer), str(layer), list(before))
        assert all(torch.equal(dense.state_dict()[name], before[name]) for name in before)
        assert not dense.weight.requires_grad and not dense.training
        assert dense.bias is layer.bias


def test_the_dense_weight_is_held_only_where_the_plan_needs_it():
    layer = pruned(nn.Linear(200, 100), density=0.1)
    some = int((layer.weight != 0).sum())
    assert SparseLayer(layer, {1: "kernel"}).bytes == 6 * some + 4 * 101
    assert SparseLayer(layer, {1: "kernel", 64: "dense"}).bytes == 6 * some + 4 * 101 + 80_000
