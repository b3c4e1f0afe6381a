import pytest
import torch
from torch import nn

from tonsor.report import latency, size
from tonsor.report.measure import WARM_UP


class Words(nn.Module):
    """An embedding, a recurrent layer and a linear layer."""

    def __init__(self, recurrent):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.recurrent = recurrent
        self.out = nn.Linear(16, 20)

    def forward(self, tokens):
        return self.out(self.recurrent(self.embedding(tokens))[0])


class Noting(nn.Module):
    """Writes down that it was called, by which name, with how many rows, and in which mode."""

    def __init__(self, name, calls):
        super().__init__()
        self.name, self.calls = name, calls

    def forward(self, x):
        self.calls.append((self.name, len(x), self.training, torch.is_grad_enabled()))
        return x


class Attending(nn.Module):
    """Attention without any layer."""

    def forward(self, x):
        return nn.functional.scaled_dot_product_attention(x, x, x)


tokens = torch.randint(0, 20, (3, 5))
encoder = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
CASES = {  # model, inputs, multiply-accumulates of one sample, counted by hand
    "linear": (nn.Linear(3, 4), torch.ones(7, 3), 3 * 4),
    "convolution": (nn.Conv2d(4, 8, 3, groups=2), torch.ones(2, 4, 6, 6), 16 * 8 * (4 // 2) * 9),
    "lstm": (Words(nn.LSTM(8, 16, batch_first=True)), tokens, 5 * (4 * 16 * (8 + 16) + 16 * 20)),
    "gru": (Words(nn.GRU(8, 16, batch_first=True)), tokens, 5 * (3 * 16 * (8 + 16) + 16 * 20)),
    "attention": (Attending(), torch.ones(3, 2, 5, 8), 2 * 2 * 5 * 5 * 8),
    "encoder": (encoder, torch.ones(3, 5, 16), 5 * (4 * 16 * 16 + 2 * 16 * 32) + 2 * 5 * 5 * 16),
}


@pytest.mark.parametrize("model, inputs, expected", CASES.values(), ids=CASES)
@pytest.mark.parametrize("training", [True, False])
def test_macs_are_those_counted_by_hand_for_one_sample(model, inputs, expected, training):
    assert size(model.train(training), inputs)["macs"] == expected


def test_a_tied_weight_counts_once_and_zeros_are_no_nonzeros():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    nn.init.eye_(model[0].weight)
    assert size(model, torch.ones(1, 3)) == {"parameters": 9, "nonzeros": 3, "macs": 18}


def test_measuring_leaves_the_model_and_torch_as_they_were():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout())
    model[1].eval()
    flags = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    chance = torch.get_rng_state()
    settings = (torch.backends.mkldnn.enabled, torch.backends.mha.get_fastpath_enabled())
    size(model, torch.ones(4, 3))
    latency({"a": model, "b": model}, torch.ones(4, 3), batches=(1,), rounds=1)
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), chance)
    assert (torch.backends.mkldnn.enabled, torch.backends.mha.get_fastpath_enabled()) == settings


def test_the_model_is_left_as_it_was_when_it_fails():
    model = nn.Linear(3, 3)
    fast = torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(RuntimeError, match="shapes"):
        size(model, torch.ones(4, 7))
    assert model.training
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_models_take_turns_in_evaluation_mode_without_gradients():
    calls = []
    models = {name: Noting(name, calls) for name in "abc"}
    times = latency(models, torch.ones(5, 2), batches=(2, 8), rounds=20)
    assert {call[2:] for call in calls} == {(False, False)}
    for batch in (2, 8):
        names = [name for name, length, *_ in calls if length == batch]
        turns = [names[place : place + 3] for place in range(0, len(names), 3)]
        assert len(turns) == WARM_UP + 20
        assert all(sorted(turn) == ["a", "b", "c"] for turn in turns)
        assert len(set(map(tuple, turns))) == 6  # every order comes up
    assert {name: list(of) for name, of in times.items()} == {name: ["2", "8"] for name in "abc"}
    assert all(0 < t["low"] <= t["median"] <= t["high"] for of in times.values() for t in of.values())


def test_more_work_takes_more_time():
    sizes = {"small": 8, "big": 1024}
    models = {name: nn.Linear(width, width) for name, width in sizes.items()}
    few = latency({"small": models["small"]}, torch.ones(1, 8), batches=(64,), rounds=11)
    many = latency({"big": models["big"]}, torch.ones(1, 1024), batches=(64,), rounds=11)
    assert few["small"]["64"]["median"] < many["big"]["64"]["median"]


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"batches": (1, 0)}])
def test_a_setting_that_measures_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match="must be at least 1; got rounds="):
        latency({"a": nn.Linear(1, 1)}, torch.ones(1, 1), **wrong)
