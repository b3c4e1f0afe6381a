import errno
import inspect
import os
import sys
from pathlib import Path
from tempfile import gettempdir

import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils._pytree import tree_leaves

from tonsor.export import FORMATS, Exported

pytestmark = pytest.mark.slow


class Words(nn.Module):
    """An embedding, an LSTM and a linear layer: tokens in, scores of the next token out."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.lstm = nn.LSTM(8, 16, num_layers=2, batch_first=True, dropout=0.5)
        self.out = nn.Linear(16, 20)

    def forward(self, tokens):
        return self.out(self.lstm(self.embedding(tokens))[0])


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x).relu())


class Several(nn.Module):
    """Two inputs, a dict and a tuple of outputs."""

    def forward(self, x, y):
        return {"sum": x + y, "both": (x * y, y.mean(1))}


def mlp():
    return nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, 3))


def convolutions():
    body = (nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    net = nn.Sequential(*body, nn.Linear(16, 3))
    for _ in range(3):
        net(torch.randn(16, 1, 8, 8))  # running statistics that are not those of a new network
    return net


MODELS = {
    "mlp": (mlp, lambda: torch.randn(5, 8)),
    "convolutions": (convolutions, lambda: torch.randn(1, 1, 8, 8)),
    "lstm": (Words, lambda: torch.randint(0, 20, (3, 6))),
    "tied": (Tied, lambda: torch.randn(2, 4)),
    "several": (Several, lambda: (torch.randn(2, 4), torch.randn(2, 4))),
}
every_format = pytest.mark.parametrize("name", FORMATS)
every_model = pytest.mark.parametrize("kind", MODELS)
every_pair = pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name in FORMATS
        for kind in MODELS
        if (name, kind) != ("onnx_int8", "several")  # it has no weights, and says so: int8_test.py
    ],
)
BOUNDS = {
    "onnx_int8": (1e-4, 2e-2)
}  # it rounds, so there is also a least difference; of the others 0 to 1e-5


@pytest.fixture
def built(kind):
    torch.manual_seed(0)
    model, inputs = MODELS[kind]
    return model(), inputs()


def states_of(model):
    flags = {name: module.training for name, module in model.named_modules()}
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return flags, tensors, [id(p) for p in model.parameters()], [p.requires_grad for p in model.parameters()]


@every_format
def test_a_format_obeys_the_one_law(name):
    parameters = inspect.signature(FORMATS[name]).parameters.values()
    positional = [p.name for p in parameters if p.kind is inspect.Parameter.POSITIONAL_ONLY]
    assert positional == ["model", "inputs", "path"]
    tuning = [p for p in parameters if p.name not in positional]
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY and p.default is not p.empty for p in tuning)


@every_pair
def test_an_export_is_one_whole_file_and_leaves_the_model_as_it_was(name, kind, built, tmp_path, capfd):
    model, inputs = built
    model.train()
    for module in list(model.children())[:1]:
        module.eval()
    flags, tensors, identities, wants = states_of(model)
    path = tmp_path / "folder" / f"a.{name}"
    exported = FORMATS[name](model, inputs, path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    differences = (exported.max_difference, exported.rms_difference)
    assert exported == Exported(name, path.name, path.stat().st_size, *differences)
    least, most = BOUNDS.get(name, (0, 1e-5))
    assert all(least <= difference < most for difference in differences)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    after = states_of(model)
    assert (after[0], after[2], after[3]) == (flags, identities, wants)
    assert all(torch.equal(after[1][key], tensor) for key, tensor in tensors.items())


@every_format
@pytest.mark.parametrize("kind", ["mlp"])
def test_the_same_model_gives_the_same_file(name, kind, built, tmp_path):
    for file in ("a", "b"):
        FORMATS[name](*built, tmp_path / file)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@every_format
@pytest.mark.parametrize("kind", ["mlp", "convolutions"])
def test_a_full_disk_leaves_what_stood_there_and_nothing_else(name, kind, built, tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "a"
    path.write_bytes(b"before")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        FORMATS[name](*built, path)
    assert caught.value.errno == errno.ENOSPC
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
    assert path.read_bytes() == b"before"


@every_format
@pytest.mark.parametrize("kind", ["mlp"])
def test_a_file_tells_nothing_of_the_machine_or_of_the_inputs(name, kind, built, tmp_path):
    FORMATS[name](*built, tmp_path / "a")
    data = (tmp_path / "a").read_bytes()
    told = [Path(torch.__file__).parent, Path(__file__).parent, Path.home(), tmp_path, gettempdir()]
    assert not [path for path in told if str(path).encode() in data]
    assert Path(__file__).name.encode() not in data
    assert built[1].numpy().tobytes() not in data


def runner(name, path):
    """Return what runs a file as people would."""
    if name == "torch_export":
        return torch.export.load(path).module()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(*given):
        feed = {taken.name: x.numpy() for taken, x in zip(session.get_inputs(), given, strict=True)}
        return [torch.from_numpy(output) for output in session.run(None, feed)]

    return run


@every_model
@pytest.mark.parametrize("name", ["onnx", "torch_export"])
def test_a_file_computes_what_the_model_does_for_any_batch(name, kind, built, tmp_path):
    model, inputs = built
    FORMATS[name](model, inputs, tmp_path / "a")
    model.eval()
    run = runner(name, tmp_path / "a")
    for batch in (1, 2, 7, 33):
        given = [
            torch.randn(batch, *x.shape[1:])
            if x.is_floating_point()
            else torch.randint(0, 20, (batch, *x.shape[1:]))
            for x in (inputs if isinstance(inputs, tuple) else (inputs,))
        ]
        with torch.no_grad():
            got, expected = tree_leaves(run(*given)), tree_leaves(model(*given))
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["convolutions", "lstm", "tied"])
def test_a_safetensors_file_loads_into_a_new_model(kind, built, tmp_path):
    model, inputs = built
    FORMATS["safetensors"](model, inputs, tmp_path / "a.safetensors")
    new = MODELS[kind][0]()
    new.load_state_dict(load_file(tmp_path / "a.safetensors"))
    assert torch.equal(new.eval()(inputs), model.eval()(inputs))


@pytest.mark.parametrize("name", ["onnx", "onnx_int8"])
@pytest.mark.parametrize("missing", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_named_with_the_way_to_get_it(name, missing, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'tonsor\[export\]'"):
        FORMATS[name](mlp(), torch.randn(2, 8), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())
