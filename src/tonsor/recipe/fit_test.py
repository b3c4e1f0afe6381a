import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from tonsor.recipe.binding import Mistakes
from tonsor.recipe.build import methods
from tonsor.recipe.checkpoints import Checkpoints
from tonsor.recipe.context import Interrupted, Run
from tonsor.recipe.crew import Crew
from tonsor.recipe.fault import NonFiniteError, first_bad_gradient, first_bad_layer
from tonsor.recipe.fit import Fit
from tonsor.recipe.folder import RunFolder
from tonsor.recipe.job import Job
from tonsor.recipe.schema import Recipe, Training

DATA = {"build": "torch.nn:Identity"}


def numbers():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(40, 3, generator=generator)
    return TensorDataset(inputs, inputs @ torch.tensor([[1.0], [2.0], [3.0]]))


def fit(folder, stop=lambda: False, model=None, masks=None, **keys):
    torch.manual_seed(1)
    model = model or nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.2), nn.Tanh(), nn.Linear(4, 1))
    section = Training.model_validate({"loss": "mse", "metric": "r2", "batch_size": 8, "epochs": 4, **keys})
    recipe = {"name": "a", "model": DATA, "data": {"load": "m:f"}, "train": {}}
    run = Run(Recipe.model_validate(recipe), RunFolder(folder), stop=stop)
    mistakes = Mistakes()
    job = Job("train", section, methods(section, "train", mistakes), model, {"train": numbers()}, masks or {})
    assert mistakes.found == []
    return Fit(run, job, folder)


def weights(trained):
    return torch.cat([p.detach().flatten() for p in trained.job.model.parameters()])


RULES = {
    "clip": {"rule": "AutoClip", "percentile": 50},
    "constrain": {"rule": "max_norm", "max_norm": 0.5},
    "lr_schedule": "cosine",
}


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW", "LBFGS", "Rprop", "Adafactor", "Muon"])
def test_any_optimizer_of_torch_trains(tmp_path, optimizer):
    model = nn.Linear(3, 1, bias=False)  # Muon takes matrices only
    trained = fit(tmp_path, model=model, optimizer={"rule": optimizer, "lr": 0.05}, epochs=40)
    trained.run()
    losses = trained.history.columns()["loss"]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("stopped_after", [1, 3, 7, 19])
@pytest.mark.parametrize(
    "rules", [{}, RULES, {"constrain": {"rule": "SpectralNorm"}}], ids=["plain", "rules", "spectral"]
)
def test_a_stopped_training_ends_as_one_that_was_not(tmp_path, stopped_after, rules):
    whole = fit(tmp_path / "whole", **rules)
    whole.run()
    steps = []
    stopped = fit(tmp_path / "parts", stop=lambda: steps.append(1) or len(steps) == stopped_after, **rules)
    with pytest.raises(Interrupted, match=f"at step {stopped_after} of 20"):
        stopped.run()
    resumed = fit(tmp_path / "parts", **rules)
    resumed.run()
    assert torch.equal(weights(resumed), weights(whole))
    assert resumed.history.columns() == whole.history.columns()


def test_a_killed_training_goes_on_from_its_last_checkpoint(tmp_path):
    whole = fit(tmp_path / "whole", checkpoint_every=3)
    whole.run()
    killed = fit(tmp_path / "parts", checkpoint_every=3)
    killed.steps = 11  # it never comes further
    with pytest.raises(AssertionError):
        killed._checkpoints.save = lambda step, state: _save_until_nine(tmp_path / "parts", step, state)
        killed.run()
    resumed = fit(tmp_path / "parts", checkpoint_every=3)
    resumed.run()
    assert torch.equal(weights(resumed), weights(whole))


def _save_until_nine(folder, step, state):
    assert step <= 9
    Checkpoints(folder, Crew.alone()).save(step, state)


def test_the_clipped_steps_are_those_above_the_bound(tmp_path):
    trained = fit(tmp_path, clip={"rule": "global_norm", "max_norm": 4.0}, epochs=40)
    trained.run()
    columns = trained.history.columns()
    assert columns["clipped"] == [int(norm > 4.0) for norm in columns["norm"]]
    assert {round(t, 5) for t in columns["threshold"] if t is not None} == {4.0}
    assert 0 < sum(columns["clipped"]) < 200


def test_a_step_that_the_rule_skips_is_not_taken(tmp_path):
    clip = {"rule": "SkipSpikes", "sigma": 0.5, "warmup": 2}
    trained = fit(tmp_path, clip=clip, optimizer={"rule": "AdamW"}, epochs=8)
    trained.run()
    columns = trained.history.columns()
    skipped = [step for step, is_over in zip(columns["step"], columns["clipped"], strict=True) if is_over]
    taken = [state["step"].item() for state in trained._optimizer.state.values()]
    assert len(skipped) > 0
    assert taken == [40 - len(skipped)] * 4
    assert all(columns["threshold"][step - 1] < columns["norm"][step - 1] for step in skipped)


@pytest.mark.parametrize(
    "rule", ["ZClip", "AdaGC", "SpikeClip", "UpdateClip", "SkipSpikes", "TargetFraction"]
)
def test_what_a_clip_rule_remembers_is_in_the_checkpoint(tmp_path, rule):
    clip = {"rule": rule} if rule == "UpdateClip" else {"rule": rule, "warmup": 3}
    whole = fit(tmp_path / "whole", clip=clip)
    whole.run()
    steps = []
    stopped = fit(tmp_path / "parts", stop=lambda: steps.append(1) or len(steps) == 9, clip=clip)
    with pytest.raises(Interrupted):
        stopped.run()
    resumed = fit(tmp_path / "parts", clip=clip)
    resumed.run()
    assert torch.equal(weights(resumed), weights(whole))


def test_masked_weights_stay_zero(tmp_path):
    masks = {"0.weight": torch.rand(4, 3) > 0.5}
    trained = fit(tmp_path, masks=masks, optimizer={"rule": "Adam", "lr": 0.1})
    trained.run()
    assert (trained.job.model[0].weight[~masks["0.weight"]] == 0).all()
    assert trained.history.columns()["sparsity"] == [1 - int(masks["0.weight"].sum()) / 12] * 20


class Breaks(nn.Module):
    """Give NaN from the ninth call on."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.layer(x * (float("nan") if self.calls > 8 else 1.0))


def test_a_model_that_gives_nan_is_stopped_with_step_layer_and_checkpoint(tmp_path):
    broken = fit(tmp_path, model=Breaks(), checkpoint_every=4)
    with pytest.raises(
        NonFiniteError, match=r"step 9 of 20: the loss is nan.*'layer' \(Linear\).*step 8 is kept"
    ):
        broken.run()
    assert Checkpoints(tmp_path, Crew.alone()).newest() == 8
    assert weights(broken).isfinite().all()


def test_where_it_broke_is_named():
    model = nn.Sequential(nn.Linear(1, 1), nn.Flatten())
    assert "loss" in first_bad_layer(model, torch.ones(1, 1))
    assert "'0' (Linear)" in first_bad_layer(model, torch.tensor([[float("inf")]]))
    model[0].weight.data.fill_(float("nan"))
    assert first_bad_layer(model, torch.ones(1, 1)) == "weight '0.weight' is not finite"
    model[0].bias.grad = torch.tensor([float("inf")])
    assert "'0.bias'" in first_bad_gradient(model)


def test_a_corrupt_checkpoint_is_refused_and_says_what_to_do(tmp_path):
    fit(tmp_path, epochs=1).run()
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"step-5-worker-0.*delete"):
        fit(tmp_path, epochs=1).run()


def test_a_set_is_dropped_only_when_all_workers_have_written_the_next(tmp_path):
    first = Crew(0, 2)
    for worker in (0, 1):
        (tmp_path / f"step-3-worker-{worker}-of-2.safetensors").touch()
    first.wait = lambda: pytest.fail("killed while worker 1 was still writing")
    with pytest.raises(pytest.fail.Exception):
        Checkpoints(tmp_path, first).save(6, {})
    assert Checkpoints(tmp_path, first).newest() == 3
    (tmp_path / "step-6-worker-1-of-2.safetensors").touch()
    assert Checkpoints(tmp_path, first).newest() == 6


def test_another_number_of_workers_shares_out_what_each_had_kept(tmp_path):
    keys = {
        "compress": {"rule": "ErrorFeedback", "compressor": {"rule": "TopK", "density": 0.1}},
        "epochs": 1,
    }
    alone = fit(tmp_path, **keys)
    alone.run()
    assert alone.history.columns()["sent"] == [None] * 5  # nobody to send to
    state = alone.state_dict()
    for rank in (1, 0):  # the first one sweeps up
        crew = Crew(rank, 2)
        crew.wait = lambda: None
        state["compress"]["residuals"] = {"0.weight": torch.full((4, 3), float(rank))}
        Checkpoints(tmp_path, crew).save(5, state)
    assert len(list(tmp_path.iterdir())) == 2
    resumed = fit(tmp_path, **keys)
    resumed.run()
    assert resumed.step == 5
    kept = resumed.job.methods.compress.state_dict()["residuals"]["0.weight"]
    assert torch.equal(kept, torch.full((4, 3), 0.5))
    assert torch.equal(weights(resumed), weights(alone))


def test_of_one_step_the_set_of_as_many_workers_as_now_goes_first(tmp_path):
    for name in ("step-3-worker-0", "step-3-worker-0-of-2", "step-3-worker-1-of-2", "step-5-worker-0-of-2"):
        (tmp_path / f"{name}.safetensors").touch()
    for size, want in ((1, 1), (2, 2), (3, 2)):
        checkpoints = Checkpoints(tmp_path, Crew(0, size))
        assert (checkpoints.newest(), checkpoints.workers()) == (3, want)
