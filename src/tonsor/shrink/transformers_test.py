"""Models of transformers from small configurations: heads and feed-forward units go, the model runs."""

import copy

import pytest
import torch
from torch import nn

from tonsor.shrink import channel_groups, shrink_
from tonsor.tensors import apply_masks_

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
transformers = pytest.importorskip("transformers")

TEXT = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
HEADS = {"num_attention_heads": 4}
SHARED = {**HEADS, "num_key_value_heads": 2}
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 1}
SIDES = {
    "vocab_size": 50,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    **ENDS,
}
GPT2 = {"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 16}
T5 = {"vocab_size": 50, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4]}
SEGFORMER = {"hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4, "num_attention_heads": [1, 2, 2, 4]}
WHISPER = {"num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 16}

# The class, its configuration's settings, its inputs, and groups that must be there with their units.
MODELS = {
    "GPT-2": ("GPT2LMHeadModel", {**GPT2, **ENDS}, "text", {"transformer.h.0.attn.c_attn.weight": 4}),
    "Llama": ("LlamaForCausalLM", {**TEXT, **SHARED}, "text", {"model.layers.0.self_attn.q_proj.weight": 2}),
    "Qwen3": (
        "Qwen3ForCausalLM",
        {**TEXT, **SHARED, "head_dim": 8},
        "text",
        {"model.layers.0.self_attn.q_proj.weight": 2},
    ),
    "BERT": ("BertModel", {**TEXT, **HEADS}, "text", {"encoder.layer.0.attention.self.query.weight": 4}),
    "DeBERTa": (
        "DebertaV2Model",
        {**TEXT, **HEADS, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
        "text",
        {"encoder.layer.0.attention.self.query_proj.weight": 4},
    ),
    "T5": (
        "T5ForConditionalGeneration",
        {**T5, **ENDS},
        "both",
        {"encoder.block.0.layer.0.SelfAttention.q.weight": 4},
    ),
    "BART": ("BartModel", SIDES, "text", {"encoder.layers.0.self_attn.k_proj.weight": 4}),
    "Whisper": ("WhisperModel", {**SIDES, **WHISPER}, "sound", {"encoder.conv1.weight": 32}),
    "ViT": (
        "ViTModel",
        {**TEXT, **HEADS, "image_size": 16, "patch_size": 4},
        "image",
        {"layers.0.mlp.fc1.weight": 48},
    ),
    "Swin": ("SwinModel", {**SWIN, "window_size": 4}, "large image", {}),
    "SegFormer": ("SegformerModel", SEGFORMER, "large image", {}),
    "ResNet": (
        "ResNetModel",
        {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1]},
        "large image",
        {"embedder.embedder.convolution.weight": 8},
    ),
}
TOKENS = torch.arange(16).reshape(2, 8)
INPUTS = {
    "text": {"input_ids": TOKENS},
    "both": {"input_ids": TOKENS, "decoder_input_ids": TOKENS[:, :4], "use_cache": False},
    "image": {"pixel_values": torch.randn(2, 3, 16, 16).double()},
    "large image": {"pixel_values": torch.randn(2, 3, 32, 32).double()},
    "sound": {"input_features": torch.randn(2, 8, 32).double(), "decoder_input_ids": TOKENS[:, :4]},
}


def built(name):
    """Return a model in float64 with random norms, and the arguments of one call."""
    kind, settings, inputs, _ = MODELS[name]
    torch.manual_seed(0)
    cls = getattr(transformers, kind)
    model = cls(cls.config_class(**settings)).double().eval()
    model.config.use_cache = False
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter)
    return model, dict(INPUTS[inputs])


def outputs(model, given):
    """Return all numbers that a model gives, in one row."""
    leaves = torch.utils._pytree.tree_leaves(model(**given))
    return torch.cat([leaf.flatten() for leaf in leaves if isinstance(leaf, torch.Tensor)])


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_halved_and_computes_what_the_masked_one_does(name):
    model, given = built(name)
    groups = channel_groups(model, (), given)
    found = {group: each.units for group, each in groups.groups.items()}
    assert MODELS[name][3].items() <= found.items()
    keep = {group: torch.arange(each.units) % 2 == 0 for group, each in groups.groups.items()}
    masks = groups.expand(keep, dict(model.named_parameters()))
    masked = copy.deepcopy(model)
    apply_masks_(dict(masked.named_parameters()), masks)
    shrunk = shrink_(model, groups, masks)
    assert shrunk.max_difference <= 1e-12
    assert set(shrunk.removed) == set(groups.groups)
    torch.testing.assert_close(outputs(model, given), outputs(masked, given), rtol=1e-9, atol=1e-9)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    outputs(model, given).sum().backward()
    optimizer.step()
