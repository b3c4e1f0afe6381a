"""Models of transformers lose width and the inside of their heads; norms written by hand are the oracle."""

import copy

import pytest
import torch
from torch import nn

from tonsor.shrink import channel_groups, shrink_
from tonsor.shrink.transformers_test import ENDS, GPT2, HEADS, INPUTS, SHARED, SIDES, SWIN, T5, TEXT
from tonsor.tensors import apply_masks_

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
transformers = pytest.importorskip("transformers")

# The class, its configuration's settings, its inputs, the stream's first weight, and what lies in it too.
MODELS = {
    "GPT-2": (
        "GPT2LMHeadModel",
        {**GPT2, "n_layer": 1, **ENDS},
        "text",
        "transformer.wte.weight",
        {"transformer.wpe.weight", "transformer.ln_f.weight"},
    ),
    "Llama, tied": (
        "LlamaForCausalLM",
        {**TEXT, **SHARED, "tie_word_embeddings": True},
        "text",
        "model.embed_tokens.weight",
        {"model.norm.weight", "model.layers.0.self_attn.q_proj.weight"},
    ),
    "BERT": (
        "BertForSequenceClassification",
        {**TEXT, **HEADS},
        "text",
        "bert.embeddings.word_embeddings.weight",
        {"bert.embeddings.position_embeddings.weight", "bert.embeddings.LayerNorm.bias"},
    ),
    "ViT": (
        "ViTForImageClassification",
        {**TEXT, **HEADS, "image_size": 16, "patch_size": 4},
        "image",
        "vit.embeddings.patch_embeddings.projection.weight",
        {"vit.embeddings.cls_token", "vit.embeddings.position_embeddings"},
    ),
    "T5": ("T5ForConditionalGeneration", {**T5, "num_layers": 1, **ENDS}, "both", "shared.weight", set()),
    "BART": ("BartForConditionalGeneration", SIDES, "text", "model.shared.weight", set()),
    "Swin": (
        "SwinForImageClassification",
        {**SWIN, "depths": [1, 1], "window_size": 4},
        "large image",
        "swin.embeddings.patch_embeddings.projection.weight",
        {"swin.encoder.layers.0.downsample.norm.weight"},
    ),
    "ConvNeXt V2": (
        "ConvNextV2ForImageClassification",
        {"hidden_sizes": [8, 12], "depths": [1, 1], "num_stages": 2},
        "large image",
        "convnextv2.embeddings.patch_embeddings.weight",
        {"convnextv2.encoder.stages.1.downsampling_layer.1.weight"},
    ),
}


class Logits(nn.Module):
    """Return a model's logits alone: hidden states that leave a model keep their width."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, **given):
        return self.inner(**given).logits


def masked_norm(module, stays):
    """Return a norm's forward with every mean taken over what stays, as a weighted sum."""
    count = stays.sum()

    def standard(x):
        centred = (
            x - (x * stays).sum(-1, keepdim=True) / count if getattr(module, "bias", None) is not None else x
        )
        eps = module.eps if hasattr(module, "eps") else module.variance_epsilon
        made = centred / ((centred**2 * stays).sum(-1, keepdim=True) / count + eps).sqrt() * module.weight
        return made if centred is x else made + module.bias

    def response(x):
        length = (x**2).sum((1, 2), keepdim=True).sqrt()
        share = length / ((length * stays).sum(-1, keepdim=True) / count + 1e-6)
        return module.weight * (x * share) + module.bias + x

    if "GRN" in type(module).__name__:
        return response
    first = getattr(module, "data_format", "") == "channels_first"
    return lambda x: standard(x.movedim(1, -1)).movedim(-1, 1) if first else standard(x)


def masked_by_hand(model, masks):
    """Return a copy with zeros and with norms over what stays."""
    masked = copy.deepcopy(model)
    apply_masks_(dict(masked.named_parameters()), masks)
    for name, module in masked.named_modules():
        if "Norm" in type(module).__name__ or "GRN" in type(module).__name__:
            object.__setattr__(
                module, "forward", masked_norm(module, masks[f"{name}.weight"].flatten().double())
            )
    return masked


@pytest.mark.parametrize("name", MODELS)
def test_width_goes_through_all_norms_and_embeddings(name):
    kind, settings, inputs, stream, beside = MODELS[name]
    torch.manual_seed(0)
    cls = getattr(transformers, kind)
    model = Logits(cls(cls.config_class(**settings)).double().eval())
    model.inner.config.use_cache = False
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter)
    given = dict(INPUTS[inputs])
    groups = channel_groups(model, (), given, width=True, head_dim=True)
    slices = {part.parameter for part in groups.groups[f"inner.{stream}"].slices}
    assert {f"inner.{other}" for other in beside} <= slices
    keep = {group: torch.arange(each.units) % 4 != 1 for group, each in groups.groups.items()}
    masks = groups.expand(keep, dict(model.named_parameters()))
    oracle = masked_by_hand(model, masks)
    shrunk = shrink_(model, groups, masks)
    assert set(shrunk.removed) == set(groups.groups)
    assert shrunk.max_difference <= 1e-12
    close = (
        1e-6 if "Llama" in name or "T5" in name else 1e-9
    )  # these norms compute in float32, whatever they are given
    torch.testing.assert_close(model(**given), oracle(**given), rtol=close, atol=close)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model(**given).sum().backward()
    optimizer.step()
