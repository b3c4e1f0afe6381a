import logging

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from tonsor.export import int8, to_onnx_int8
from tonsor.export.onnx import onnx_bytes

pytestmark = pytest.mark.slow


class Language(nn.Module):
    """Scores of the next token, whose last layer is the embedding itself."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(40, 12)
        self.inner = nn.Linear(12, 12)
        self.out = nn.Linear(12, 40, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, tokens):
        return self.out(self.inner(self.embedding(tokens)).relu())


class Spiked(nn.Module):
    """A residual stream with an outlier, as pretrained transformers have, and a mask of infinities."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(16, 16), nn.Linear(16, 4)
        self.register_buffer("spike", torch.eye(16)[3] * 1000)
        self.register_buffer("mask", torch.zeros(16).index_fill(0, torch.tensor([5]), -torch.inf))

    def forward(self, x):
        stream = self.first(x) + self.spike
        attended = torch.where(self.mask < 0, self.mask, x).softmax(-1)
        return self.last(stream - self.spike + attended)


@pytest.fixture(scope="module")
def whole():
    torch.manual_seed(0)
    layer = nn.Linear(6, 3).eval()
    return layer, onnx_bytes(layer, (torch.randn(4, 6),), "export.onnx_int8")


@pytest.fixture
def layer(whole, monkeypatch):
    """A layer that torch exports once for all tests, which takes longest."""
    monkeypatch.setattr(int8, "onnx_bytes", lambda *_: whole[1])
    return whole[0]


def weights_of(path):
    held = onnx.load(path).graph.initializer
    return [w for w in held if w.data_type == onnx.TensorProto.INT8 and len(w.dims) > 1]


def test_weights_are_the_nearest_of_255_levels_for_each_output(layer, tmp_path):
    to_onnx_int8(layer, torch.randn(32, 6), tmp_path / "a", reduce_range=False)
    (held,) = weights_of(tmp_path / "a")
    levels = onnx.numpy_helper.to_array(held)
    levels = levels if levels.shape == (3, 6) else levels.T
    weight = layer.weight.detach().double().numpy()
    step = np.abs(weight).max(1, keepdims=True) / 127
    assert np.abs(levels - weight / step).max() <= 0.5 + 1e-3
    assert np.abs(levels).max() == 127


def test_seven_bits_are_kept_where_sums_overflow_or_where_one_asks_for_it(layer, tmp_path, monkeypatch):
    x = torch.randn(32, 6)
    to_onnx_int8(layer, x, tmp_path / "asked", ranges="dynamic", reduce_range=True)
    monkeypatch.setattr(int8, "overflows", lambda: True)
    to_onnx_int8(layer, x, tmp_path / "found")
    for name in ("asked", "found"):
        (held,) = weights_of(tmp_path / name)
        assert np.abs(onnx.numpy_helper.to_array(held)).max() == 64


def test_ranges_come_from_the_calibration(layer, tmp_path):
    x = torch.randn(32, 6)
    whole = to_onnx_int8(layer, x, tmp_path / "whole")
    to_onnx_int8(layer, x, tmp_path / "parts", calibration=(x[i : i + 8] for i in range(0, 32, 8)))
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()
    assert whole.rms_difference < 0.02
    with pytest.raises(ValueError, match=r"int8 changes the outputs by \d+\.\d% of their norm; .*=20\.0%"):
        to_onnx_int8(layer, x, tmp_path / "a", calibration=[x / 10])
    assert not (tmp_path / "a").exists()
    assert to_onnx_int8(layer, x, tmp_path / "a", calibration=[x / 10], tolerance=2.0).rms_difference > 0.2


@pytest.mark.parametrize("ranges", ["minmax", "entropy", "percentile", "dynamic"])
def test_every_way_to_find_ranges_works_on_tied_weights_and_tokens_without_a_word(ranges, tmp_path, capfd):
    torch.manual_seed(0)
    handlers, levels = list(logging.getLogger().handlers), logging.getLogger().level
    tokens = torch.randint(0, 40, (16, 5))
    exported = to_onnx_int8(Language(), tokens, tmp_path / "a", ranges=ranges)
    assert 1e-4 < exported.rms_difference < 0.03
    assert (logging.getLogger().handlers, logging.getLogger().level) == (handlers, levels)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_outliers_and_masks_of_infinities_do_not_take_a_model_apart(tmp_path):
    torch.manual_seed(0)
    exported = to_onnx_int8(Spiked(), torch.randn(32, 16), tmp_path / "a")
    assert exported.rms_difference < 0.03


def test_a_layer_that_is_called_twice_stays_one_layer(tmp_path):
    torch.manual_seed(0)
    layer = nn.Linear(6, 6)  # square, so that a transposed one would run
    model, x = nn.Sequential(layer, nn.ReLU(), layer), torch.randn(32, 6)
    assert to_onnx_int8(model, x, tmp_path / "a", ranges="dynamic").rms_difference < 0.03


def test_embeddings_and_layers_take_a_quarter_of_the_bytes(tmp_path):
    model, x = nn.Sequential(nn.Embedding(500, 64), nn.Linear(64, 256)), torch.randint(0, 500, (64, 3))
    float_bytes = sum(4 * weight.numel() for weight in model.parameters())
    for ranges in ("minmax", "dynamic"):
        assert to_onnx_int8(model, x, tmp_path / "a", ranges=ranges).bytes < 0.3 * float_bytes


def test_a_convolution_is_computed_in_int8_and_the_last_layer_gives_floats(tmp_path):
    body = (nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3))
    to_onnx_int8(nn.Sequential(*body), torch.randn(16, 1, 8, 8), tmp_path / "a")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "run")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(tmp_path / "a", options, providers=["CPUExecutionProvider"])
    operations = [node.op_type for node in onnx.load(tmp_path / "run").graph.node]
    assert {"QLinearConv", "QGemm"} <= set(operations)
    assert not {"Conv", "Gemm", "DequantizeLinear"} & set(operations)


@pytest.mark.parametrize(
    ("model", "keys", "told"),
    [
        (nn.ReLU(), {}, 'ReLU has nothing to quantize with ranges="minmax"; expected convolutions, linear'),
        (nn.Linear(8, 2).double(), {}, "expected convolutions, linear layers or embeddings of float32"),
        (nn.Conv1d(4, 2, 1), {"ranges": "dynamic"}, "expected LSTMs, linear layers or embeddings"),
        (nn.Linear(8, 2), {"ranges": "entropi"}, "unknown ranges 'entropi'; did you mean 'entropy'"),
        (nn.Linear(8, 2), {"tolerance": 0}, "tolerance must be above 0; got 0"),
    ],
)
def test_what_int8_cannot_do_is_refused_with_the_reason(model, keys, told, tmp_path):
    x = torch.randn(2, 4, 8, dtype=next(model.parameters(), torch.ones(1)).dtype)
    with pytest.raises(ValueError, match=told):
        to_onnx_int8(model, x, tmp_path / "a", **keys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("calibration", "told"),
    [
        ([], "calibration is empty; expected at least one batch"),
        ([(1, 2)], "input 0 must be a tensor with the batch first"),
        (
            [torch.ones(2, 6), (torch.ones(2, 6),) * 2],
            r"batch 1 .* 2 inputs; .* 1 \(input\); leave targets out",
        ),
        ([torch.ones(2, 9)], "cannot quantize the model: .*shaped like the inputs"),
        ([torch.ones(2, 6) * torch.nan], "cannot quantize the model: .* values finite"),
    ],
)
def test_a_wrong_calibration_is_refused(calibration, told, layer, tmp_path):
    with pytest.raises(ValueError, match=told):
        to_onnx_int8(layer, torch.randn(2, 6), tmp_path / "a", calibration=calibration)
    assert not list(tmp_path.iterdir())
