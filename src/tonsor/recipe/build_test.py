import pytest
from torch import Tensor

from tonsor.clip import RULES as CLIP
from tonsor.prune import IMPORTANCES
from tonsor.recipe.binding import Mistakes, bind, bind_rule, resolve
from tonsor.recipe.build import check_rules, cut, methods
from tonsor.recipe.read import RecipeError
from tonsor.recipe.schema import PrunePass, Recipe, Rule, Training
from tonsor.recipe.tables import TABLES


def sample(first: Tensor, /, *, count: int = 1, rates: tuple[float, float] = (0.1, 0.2), name: str) -> None:
    """Have a key of each kind."""


def recipe(**changes):
    content = {
        "name": "a",
        "model": {"build": "tonsor.examples.models:mlp"},
        "data": {"load": "tonsor.examples.data:digits"},
        "train": {},
        **changes,
    }
    return Recipe.model_validate(content)


def mistakes_of(**changes):
    with pytest.raises(RecipeError) as error:
        check_rules(recipe(**changes))
    return str(error.value).splitlines()[1:]


def test_a_recipe_of_known_names_has_no_mistake():
    assert check_rules(recipe(prune=[{"sparsity": 0.5}], export={})) is None


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_a_recipe_may_name_every_importance(importance):
    assert check_rules(recipe(prune=[{"sparsity": 0.5, "importance": importance}])) is None


def test_a_scope_that_goes_by_name_is_tried_on_a_name_it_knows():
    scope = {"rule": "same_sensitivity", "curves": {"0.weight": [[0.0, 0.0], [0.5, 0.1]]}}
    assert check_rules(recipe(prune=[{"sparsity": 0.5, "scope": scope}])) is None
    scope["curves"] = {"0.weight": [[0.0, "x"]]}
    assert "prune.0.scope.curves" in mistakes_of(prune=[{"sparsity": 0.5, "scope": scope}])[0]


def test_values_come_as_the_signature_wants_them():
    mistakes = Mistakes()
    bound = bind(sample, {"count": 3, "rates": [1, 2], "name": "x"}, "p", mistakes)
    assert mistakes.found == []
    assert bound.keywords == {"count": 3, "rates": (1.0, 2.0), "name": "x"}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"cuont": 3}, "p: unknown key 'cuont'; did you mean 'count'?"),
        ({"count": "3"}, "p.count: Input should be a valid integer; got '3'"),
        ({"rates": [1]}, "p.rates"),
        ({"first": 1}, "p: unknown key 'first'"),
    ],
)
def test_a_wrong_setting_is_told(settings, told):
    mistakes = Mistakes()
    bind(sample, settings, "p", mistakes)
    assert mistakes.found[0].startswith(told)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("math", "expected an import path"),
        ("no_such_module:f", "cannot import 'no_such_module'"),
        ("math:sqrtt", "did you mean 'sqrt'?"),
        ("math:pi", "expected a function"),
    ],
)
def test_a_wrong_import_path_is_told(path, told):
    mistakes = Mistakes()
    assert resolve(path, "model.build", mistakes) is None
    assert told in mistakes.found[0]


def test_a_rule_may_wrap_a_rule():
    mistakes = Mistakes()
    inner = {"rule": "PowerSGD", "rank": 2}
    rule = Rule.model_validate({"rule": "ErrorFeedback", "compressor": inner})
    bound = bind_rule(TABLES["compress"], rule, "train.compress", mistakes)
    assert mistakes.found == []
    assert "PowerSGD(rank=2" in repr(bound)


@pytest.mark.parametrize(
    ("inner", "told"),
    [
        (None, "key 'compressor' must be a rule"),
        (3, "key 'compressor' must be a rule"),
        ("PowerSGDD", "train.compress.compressor: unknown rule 'PowerSGDD'; did you mean 'PowerSGD'?"),
        ({"rule": "TopK", "densty": 0.1}, "train.compress.compressor: unknown key 'densty'"),
    ],
)
def test_a_wrong_rule_inside_a_rule_is_told(inner, told):
    rule = {"rule": "ErrorFeedback", **({} if inner is None else {"compressor": inner})}
    (line,) = [line for line in mistakes_of(train={"compress": rule}) if "train.compress" in line]
    assert told in line


def test_rules_that_remember_are_fresh_in_every_stage():
    section = Training.model_validate({"clip": {"rule": "AutoClip"}})
    first, second = (methods(section, "train", Mistakes()).clip for _ in range(2))
    assert isinstance(first, CLIP["AutoClip"])
    assert first is not second


@pytest.mark.parametrize(("kind", "rule"), [("clip", "AutoClip"), ("constrain", "SpectralNorm")])
def test_the_trial_of_a_rule_leaves_no_memory(kind, rule):
    bound = getattr(methods(Training.model_validate({kind: rule}), "train", Mistakes()), kind)
    fresh = TABLES[kind][rule]()
    assert str(bound.state_dict()) == str(fresh.state_dict())
    assert TABLES[kind][rule] is type(bound)


@pytest.mark.parametrize(
    ("section", "told"),
    [
        (
            {"clip": {"rule": "value", "clip_value": 0.0}},
            "train.clip: clip.value: clip_value must be above 0",
        ),
        ({"clip": {"rule": "AutoClip", "percentile": 101}}, "train.clip: clip.AutoClip: percentile"),
        ({"constrain": {"rule": "max_norm", "max_norm": -1}}, "train.constrain: constrain.max_norm"),
        ({"compress": {"rule": "TopK", "density": 0.0}}, "train.compress:"),
        ({"optimizer": {"rule": "SGD", "lr": -1.0}}, "train.optimizer: Invalid learning rate"),
        ({"optimizer": {"rule": "Adm"}}, "train.optimizer: unknown optimizer 'Adm'; did you mean 'Adam'?"),
        ({"loss": "mae"}, "train.loss: unknown loss 'mae'"),
        ({"lr_schedule": "cosin"}, "train.lr_schedule: unknown rule 'cosin'; did you mean 'cosine'?"),
    ],
)
def test_a_value_out_of_range_is_told_before_anything_is_trained(section, told):
    assert any(told in line for line in mistakes_of(train=section))


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"scope": {"rule": "n_of_m", "n": 2, "m": 4}, "sparsity": 0.9}, "prune.0.scope:"),
        (
            {"importance": "magnitud"},
            "prune.0.importance: unknown rule 'magnitud'; did you mean 'magnitude'?",
        ),
        ({"pattern": {"rule": "channel", "dims": 1}}, "prune.0.pattern: unknown key 'dims'"),
        ({"pattern": {"rule": "channel_groups", "dim": 1}}, "prune.0.pattern: unknown key 'dim'"),
        ({"pattern": {"rule": "channel", "reduction": "avg"}}, "prune.0.pattern.reduction:"),
        ({"scope": {"rule": "by_table", "table": {"a": 1.0}}}, "must be the fraction removed, in [0, 1)"),
        ({"scope": {"rule": "owl", "spread": 0.7}}, "prune.0.scope: prune.owl: spread must lie in"),
        (
            {"budget": {"rule": "mac", "share": 0.5}},
            "prune.0.budget: unknown rule 'mac'; did you mean 'macs'",
        ),
        ({"budget": "macs"}, "prune.0.budget: prune.Budget: give either share or limit"),
        ({"budget": {"rule": "macs", "share": "half"}}, "prune.0.budget.share:"),
        ({"budget": {"rule": "parameters", "bits": 8, "share": 0.5}}, "prune.0.budget: unknown key 'bits'"),
        (
            {"pattern": {"rule": "channel_groups", "normalise": "men"}},
            "prune.0.pattern: shrink.ChannelGroups: ",
        ),
        ({"pattern": {"rule": "channel_groups", "at_least": 0}}, "prune.0.pattern: shrink.Limits: at_least"),
    ],
)
def test_a_wrong_cut_is_told(keys, told):
    aim = {} if "budget" in keys else {"sparsity": 0.5}
    assert any(told in line for line in mistakes_of(prune=[{**aim, **keys}]))


@pytest.mark.parametrize(
    "keys",
    [
        {"scope": {"rule": "by_table", "table": {"0.*": 0.5, "*": 0.0}}, "sparsity": 0.9},
        {"scope": "uniform_plus", "sparsity": 0.6},
        {"pattern": {"rule": "channel", "dim": [0, 1], "reduction": "l2"}, "sparsity": 0.9},
        {"budget": {"rule": "bytes_on_disk", "bits": 8, "limit": 1000}},
    ],
)
def test_what_only_the_real_weights_can_tell_is_no_mistake(keys):
    assert check_rules(recipe(prune=[keys])) is None


def test_what_a_recipe_leaves_open_is_filled_in():
    section = PrunePass.model_validate({"sparsity": 0.8})
    ramp = cut(section, "prune.0", Mistakes()).schedule
    assert [ramp(step, stop=10) for step in (0, 10)] == [0.0, 0.8]
    falling = methods(Training.model_validate({"lr_schedule": "linear"}), "train", Mistakes()).lr_schedule
    assert [falling(step, stop=10) for step in (0, 5, 10)] == [1.0, 0.5, 0.0]
    steady = PrunePass.model_validate({"sparsity": 0.8, "schedule": "constant"})
    assert cut(steady, "prune.0", Mistakes()).schedule(3) == 0.8


@pytest.mark.parametrize(
    ("formats", "told"),
    [
        (["onx"], "export.formats.0: unknown rule 'onx'; did you mean 'onnx'"),
        (["onnx", {"rule": "onnx", "tolerance": 1.0}], "export.formats.1: 'onnx' is there already"),
        ([{"rule": "onnx_int8", "calibration": 4}], "calibration is a key of [export]"),
        ([{"rule": "onnx_int8", "ranges": "minmx"}], "export.formats.0.ranges: Input should be 'minmax'"),
    ],
)
def test_a_wrong_export_is_told(formats, told):
    assert any(told in line for line in mistakes_of(export={"formats": formats}))


def test_every_export_format_and_the_devices_are_checked():
    assert check_rules(recipe(export={"formats": list(TABLES["export"]), "calibration": 2})) is None
    assert any("device: unknown device 'gpu'" in line for line in mistakes_of(device="gpu"))


def test_rules_inside_a_compressor_are_bound_with_their_places_in_mistakes():
    table = {
        "rule": "Warmup",
        "sparsity": {"rule": "exponential", "initial": 0.75, "final": 0.999, "stop": 400},
        "compressor": {
            "rule": "PerLayer",
            "compressor": {"rule": "ErrorFeedback", "compressor": {"rule": "TopK", "density": 0.1}},
            "layers": {"head.*": {"rule": "dense"}},
        },
    }
    mistakes = Mistakes()
    bound = methods(Training(compress=table), "train", mistakes).compress
    assert mistakes.found == []
    assert bound.sparsity(400) == 0.999
    assert bound.compressor.layers["head.*"].__name__ == "dense"
    assert repr(bound.compressor.compressor) == "ErrorFeedback(TopK(density=0.1))"
    budget = {"rule": "ErrorBudget", "compressor": "TopK", "finer": [{"rule": "dens"}]}
    methods(Training(compress=budget), "train", mistakes)
    assert mistakes.found[0].startswith("train.compress.finer.0: unknown rule 'dens'; did you mean 'dense'?")
