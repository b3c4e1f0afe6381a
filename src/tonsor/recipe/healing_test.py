import pytest
import torch

from tonsor.files import read_tensors
from tonsor.recipe.build import check_rules
from tonsor.recipe.context import Run
from tonsor.recipe.folder import RunFolder
from tonsor.recipe.read import RecipeError
from tonsor.recipe.reporting import read_report
from tonsor.recipe.run import run_recipe
from tonsor.recipe.schema import Recipe

CONTENT = {
    "name": "a",
    "model": {"build": "tonsor.examples.models:mlp", "sizes": [64, 32, 10]},
    "data": {"load": "tonsor.examples.data:digits"},
    "train": {"epochs": 3},
    "prune": [{"sparsity": 0.9, "epochs": 0}],
    "report": {"rounds": 1, "batches": [1]},
}


def run(folder, **sections):
    recipe = Recipe.model_validate({**CONTENT, **sections})
    run_recipe(Run(recipe, RunFolder(folder)), "")
    return read_report(folder)


def test_healing_brings_accuracy_back_and_masks_hold(tmp_path):
    masked = run(tmp_path / "masked")
    report = run(tmp_path / "healed", heal={})
    assert report["models"]["masked"]["accuracy"] > masked["models"]["masked"]["accuracy"] + 0.1
    assert [record["name"] for record in report["heal"]] == ["1.weight", "3.weight"]
    assert all(record["after"] < record["before"] for record in report["heal"])
    masks, _ = read_tensors(tmp_path / "healed/prune/masks.safetensors")
    weights, _ = read_tensors(tmp_path / "healed/heal/model.safetensors")
    for name, mask in masks.items():
        assert torch.equal(weights[name] != 0, mask)
    assert run(tmp_path / "healed", heal={}) == report  # every stage is done


def test_fine_tuning_goes_on_from_the_healed_weights(tmp_path):
    report = run(
        tmp_path, heal={"target": "current"}, finetune={"epochs": 0}, export={"formats": ["safetensors"]}
    )
    healed, _ = read_tensors(tmp_path / "heal/model.safetensors")
    tuned, _ = read_tensors(tmp_path / "finetune/model.safetensors")
    assert all(torch.equal(healed[name], tuned[name]) for name in healed)
    assert report["seconds"].keys() >= {"prune", "heal", "finetune", "export"}


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"prune": []}, "heal: there is nothing to make up for"),
        ({"prune": [{"sparsity": 0.5, "epochs": 2}]}, r"prune\.0 trains for 2 epochs; set epochs = 0"),
    ],
)
def test_a_mistake_is_told(sections, says):
    with pytest.raises(RecipeError, match=says):
        check_rules(Recipe.model_validate({**CONTENT, **sections, "heal": {}}))
