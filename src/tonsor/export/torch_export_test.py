import io
import json
import zipfile

import pytest
import torch
from torch import nn

from tonsor.export import to_torch_export, torch_export


class Baked(nn.Module):
    """Works for two rows and no other number."""

    def forward(self, x):
        return x.reshape(2, -1).sum(1)


class Branching(nn.Module):
    """Its path depends on a value, as a part of its graph."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return torch.cond(x.sum() > 0, self.layer, torch.neg, (x,))


def test_a_model_whose_batch_is_fixed_is_only_taken_where_that_is_said(tmp_path):
    with pytest.raises(ValueError, match="torch cannot export Baked with a free batch size: "):
        to_torch_export(Baked(), torch.randn(2, 3), tmp_path / "a.pt2")
    assert not list(tmp_path.iterdir())
    x = torch.randn(2, 3)
    assert to_torch_export(Baked(), x, tmp_path / "a.pt2", free_batch=False).max_difference == 0
    assert torch.equal(torch.export.load(tmp_path / "a.pt2").module()(x), x.sum(1))


def test_no_line_of_source_stays_in_any_part_of_the_graph(tmp_path):
    to_torch_export(Branching(), torch.randn(2, 3), tmp_path / "a.pt2")
    with zipfile.ZipFile(tmp_path / "a.pt2") as file:
        (graph,) = [file.read(name).decode() for name in file.namelist() if name.endswith("model.json")]
    assert "cond" in graph
    assert ".py" not in graph
    assert "stack_trace" not in graph
    assert json.loads(graph)["graph_module"]["graph"]["nodes"]


def test_half_precision_is_kept(tmp_path):
    model, x = nn.Linear(4, 2).bfloat16(), torch.ones(2, 4).bfloat16()
    assert to_torch_export(model, x, tmp_path / "a.pt2").max_difference == 0
    program = torch.export.load(tmp_path / "a.pt2")
    assert {tensor.dtype for tensor in program.state_dict.values()} == {torch.bfloat16}


def test_a_program_that_computes_something_else_is_never_written(tmp_path, monkeypatch):
    file = io.BytesIO()
    torch.export.save(torch.export.export(nn.Linear(4, 2), (torch.ones(2, 4),)), file)
    monkeypatch.setattr(torch_export, "_to_bytes", lambda *_: file.getvalue())
    with pytest.raises(ValueError, match=r"differ from the model's by .* was not written"):
        to_torch_export(nn.Linear(4, 2), torch.ones(2, 4), tmp_path / "a.pt2", free_batch=False)
    with pytest.raises(ValueError, match="tolerance must be above 0; got 0"):
        to_torch_export(nn.Linear(4, 2), torch.ones(2, 4), tmp_path / "a.pt2", tolerance=0)
    assert not list(tmp_path.iterdir())
