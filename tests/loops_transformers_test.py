"""`attach` and the callback in Hugging Face's real Trainer, with random networks, against a torch loop."""

import shutil
from functools import partial

import pytest
import torch

import tonsor
from loops import BOUND, weights
from tonsor.clip import AutoClip, global_norm

transformers = pytest.importorskip("transformers")
from tonsor.integrations.transformers import FILE, Attach  # noqa: E402

pytestmark = pytest.mark.slow
CLIP = partial(global_norm, max_norm=BOUND)
NAME = "transformer.h.0.mlp.c_fc.weight"
MASKS = {NAME: torch.arange(16 * 64).reshape(16, 64) % 3 > 0}
RATE = 1e-2


def gpt2():
    """Return a language model of 8,000 weights, its first and last layer tied."""
    torch.manual_seed(0)
    sizes = {"n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
    quiet = {"resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0, "bos_token_id": 0, "eos_token_id": 0}
    config = transformers.GPT2Config(vocab_size=32, **sizes, **quiet)
    return transformers.GPT2LMHeadModel(config)


def bert():
    """Return a classifier."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    quiet = {"hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0}
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(vocab_size=32, **sizes, **quiet)
    )


def texts(count=32):
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(0, 32, (count, 8), generator=generator)
    return [{"input_ids": row, "labels": row} for row in rows]


class Spy:
    """A collator that keeps what the Trainer draws, in its order."""

    def __init__(self):
        self.batches = []

    def __call__(self, rows):
        batch = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
        self.batches.append(batch)
        return batch


def trained(folder, model, *, attached=None, data=None, resume=None, **settings):
    """Train as users do, and return the Trainer and the batches in order."""
    settings = {"max_grad_norm": 0, "logging_steps": 2, "save_strategy": "no", **settings}
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        per_device_train_batch_size=4,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        **settings,
    )
    spy, own = Spy(), torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    if isinstance(attached, dict):
        attached = tonsor.attach(own, model=model, **attached)
        ours = {"optimizers": (own, None)}
    else:
        ours = {"callbacks": [attached] if attached else []}
    trainer = transformers.Trainer(model, arguments, train_dataset=data or texts(), data_collator=spy, **ours)
    trainer.train(resume_from_checkpoint=resume)
    return trainer, attached, spy.batches


def plain(model, batches, *, accumulate=1, dtype=None, zero=lambda model: None, after=lambda model: None):
    """Train by hand on the same batches, with torch's own clip."""
    optimizer, norms = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0), []
    for i, batch in enumerate(batches):
        tokens = batch["labels"].numel() * accumulate  # what the Trainer divides the summed loss by
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is not None):
            model(**batch, num_items_in_batch=torch.tensor(tokens)).loss.backward()
        if (i + 1) % accumulate == 0:
            zero(model)
            norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), BOUND).item())
            optimizer.step()
            after(model)
            optimizer.zero_grad()
    return weights(model), norms


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_the_trainer_clips_the_sum_after_backward(accumulate, dtype, tmp_path):
    model = gpt2()
    settings = {"gradient_accumulation_steps": accumulate, "bf16": dtype is not None, "num_train_epochs": 1}
    _, attached, batches = trained(tmp_path, model, attached={"clip": CLIP}, **settings)
    expected, norms = plain(gpt2(), batches, accumulate=accumulate, dtype=dtype)
    rough = 1e-5 if dtype is None else 2e-2
    assert [row["before"] for row in attached.history.rows()] == pytest.approx(norms, rel=rough)
    assert len(norms) == 8 // accumulate
    assert (weights(model) - expected).abs().max() < (1e-4 if dtype is None else 0.02)
    assert all(row["after"] <= BOUND * (1 + 1e-5) for row in attached.history.rows())


def test_the_default_clip_of_the_trainer_is_told(tmp_path):
    with pytest.warns(UserWarning, match="another clip is already on"):
        trained(
            tmp_path,
            gpt2(),
            attached={"clip": partial(global_norm, max_norm=2e-2)},
            max_grad_norm=5e-2,
            num_train_epochs=3,
        )
    with pytest.warns(UserWarning, match=r"clips at max_grad_norm=1\.0 before our rule"):
        trained(tmp_path, gpt2(), attached=Attach(clip=CLIP), max_grad_norm=1.0, num_train_epochs=1)


def test_masks_hold_and_constraints_come_last(tmp_path):
    model, off = gpt2(), ~MASKS[NAME]
    callback = Attach(clip=CLIP, masks=MASKS, constrain=partial(tonsor.constrain.value, clip_value=0.05))
    _, _, batches = trained(tmp_path, model, attached=callback, num_train_epochs=1)

    def zero(model):
        model.get_parameter(NAME).grad[off] = 0

    def after(model):
        with torch.no_grad():
            model.get_parameter(NAME)[off] = 0
            for p in model.parameters():
                p.clamp_(-0.05, 0.05)

    expected, _ = plain(gpt2(), batches, zero=zero, after=after)
    torch.testing.assert_close(weights(model), expected, rtol=1e-4, atol=1e-5)
    assert (model.get_parameter(NAME)[off] == 0).all()


def test_the_callback_adds_to_the_logs_and_takes_the_rules_off(tmp_path):
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(0, 32, (32, 8), generator=generator)
    data = [{"input_ids": row, "labels": row[0] % 2} for row in rows]
    model = bert()
    trainer, callback, batches = trained(
        tmp_path, model, attached=Attach(clip=CLIP), data=data, num_train_epochs=1
    )
    expected, norms = plain(bert(), batches)
    torch.testing.assert_close(weights(model), expected, rtol=1e-4, atol=1e-5)
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert [log["clip/norm"] for log in logs] == pytest.approx(norms[1::2], rel=1e-5)
    assert [log["clip/norm"] for log in logs] == pytest.approx([log["grad_norm"] for log in logs], rel=1e-5)
    over = [norm > BOUND for norm in norms]
    assert [log["clip/share"] for log in logs] == [
        (a + b) / 2 for a, b in zip(over[::2], over[1::2], strict=True)
    ]
    assert not trainer.optimizer.optimizer._optimizer_step_pre_hooks
    assert len(callback.attached.history) == 8


def test_a_resumed_training_clips_as_one_that_was_never_stopped(tmp_path):
    def run(callback, **settings):
        model = gpt2()
        trained(
            tmp_path,
            model,
            attached=callback,
            save_strategy="steps",
            save_steps=4,
            num_train_epochs=1,
            **settings,
        )
        return weights(model), callback.attached.history.rows()

    expected, rows = run(Attach(clip=AutoClip(percentile=50)))
    shutil.rmtree(tmp_path / "checkpoint-8")
    got, told = run(Attach(clip=AutoClip(percentile=50)), resume=str(tmp_path / "checkpoint-4"))
    assert torch.equal(got, expected)
    assert told == rows and len(rows) == 8
    (tmp_path / "checkpoint-4" / FILE).unlink()
    with pytest.warns(UserWarning, match="rules that remember start anew"):
        run(Attach(clip=AutoClip(percentile=50)), resume=str(tmp_path / "checkpoint-4"))
