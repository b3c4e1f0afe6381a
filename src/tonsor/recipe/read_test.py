import pytest

from tonsor.recipe.read import RecipeError, read_recipe

GOOD = """
name = "good"
[model]
build = "m:f"
[data]
load = "m:g"
[train]
epochs = 3
clip = { rule = "value", clip_value = 1.0 }
[[prune]]
sparsity = 0.5
[finetune]
epochs = 1
"""


def read(tmp_path, text, *changes):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return read_recipe(path, changes)


def test_later_stages_take_from_train_what_they_leave_out(tmp_path):
    recipe = read(tmp_path, GOOD)
    assert (recipe.prune[0].epochs, recipe.finetune.epochs) == (3, 1)
    assert recipe.finetune.clip == recipe.train.clip
    assert recipe.train.clip.settings == {"clip_value": 1.0}


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("train.epochs=7", 7),
        ("prune.0.sparsity=0.75", 0.75),
        ("train.loss=mse", "mse"),
        ('train.loss="mse"', "mse"),
        ("train.optimizer.lr = 0.5", 0.5),
        ("report.batches=[1, 2]", [1, 2]),
    ],
)
def test_a_change_reaches_its_key(tmp_path, change, value):
    text = GOOD.replace("epochs = 3", 'epochs = 3\noptimizer = { rule = "SGD" }')
    found = read(tmp_path, text, change)
    for part in change.partition("=")[0].strip().split("."):
        if isinstance(found, list):
            found = found[int(part)]
        else:
            found = getattr(found, part) if part in type(found).model_fields else found.settings[part]
    assert found == value


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("epochs = 3", "epoch = 3", "train: unknown key 'epoch'; did you mean 'epochs'?"),
        ("epochs = 3", "epochs = -3", "train.epochs: input should be greater than or equal to 0; got -3"),
        ("epochs = 3", 'epochs = "3"', "train.epochs: input should be a valid integer; got '3'"),
        (
            "sparsity = 0.5",
            "sparsity = 0.5\nbudget = 'macs'",
            "prune.0: either key 'sparsity' or key 'budget'",
        ),
        ("sparsity = 0.5", "sparsity = 1", "prune.0.sparsity: input should be less than 1; got 1"),
        ("sparsity = 0.5", "", "prune.0: either key 'sparsity' or key 'budget' must be given"),
        ("[[prune]]", "[prune]", "write [[prune]], a list of passes"),
        ("[finetune]", "[finetun]", "recipe: unknown key 'finetun'; did you mean 'finetune'?"),
        ('build = "m:f"', "", "model: key 'build' is missing"),
        ('name = "good"', 'name = "a/b"', "name: string should match pattern"),
        ('name = "good"', "name = ", "cannot be read as TOML"),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path, old, new, told):
    with pytest.raises(RecipeError) as error:
        read(tmp_path, GOOD.replace(old, new))
    assert told in str(error.value)
    assert "1 mistake\n" in str(error.value)


def test_all_mistakes_are_told_at_once(tmp_path):
    text = GOOD.replace("epochs = 3", "epoch = 3").replace("0.5", "1.5").replace('load = "m:g"', "lod = 1")
    with pytest.raises(RecipeError) as error:
        read(tmp_path, text, "no-equals", "name.first=3")
    assert "5 mistakes" in str(error.value)


def test_a_file_that_is_not_there_or_not_text(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read"):
        read_recipe(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="cannot be read"):
        read_recipe(tmp_path / "binary.toml")
