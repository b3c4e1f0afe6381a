import copy
import pickle

import onnx
import pytest
import torch
from torch import nn

from tonsor.export import OnnxModel, to_onnx
from tonsor.modes import call

pytestmark = pytest.mark.slow


class Both(nn.Module):
    """Takes numbers and tokens, gives several outputs, one without a batch."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, 4)

    def forward(self, x, tokens):
        y = x + self.table(tokens)
        return y, {"sign": y > 0, "mean": y.mean()}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("onnx") / "both.onnx"
    model = Both()
    to_onnx(model, (torch.randn(3, 4), torch.randint(0, 9, (3,))), path)
    return model.requires_grad_(False), path


@pytest.fixture
def given():
    return torch.randn(5, 4), torch.randint(0, 9, (5,))


def outputs_of(model, *given):
    y, more = model(*given)
    return y, more["sign"], more["mean"]


def same(got, expected):
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)
    return True


@pytest.mark.parametrize("threads", [None, 1, 2])
def test_it_gives_what_the_model_gives_in_the_files_order(threads, file, given):
    model, path = file
    opened = OnnxModel(path, threads=threads)
    assert opened.threads == (threads or torch.get_num_threads())
    assert opened.inputs == ("x", "tokens")
    assert len(opened.outputs) == 3
    assert same(opened(*given), outputs_of(model, *given))
    assert not list(opened.parameters())
    assert opened.state_dict() == {}


def test_inputs_come_in_order_by_name_or_both_and_need_not_be_contiguous(file, given):
    model, path = file
    x, tokens = torch.randn(4, 5).t(), given[1]
    expected = outputs_of(model, x, tokens)
    opened = OnnxModel(path)
    assert same(opened(x, tokens=tokens), expected)
    assert same(call(opened, {"tokens": tokens, "x": x.requires_grad_()}), expected)
    assert not opened(x, tokens)[0].requires_grad


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_opens_the_file_anew(again, file, given):
    model, path = file
    copied = again(OnnxModel(path, threads=1).eval())
    assert (copied.path, copied.threads, copied.training) == (path, 1, False)
    assert same(copied(*given), outputs_of(model, *given))


@pytest.mark.parametrize(
    ("inputs", "named", "told"),
    [
        ((torch.ones(2, 4),), {}, "both.onnx: takes x, tokens; got 1 in order"),
        ((torch.ones(2, 4),), {"x": torch.ones(2, 4)}, "takes x, tokens; got 1 in order, x"),
        ((torch.ones(2, 4),) * 3, {}, "got 3 in order"),
        ((torch.ones(2, 4),), {"token": torch.ones(2)}, "unknown input 'token'; did you mean 'tokens'?"),
        ((torch.ones(2, 4), torch.ones(2)), {}, "input 'tokens' must be torch.int64; got torch.float32"),
        (([1.0], torch.ones(2)), {}, "input 'x' must be torch.float32; got list"),
        ((torch.ones(2, 7), torch.ones(2).long()), {}, "ONNX Runtime cannot run it: .*Got: 7 Expected: 4"),
    ],
)
def test_inputs_that_are_not_the_files_are_refused(inputs, named, told, file):
    with pytest.raises(ValueError, match=told):
        OnnxModel(file[1])(*inputs, **named)


def test_what_is_no_file_for_it_is_refused(tmp_path, file):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.onnx"):
        OnnxModel(tmp_path / "none.onnx")
    (tmp_path / "broken.onnx").write_bytes(file[1].read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"ONNX Runtime cannot read .*broken\.onnx"):
        OnnxModel(tmp_path / "broken.onnx")
    with pytest.raises(ValueError, match="threads must be at least 1; got 0"):
        OnnxModel(file[1], threads=0)
    text = "a (string[N] x) => (string[N] y) { y = Identity(x) }"
    words = onnx.helper.make_model(
        onnx.parser.parse_graph(text), ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 18)]
    )
    onnx.save_model(words, tmp_path / "words.onnx")
    with pytest.raises(ValueError, match=r"'x' is a tensor\(string\); expected one of"):
        OnnxModel(tmp_path / "words.onnx")
