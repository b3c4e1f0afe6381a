import logging
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from tonsor.export import onnx as onnx_file
from tonsor.export import to_onnx


class Baked(nn.Module):
    """Works for two rows and no other number."""

    def forward(self, x):
        return x.reshape(2, -1).sum(1)


class Choosing(nn.Module):
    """Its path depends on a value."""

    def forward(self, x):
        return x if x.sum() > 0 else -x


class SecondUnused(nn.Module):
    """Takes an input that it does not look at."""

    def forward(self, x, y):
        return x * 2


class Flagged(nn.Module):
    """Gives infinities and huge values, as attention masks do."""

    def forward(self, x):
        return torch.where(x > 0, x, -torch.inf)


def test_the_file_holds_one_graph_with_a_free_batch_and_no_path_of_this_machine(tmp_path):
    to_onnx(nn.Linear(4, 2), torch.randn(3, 4), tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    batch, width = model.graph.input[0].type.tensor_type.shape.dim
    assert batch.dim_param and not batch.dim_value
    assert width.dim_value == 4
    data = (tmp_path / "a.onnx").read_bytes()
    assert str(Path(torch.__file__).parent).encode() not in data
    assert Path(__file__).name.encode() not in data


def test_a_model_whose_batch_is_fixed_is_refused_with_the_reason(tmp_path):
    with pytest.raises(ValueError, match=r"cannot export Baked with a free batch size: .*batch|size"):
        to_onnx(Baked(), torch.randn(2, 3), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_a_model_that_cannot_be_traced_is_refused_without_noise(tmp_path, capfd):
    with pytest.raises(ValueError, match="cannot export Choosing"):
        to_onnx(Choosing(), torch.randn(2, 3), tmp_path / "a.onnx")
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_bfloat16_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(ValueError, match=r"no bfloat16 .* export model\.float\(\)"):
        to_onnx(nn.Linear(4, 2).bfloat16(), torch.ones(2, 4).bfloat16(), tmp_path / "a.onnx")


def test_an_input_that_is_not_used_is_no_obstacle(tmp_path):
    exported = to_onnx(SecondUnused(), (torch.randn(2, 3), torch.randn(2, 1)), tmp_path / "a.onnx")
    assert exported.max_difference == 0


def test_equal_infinities_are_no_difference(tmp_path):
    assert to_onnx(Flagged(), torch.randn(4, 3), tmp_path / "a.onnx").max_difference == 0


def test_a_file_that_computes_something_else_is_never_written(tmp_path, monkeypatch):
    other = nn.Linear(4, 2)
    write = onnx_file.onnx_bytes
    monkeypatch.setattr(onnx_file, "onnx_bytes", lambda _, *given: write(other, *given))
    with pytest.raises(ValueError, match=r"differ from the model's by .* was not written"):
        to_onnx(nn.Linear(4, 2), torch.randn(3, 4), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_a_model_that_gives_no_number_is_refused(tmp_path):
    layer = nn.Linear(4, 2)
    nn.init.constant_(layer.bias, float("nan"))
    with pytest.raises(ValueError, match="differ from the model's by nan"):
        to_onnx(layer, torch.randn(3, 4), tmp_path / "a.onnx")


@pytest.mark.parametrize("inputs", [torch.tensor(1.0), torch.ones(0, 4), (torch.ones(2, 4), 3)])
def test_an_input_without_a_batch_is_refused(inputs, tmp_path):
    with pytest.raises(ValueError, match="must be a tensor with the batch first"):
        to_onnx(nn.Linear(4, 2), inputs, tmp_path / "a.onnx")


def test_a_tolerance_that_allows_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="tolerance must be above 0; got 0"):
        to_onnx(nn.Linear(4, 2), torch.ones(2, 4), tmp_path / "a.onnx", tolerance=0)


def test_a_model_bigger_than_an_onnx_file_is_refused_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "LIMIT", 71)
    with pytest.raises(ValueError, match="at most 71 bytes; model and inputs have 72"):
        to_onnx(nn.Linear(4, 2), torch.ones(2, 4), tmp_path / "a.onnx")


def test_logging_is_as_it_was(tmp_path):
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.fx")]
    levels = [logger.level for logger in loggers]
    to_onnx(nn.Linear(4, 2), torch.ones(2, 4), tmp_path / "a.onnx")
    assert [logger.level for logger in loggers] == levels
