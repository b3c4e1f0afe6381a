"""Each manner of a pass: it prunes to its sparsity, does what its method says, and resume is continue."""

import pytest
import torch

from tonsor.files import read_tensors
from tonsor.prune import SoftPruner
from tonsor.recipe import stages
from tonsor.recipe.binding import Mistakes
from tonsor.recipe.build import check_rules, cut
from tonsor.recipe.context import Interrupted, Run
from tonsor.recipe.fit import Fit
from tonsor.recipe.folder import RunFolder
from tonsor.recipe.read import RecipeError
from tonsor.recipe.schema import PrunePass, Recipe

TRAIN = {"epochs": 2, "batch_size": 100, "checkpoint_every": 4, "optimizer": {"rule": "AdamW", "lr": 0.01}}
MANNERS = {
    "rising": {},
    "rigl": {"regrow": "rigl", "importance": "random", "scope": "local"},
    "set": {"regrow": {"rule": "sparse_evolution", "seed": 3}, "regrow_schedule": {"rule": "constant"}},
    "soft": {"soft": True},
    "penalty": {"penalty": {"rule": "stairs", "final": 2.0}, "every": 100},
    "rounds": {"rounds": 3},
    "ticket": {"rounds": 2, "rewind": "weights", "rewind_to": 5},
    "learning_rate": {"rewind": "learning_rate"},
    "control": {"rounds": 2, "rewind": "random"},
    "watched": {"importance": "taylor", "statistics": "training"},
}
manners = pytest.mark.parametrize("keys", MANNERS.values(), ids=MANNERS)


def recipe(*passes):
    shared = {key: value for key, value in TRAIN.items() if key != "epochs"}
    return Recipe.model_validate(
        {
            "name": "a",
            "model": {"build": "tonsor.examples.models:mlp", "sizes": [64, 16, 10]},
            "data": {"load": "tonsor.examples.data:digits"},
            "train": TRAIN,
            "prune": [{"sparsity": 0.7, "every": 5, "epochs": 2, **shared, **keys} for keys in passes],
        }
    )


def run(folder, *passes, stop=lambda: False, seen=None):
    return Run(recipe(*passes), RunFolder(folder), stop=stop, tell=(seen if seen is not None else []).append)


def done(job):
    """Run train and prune, and return weights and masks."""
    stages.train(job)
    stages.prune(job)
    return read_tensors(job.weights_file("prune"))[0], job.masks()


def same(first, second):
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@manners
def test_a_pass_ends_at_its_sparsity_and_what_is_masked_is_zero(tmp_path, keys):
    weights, masks = done(run(tmp_path, keys))
    total = sum(mask.numel() for mask in masks.values())
    gone = sum(int((~mask).sum()) for mask in masks.values())
    assert gone == pytest.approx(0.7 * total, abs=1)
    assert all((weights[name][~mask] == 0).all() for name, mask in masks.items())
    assert all((weights[name][mask] != 0).double().mean() > 0.5 for name, mask in masks.items())


@pytest.mark.slow
@manners
@pytest.mark.parametrize("stopped", [22, 26])
def test_resume_is_continue(tmp_path, keys, stopped):
    whole = done(run(tmp_path / "whole", keys))
    steps = []
    parts = run(tmp_path / "parts", keys, stop=lambda: steps.append(1) or len(steps) == stopped)
    with pytest.raises(Interrupted):
        done(parts)
    same(done(run(tmp_path / "parts", keys)), whole)


@pytest.mark.slow
@pytest.mark.parametrize("keys", [MANNERS["rigl"], MANNERS["set"]], ids=["rigl", "set"])
def test_regrowing_begins_sparse_moves_until_three_quarters_and_respects_the_pass_before(tmp_path, keys):
    first = {"sparsity": 0.3, "epochs": 0}
    seen = []
    job = run(tmp_path, first, {**keys, "epochs": 4}, seen=seen)
    _, masks = done(job)
    rows = [event["sparsity"] for event in seen if event["event"] == "step" and event["stage"] == "prune.1"]
    assert rows == pytest.approx([0.7] * 48, abs=1e-3)
    _, before = done(run(tmp_path / "alone", first))
    assert not any((mask & ~before[name]).any() for name, mask in masks.items())
    still = {**keys, "epochs": 4, "regrow_schedule": {"rule": "constant", "final": 0.0}}
    _, unmoved = done(run(tmp_path / "still", first, still))
    for name, mask in masks.items():
        assert int(mask.sum()) == int(unmoved[name].sum())
        assert not torch.equal(mask, unmoved[name])


def test_a_ticket_begins_each_round_with_the_weights_of_the_step_it_goes_back_to(tmp_path, monkeypatch):
    job = run(tmp_path, MANNERS["ticket"])
    begun = _begun(monkeypatch)
    _, masks = done(job)
    early = read_tensors(job.kept_file(5))[0]
    assert len(begun) == 3  # the dense training and two rounds
    for state, fraction in zip(begun[1:], (1 - 0.3**0.5, 0.7), strict=True):
        gone = torch.cat([state[name].flatten() == 0 for name in masks])
        assert gone.double().mean() == pytest.approx(fraction, abs=0.01)
        same({name: early[name].where(value != 0, 0) for name, value in state.items()}, state)
    assert all((begun[2][name][begun[1][name] == 0] == 0).all() for name in masks)


def test_the_kept_step_is_that_of_the_training_killed_or_not(tmp_path):
    whole = run(tmp_path / "whole", MANNERS["ticket"])
    stages.train(whole)
    steps = []
    parts = run(tmp_path / "parts", MANNERS["ticket"], stop=lambda: steps.append(1) or len(steps) == 5)
    with pytest.raises(Interrupted):
        stages.train(parts)
    made = stages.train(run(tmp_path / "parts", MANNERS["ticket"]))
    same(read_tensors(parts.kept_file(5))[0], read_tensors(whole.kept_file(5))[0])
    assert parts.kept_file(5) in made.outputs


@pytest.mark.slow
def test_without_a_step_the_ticket_goes_back_to_the_model_as_built_and_the_control_to_another(
    tmp_path, monkeypatch
):
    begun = _begun(monkeypatch)
    built = run(tmp_path).fresh_model().state_dict()
    done(run(tmp_path / "ticket", {"rewind": "weights"}))
    done(run(tmp_path / "control", MANNERS["control"]))
    ticket, control, other = begun[1], begun[3], begun[4]
    (name,) = (name for name, value in built.items() if value.shape == (16,))
    same(ticket[name], built[name])
    assert not torch.equal(control[name], built[name])
    assert not torch.equal(control[name], other[name])


def _begun(monkeypatch):
    """Return a list that is filled with the weights that every training begins with."""
    begun, original = [], Fit.run

    def told(self):
        begun.append({name: value.clone() for name, value in self.job.model.state_dict().items()})
        return original(self)

    monkeypatch.setattr(Fit, "run", told)
    return begun


@pytest.mark.slow
def test_a_penalty_shrinks_what_is_to_go_and_soft_pruning_lets_it_train(tmp_path, monkeypatch):
    sizes, original = {}, SoftPruner.hold

    def told(self):
        gone = torch.cat([w.detach()[~self.chosen[name]].abs() for name, w in self.parameters.items()])
        kept = torch.cat([w.detach()[self.chosen[name]].abs() for name, w in self.parameters.items()])
        sizes[len(sizes)] = (gone.mean() / kept.mean()).item()
        return original(self)

    monkeypatch.setattr(SoftPruner, "hold", told)
    strong = {
        "penalty": {"rule": "linear", "final": 100.0},
        "every": 100,
        "optimizer": {"rule": "SGD", "lr": 0.01},
    }
    done(run(tmp_path / "penalty", {**strong, "epochs": 6}))
    done(run(tmp_path / "none", {**strong, "epochs": 6, "penalty": {"rule": "constant", "final": 0.0}}))
    done(run(tmp_path / "soft", MANNERS["soft"]))
    pressed, unpressed, soft = sizes.values()
    assert pressed < 0.1 * unpressed
    assert soft > 0  # four steps have passed since the zeros were written


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"soft": True, "regrow": "rigl"}, "regrow and soft exclude one another"),
        ({"rewind": "weights", "penalty": "linear"}, "penalty and rewind exclude one another"),
        ({"rewind_to": 3}, 'prune.0.rewind_to: needs rewind = "weights"; got rewind = "none"'),
        ({"regrow": "rigl", "pattern": "channel"}, 'moves single weights, not "channel"'),
        ({"rounds": 2, "schedule": "linear"}, "prune.0.schedule: has no effect with rounds"),
        ({"regrow": "rigle"}, "prune.0.regrow: unknown rule 'rigle'; did you mean 'rigl'"),
        ({"statistics": "training"}, "importance 'magnitude' asks for none"),
        ({"statistics": "training", "importance": "wanda"}, "unknown statistic of a training 'input_norm'"),
        ({"statistics": "training", "importance": "taylor", "rounds": 2}, "before the training begins"),
        ({"statistics": "training", "importance": "taylor", "soft": True}, "gone when soft chooses"),
        ({"penalty": {"rule": "stairs", "cuont": 3}}, "unknown key 'cuont'; did you mean 'count'"),
    ],
)
def test_keys_that_do_not_go_together_are_told_before_anything_is_trained(keys, says):
    with pytest.raises(RecipeError) as caught:
        check_rules(recipe(keys))
    assert says in str(caught.value)


def test_a_step_after_the_end_is_told_before_the_training(tmp_path):
    with pytest.raises(ValueError, match=r"prune.0.rewind_to: step 900 lies after the end of \[train\].* 24"):
        stages.train(run(tmp_path, {"rewind": "weights", "rewind_to": 900}))


@manners
def test_every_manner_is_a_recipe_without_mistake(keys):
    assert check_rules(recipe(keys)) is None
    mistakes = Mistakes()
    bound = cut(PrunePass.model_validate({"sparsity": 0.5, **keys}), "prune.0", mistakes)
    assert mistakes.found == []
    assert (bound.regrow is None, bound.penalty is None) == ("regrow" not in keys, "penalty" not in keys)
