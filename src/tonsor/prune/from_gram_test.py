import pytest
import torch
from torch import nn

from tonsor.prune import collect


class Conv1D(nn.Module):
    """A linear layer that stores (in, out), as Hugging Face's GPT-2 has it."""

    def __init__(self, outputs, inputs):
        super().__init__()
        self.nf = outputs
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        return x @ self.weight + self.bias


def second_moment(rows):
    return rows.T @ rows / len(rows)


CONVOLUTIONS = {
    "plain": (nn.Conv2d(3, 4, 3), (5, 3, 7, 8)),
    "strided": (nn.Conv2d(3, 4, (2, 3), stride=(2, 1), dilation=(1, 2), padding=(1, 2)), (5, 3, 9, 8)),
    "reflect": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (5, 3, 7, 8)),
    "circular": (nn.Conv1d(3, 4, 3, padding=2, padding_mode="circular"), (5, 3, 9)),
    "same": (nn.Conv2d(3, 4, (3, 5), padding="same", dilation=2), (5, 3, 7, 8)),
    "groups": (nn.Conv2d(4, 6, 3, groups=2, stride=2), (5, 4, 7, 8)),
    "depthwise": (nn.Conv1d(4, 8, 3, groups=4), (5, 4, 9)),
    "three": (nn.Conv3d(2, 3, 2, padding=1), (2, 2, 4, 5, 3)),
    "one image": (nn.Conv2d(3, 4, 3), (3, 7, 8)),
    "linear": (nn.Linear(3, 4), (5, 6, 3)),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_weight_times_gram_times_weight_is_the_second_moment_of_the_outputs(kind):
    layer, shape = CONVOLUTIONS[kind]
    layer, x = layer.double(), torch.randn(shape, dtype=torch.float64)
    found = collect(layer, [(x, None)], names=["input_gram", "input_mean"])["weight"]
    with torch.no_grad():
        output = layer(x)
        bias = layer.bias.view(-1, *[1] * (layer.weight.ndim - 2)) if kind != "linear" else layer.bias
        output = output - bias
    channel = -1 if kind == "linear" else output.ndim - layer.weight.ndim + 1
    rows = output.movedim(channel, -1).flatten(0, -2)
    groups = len(found["input_gram"])
    weight = layer.weight.detach().reshape(groups, len(layer.weight) // groups, -1)
    moment = weight @ found["input_gram"] @ weight.mT
    for group, part in enumerate(rows.chunk(groups, dim=1)):
        torch.testing.assert_close(moment[group], second_moment(part))
        mean = weight[group] @ found["input_mean"][group]
        torch.testing.assert_close(mean, part.mean(0))


def test_a_transposed_linear_layer_is_seen_like_any_other():
    model, x = Conv1D(4, 3), torch.randn(9, 3)
    found = collect(model, [(x, None)], names=["input_gram"], weights=["weight"])["weight"]["input_gram"]
    torch.testing.assert_close(found, second_moment(x)[None])


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("sizes", [{}, {"kdim": 3, "vdim": 5}])
def test_projections_of_attention_are_seen_though_it_calls_no_layer(batch_first, sizes):
    attention = nn.MultiheadAttention(4, 2, batch_first=batch_first, **sizes)
    q, k, v = (torch.randn(6, 7, n) for n in (4, sizes.get("kdim", 4), sizes.get("vdim", 4)))
    names = [name for name, p in attention.named_parameters() if p.ndim > 1]
    mask = torch.ones(7 if batch_first else 6, 7 if batch_first else 6).tril().log()
    inputs = {"query": q, "key": k, "value": v, "attn_mask": mask}
    found = collect(attention, [(inputs, None)], names=["input_gram"], weights=names)
    wanted = [second_moment(x.flatten(0, 1)) for x in (q, k, v)]
    own = [gram for name in names if "out_proj" not in name for gram in found[name]["input_gram"]]
    torch.testing.assert_close(own, wanted)
    with torch.no_grad():
        output = attention(**inputs)[0].flatten(0, 1) - attention.out_proj.bias
    weight = attention.out_proj.weight.detach()
    moment = weight @ found["out_proj.weight"]["input_gram"][0] @ weight.T
    torch.testing.assert_close(moment, second_moment(output))


def test_batches_of_all_sizes_count_by_their_positions():
    model, x = nn.Linear(3, 2), torch.randn(10, 3)
    whole = collect(model, [(x, None)], names=["input_gram"])
    parts = collect(model, [(x[:7], None), (x[7:], None)], names=["input_gram"])
    torch.testing.assert_close(whole, parts)


def test_half_precision_is_summed_wide():
    model = nn.Linear(3, 2).bfloat16()
    found = collect(model, [(torch.full((9, 3), 0.5).bfloat16(), None)], names=["input_gram"])
    assert found["weight"]["input_gram"].dtype is torch.float32
    assert (found["weight"]["input_gram"] == 0.25).all()


@pytest.mark.parametrize("statistic", ["input_gram", "input_mean"])
def test_a_weight_without_input_features_is_named(statistic):
    with pytest.raises(ValueError, match=rf"'{statistic}' is not defined for 'weight' of Embedding"):
        collect(nn.Embedding(3, 4), [], names=[statistic], weights=["weight"])


def test_a_tied_weight_is_refused():
    model = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 4))
    model[1].weight = model[0].weight
    with pytest.raises(ValueError, match="untied weights"):
        collect(model, [], names=["input_gram"], weights=["1.weight"])


def test_a_layer_that_is_not_called_is_named():
    model = nn.Linear(3, 3)
    model.spare = nn.Linear(3, 3)
    with pytest.raises(ValueError, match=r"no input was seen for weight 'spare\.weight'"):
        collect(model, [(torch.ones(2, 3), None)], names=["input_gram"], weights=["spare.weight"])
