"""Distillation and recalibration as options of a recipe's later trainings."""

import pytest
import torch

from tonsor.files import read_json, read_tensors
from tonsor.recipe.build import check_rules
from tonsor.recipe.context import Run
from tonsor.recipe.folder import RunFolder
from tonsor.recipe.read import RecipeError
from tonsor.recipe.run import run_recipe
from tonsor.recipe.schema import Recipe

SOFT = {"rule": "soft_targets", "temperature": 2.0, "weight": 0.5}


def recipe(prune=None, finetune=None, batch_norm=False, **changes):
    """Return a recipe that trains, prunes in one pass and fine-tunes within a second."""
    training = {"epochs": 1, "batch_size": 100, "optimizer": {"rule": "SGD", "lr": 0.1}}
    return Recipe.model_validate(
        {
            "name": "a",
            "model": {
                "build": "tonsor.examples.models:mlp",
                "sizes": [64, 16, 10],
                "batch_norm": batch_norm,
            },
            "data": {"load": "tonsor.examples.data:digits"},
            "train": {**training, "epochs": 3},
            "prune": [{**training, "sparsity": 0.5, "every": 4, **(prune or {})}],
            "finetune": {**training, **(finetune or {})},
            "report": {"rounds": 1},
            **changes,
        }
    )


def run(folder, told=None, **sections):
    """Run a recipe in a folder and return the run."""
    tell = (lambda event: None) if told is None else told.append
    made = Run(recipe(**sections), RunFolder(folder), tell=tell)
    run_recipe(made, "")
    return made


def weights(made, stage):
    return read_tensors(made.weights_file(stage))[0]


def same(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return run(tmp_path_factory.mktemp("plain") / "run")


def test_distillation_of_weight_zero_is_bit_identical_to_none(plain, tmp_path):
    nothing = {"distill": {**SOFT, "weight": 0.0}}
    made = run(tmp_path / "run", prune=nothing, finetune=nothing)
    for stage in ("prune", "finetune"):
        assert same(weights(plain, stage), weights(made, stage))


@pytest.mark.parametrize("section, stage", [("prune", "prune"), ("finetune", "finetune")])
def test_distillation_changes_its_own_stage(plain, tmp_path, section, stage):
    made = run(tmp_path / "run", **{section: {"distill": SOFT}})
    assert not same(weights(plain, stage), weights(made, stage))
    assert same(weights(plain, "train"), weights(made, "train"))
    assert same(weights(plain, "prune"), weights(made, "prune")) == (section == "finetune")


def test_a_student_that_only_learns_from_the_teacher_comes_nearer_to_it(plain, tmp_path):
    made = run(tmp_path / "run", finetune={"distill": {"rule": "same_outputs", "weight": 1.0}, "epochs": 4})
    inputs = made.data["test"].tensors[0]
    taught = made.model_after("train").eval()(inputs)
    before, after = (
        (made.model_after(stage).eval()(inputs) - taught).square().mean() for stage in ("prune", "finetune")
    )
    assert after < 0.5 * before


def test_the_teacher_counts_among_what_the_stage_was_made_from(tmp_path):
    made = run(tmp_path / "run", finetune={"distill": SOFT})
    receipt = read_json(made.folder.file("finetune", "receipt.json"))
    assert "train/model.safetensors" in receipt["inputs"]


def test_recalibration_gives_the_statistics_of_the_training_data(tmp_path):
    """12 batches of 100 are the 1200 samples, each once."""
    made = run(tmp_path / "run", batch_norm=True, finetune={"recalibrate": 12, "epochs": 0})
    model = made.model_after("finetune").eval()
    place = [isinstance(module, torch.nn.BatchNorm1d) for module in model].index(True)
    fed = model[:place](made.data["train"].tensors[0]).detach()
    torch.testing.assert_close(model[place].running_mean, fed.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model[place].running_var, fed.var(0), rtol=1e-4, atol=1e-5)
    pruned = weights(made, "prune")
    for name, value in weights(made, "finetune").items():
        assert torch.equal(value, pruned[name]) == ("running" not in name and "tracked" not in name)


def test_a_pass_of_pruning_recalibrates_after_its_last_mask(tmp_path):
    plainly = run(tmp_path / "plain", batch_norm=True, prune={"epochs": 0})
    anew = run(tmp_path / "anew", batch_norm=True, prune={"epochs": 0, "recalibrate": 8})
    test = plainly.data["test"].tensors
    right = [
        (made.model_after("prune").eval()(test[0]).argmax(1) == test[1]).double().mean()
        for made in (plainly, anew)
    ]
    assert right[1] != right[0]
    assert not same(weights(plainly, "prune"), weights(anew, "prune"))


def test_a_model_without_batch_norm_is_told(tmp_path):
    told = []
    run(tmp_path / "run", told, finetune={"recalibrate": 2})
    notes = [event["text"] for event in told if event["event"] == "note"]
    assert "finetune: the model has no batch norm with running statistics" in notes[0]


@pytest.mark.parametrize(
    "distill, expected",
    [
        (
            {"rule": "soft_target"},
            r"finetune.distill: unknown rule 'soft_target'; did you mean 'soft_targets'",
        ),
        ({**SOFT, "weight": 2.0}, r"finetune.distill: .* must lie in \[0, 1\]; got 2.0"),
        ({**SOFT, "heat": 2.0}, r"finetune.distill: unknown key 'heat'"),
    ],
)
def test_mistakes_are_told_before_anything_runs(distill, expected):
    with pytest.raises(RecipeError, match=expected):
        check_rules(recipe(finetune={"distill": distill}))


def test_the_dense_training_has_no_teacher():
    with pytest.raises(ValueError, match="distill"):
        recipe(train={"distill": SOFT})
