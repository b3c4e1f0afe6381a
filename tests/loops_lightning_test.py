"""`attach` and the callback in a real Lightning Trainer, against a plain torch loop."""

import csv
from functools import partial
from pathlib import Path

import pytest
import torch

import tonsor
from loops import BOUND, loader, loss_of, net, plain, weights
from tonsor.clip import AutoClip, History, global_norm

pl = pytest.importorskip("pytorch_lightning")
from pytorch_lightning.plugins.precision import MixedPrecision  # noqa: E402

from tonsor.integrations.lightning import Attach  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore:.*isinstance.treespec, LeafSpec.:FutureWarning",
        "ignore:.*does not have many workers:UserWarning",
        "ignore:.*is smaller than the logging interval:UserWarning",
        "ignore:.*Checkpoint directory:UserWarning",
        "ignore:.*You're resuming from a checkpoint that ended:UserWarning",
    ),
]
CLIP = partial(global_norm, max_norm=BOUND)
MASKS = {"net.0.weight": torch.arange(32).reshape(8, 4) % 3 > 0}


class Task(pl.LightningModule):
    """The small problem, with rules attached where Lightning's users do it."""

    def __init__(self, kind=torch.optim.AdamW, **rules):
        super().__init__()
        self.net, self.kind, self.rules = net(), kind, rules

    def training_step(self, batch, _):
        return loss_of(self.net, batch)

    def configure_optimizers(self):
        optimizer = self.kind(self.parameters(), lr=0.1)
        if self.rules:
            self.attached = tonsor.attach(optimizer, model=self, **self.rules)
        return optimizer


def fit(task, path=None, *, count=16, logger=False, **settings):
    settings = {"max_epochs": 1, "log_every_n_steps": 2, **settings}
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    trainer.fit(task, loader(count=count), ckpt_path=path)
    return trainer


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_automatic_optimization_clips_the_sum_after_backward(accumulate, dtype):
    task = Task(clip=CLIP)
    precision = "32-true" if dtype is None else "bf16-mixed"
    fit(task, accumulate_grad_batches=accumulate, precision=precision)
    expected, norms = plain(accumulate=accumulate, dtype=dtype)
    torch.testing.assert_close(weights(task.net), expected, rtol=1e-5, atol=1e-6)
    rows = task.attached.history.rows()
    assert [row["before"] for row in rows] == pytest.approx(norms, rel=1e-5)
    assert [row["step"] for row in rows] == list(range(1, 4 // accumulate + 1))
    assert all(row["after"] == pytest.approx(BOUND, rel=1e-5) for row in rows)


def test_masks_hold_and_constraints_come_last():
    task = Task(clip=CLIP, masks=MASKS, constrain=partial(tonsor.constrain.value, clip_value=0.2))
    fit(task)

    def zero(model):
        model[0].weight.grad[~MASKS["net.0.weight"]] = 0

    def after(model):
        with torch.no_grad():
            model[0].weight[~MASKS["net.0.weight"]] = 0
            for p in model.parameters():
                p.clamp_(-0.2, 0.2)

    expected, norms = plain(zero=zero, after=after)
    torch.testing.assert_close(weights(task.net), expected, rtol=1e-5, atol=1e-6)
    assert [row["before"] for row in task.attached.history.rows()] == pytest.approx(norms, rel=1e-5)


def test_lbfgs_is_clipped_at_each_of_its_evaluations():
    task = Task(partial(torch.optim.LBFGS, max_iter=3), clip=CLIP)
    fit(task)
    model, count = net(), 0
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    for batch in loader():

        def closure(batch=batch):
            nonlocal count
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            CLIP(list(model.parameters()))  # torch's differs by 1e-6, which LBFGS blows up
            count += 1
            return loss

        optimizer.step(closure)
    assert torch.equal(weights(task.net), weights(model))
    assert len(task.attached.history) == count > 4


class ByHand(Task):
    """Manual optimization: the wrapped optimizer is stepped without a closure."""

    automatic_optimization = False

    def training_step(self, batch, _):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss_of(self.net, batch))
        optimizer.step()


def test_manual_optimization_is_clipped():
    task = ByHand(clip=CLIP)
    fit(task)
    torch.testing.assert_close(weights(task.net), plain()[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fused", [False, True])
def test_half_precision_with_a_scaler_is_clipped_unscaled(fused):
    task = Task(partial(torch.optim.AdamW, fused=fused), clip=CLIP)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    fit(task, plugins=MixedPrecision("16-mixed", "cpu", scaler=scaler))
    expected, norms = plain(dtype=torch.float16)
    torch.testing.assert_close(weights(task.net), expected, rtol=1e-3, atol=1e-4)
    assert [row["before"] for row in task.attached.history.rows()] == pytest.approx(norms, rel=1e-3)


def test_a_second_clip_is_told():
    with pytest.warns(UserWarning, match="another clip is already on"):
        fit(Task(clip=partial(global_norm, max_norm=0.8)), gradient_clip_val=BOUND, count=128)


def test_the_callback_tells_a_second_clip_at_once():
    with pytest.warns(UserWarning, match=r"clips at gradient_clip_val=0\.5 before our rule"):
        fit(Task(), gradient_clip_val=BOUND, callbacks=[Attach(clip=CLIP)])


def test_the_callback_clips_logs_and_takes_the_rules_off(tmp_path):
    task, history = Task(), History(path=tmp_path / "norms.jsonl")
    callback = Attach(clip=CLIP, history=history)
    logger = pl.loggers.CSVLogger(tmp_path)
    trainer = fit(task, callbacks=[callback], logger=logger)
    expected, norms = plain()
    torch.testing.assert_close(weights(task.net), expected, rtol=1e-5, atol=1e-6)
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        lines = [{key: float(value) for key, value in line.items() if value} for line in csv.DictReader(file)]
    assert [line["clip/norm"] for line in lines] == pytest.approx(norms[1::2], rel=1e-5)
    assert lines[0]["clip/share"] == 1 and lines[0]["clip/threshold"] == BOUND
    assert trainer.callback_metrics["clip/skipped"] == 0
    assert len(History.read(tmp_path / "norms.jsonl")) == 4
    assert not trainer.optimizers[0]._optimizer_step_pre_hooks


def test_a_resumed_fit_clips_as_one_that_was_never_stopped(tmp_path):
    def run(**settings):
        task, callback = Task(), Attach(clip=AutoClip(percentile=50))
        return task, callback, partial(fit, task, callbacks=[callback], **settings)

    whole, whole_callback, go = run(max_epochs=2)
    go()
    _, _, go = run(max_epochs=1)
    go().save_checkpoint(tmp_path / "half.ckpt")
    task, callback, go = run(max_epochs=2)
    go(tmp_path / "half.ckpt")
    assert torch.equal(weights(task.net), weights(whole.net))
    told, expected = (c.attached[0].history.rows() for c in (callback, whole_callback))
    assert told == expected and len(told) == 8


class Two(Task):
    """Two optimizers, stepped by hand."""

    automatic_optimization = False

    def configure_optimizers(self):
        return [torch.optim.SGD(self.net[i].parameters(), lr=0.1) for i in (0, 2)]

    def training_step(self, batch, _):
        first, second = self.optimizers()
        self.manual_backward(loss_of(self.net, batch))
        for optimizer in (first, second):
            optimizer.step()
            optimizer.zero_grad()


def test_each_optimizer_has_a_copy_of_the_rule():
    callback = Attach(clip=tonsor.clip.AdaGC())
    trainer = fit(Two(), callbacks=[callback])
    first, second = callback.attached
    assert len(first.history) == len(second.history) == 4
    assert first.norm != second.norm
    assert {"clip/norm/0", "clip/norm/1"} <= set(trainer.callback_metrics)
    with pytest.raises(ValueError, match="one history cannot hold 2 optimizers"):
        fit(Two(), callbacks=[Attach(clip=CLIP, history=History())])


def test_a_bad_step_raises_and_leaves_the_optimizer_free():
    class Bad(Task):
        def training_step(self, batch, index):
            return super().training_step(batch, index) * (float("nan") if index == 1 else 1)

    task, callback = Bad(), Attach(clip=CLIP)
    with pytest.raises(FloatingPointError, match="not finite: parameters net"):
        fit(task, callbacks=[callback])
    assert not task.optimizers().optimizer._optimizer_step_pre_hooks
    skipping = Attach(clip=CLIP, on_nonfinite="skip")
    fit(Bad(), callbacks=[skipping])
    assert skipping.attached[0].skipped == 1
