"""Every key of the config, set on the command line by the real flag parser."""

import dataclasses
import math
import re

import pytest
from absl import flags
from ml_collections import config_flags

from byol_jax import cli
from byol_jax.config import GROUPS, KEYS, all_keys, difference, flatten, group_of, resolve
from byol_jax.config_file import load_config, save_config
from byol_jax.experiment.methods import Facts
from byol_jax.experiment.optimizers import build_optimizer
from byol_jax.experiment.views import build_views
from byol_jax.views.recipes import RECIPES
from byol_jax.views.spec import OVERRIDES, ViewSpec

# ml_collections loads a config file so.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module")


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    """A config file whose config is the default one."""
    path = tmp_path_factory.mktemp("configs") / "config.py"
    path.write_text("from byol_jax.config import default_config as get_config  # noqa: F401\n")
    return str(path)


@pytest.fixture
def parse(config_file):
    """(arguments) -> the config, through the parser that the commands use."""

    def parsed(*args, file=config_file):
        argv = ["train", f"--config={file}", *args]
        values = flags.FlagValues()
        config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
        cli.parse_flags(argv, values)
        return values.config

    return parsed


# Of keys whose values neither bounds nor choices tell.
FREE = {
    "init_from": "an-export",
    "distill.teacher": "a-classifier",
    "several.tasks": "rotation,jigsaw",
    "data.name": "cifar10",
    "data.dir": "a folder",
    "data.ids_file": "ids.txt",
    "eval.finetune_epochs": (30, 50),
    "optimizer.exclude": ("kernel",),
    "optimizer.lr_factors": (("predictor", 0.5), ("bias", 2)),
    "optimizer.lr_fixed": ("predictor", "probe"),
}
# What else a value needs.
WITH = {
    "optimizer.accumulate": ("--config.batch_size=8",),
    "data.placement": ("--config.views.placement=device",),
}


def another(key):
    """An allowed value of a key that is not its default."""
    row = all_keys()[key]
    if key in FREE:
        return FREE[key]
    if row.choices:
        return next(c for c in row.choices if c != row.default)
    if isinstance(row.default, bool):
        return not row.default
    if isinstance(row.default, tuple):
        return (1, 2) if isinstance((row.default or (0.0,))[0], int) else (0.5, 0.25)
    candidates = (2, 3, 4) if isinstance(row.default, int) else (0.5, 0.75, 2.0, 3.0)
    return next(v for v in candidates if v != row.default and row.allows(v))


def chosen(key):
    """The arguments that bring a key's group into use."""
    group = key.split(".")[0]
    for choice, groups in GROUPS.items():
        if group in groups:
            name = next(n for n in KEYS[choice].choices if group_of(choice, n) == group)
            return (f"--config.{choice}={name}",)
    return ()


def lists(value):
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("key", all_keys())
def test_every_key_can_be_set(parse, tmp_path, key):
    """Fails if a key cannot be set, loses its type, or comes back otherwise from config.json.

    (Take `put` of a tuple out of `resolve`, or `_tuples` out of `load_config`.)
    """
    value = another(key)
    more = WITH.get(key, ()) + chosen(key)
    config = resolve(parse(*more, f"--config.{key}={value}"))
    assert flatten(config)[key] == lists(value)
    assert type(flatten(config)[key]) is type(lists(all_keys()[key].default))
    save_config(config, tmp_path / "config.json")
    back = resolve(load_config(tmp_path / "config.json"))
    assert difference(flatten(config), flatten(back)) == []
    assert flatten(back) == flatten(config)


NEW = {
    name: (0.25, 0.75) if isinstance(default, tuple) else 5 if name == "kernel" else 0.125
    for name, default in OVERRIDES.items()
} | {"brightness_scales": True, "rand_layers": 2}


@pytest.mark.parametrize("name", NEW)
def test_every_override_can_be_set(parse, tmp_path, name):
    """Fails if an override is unknown to the parser, or does not reach every view."""
    config = resolve(parse(f"--config.views.overrides.{name}={NEW[name]}"))
    save_config(config, tmp_path / "config.json")
    back = resolve(load_config(tmp_path / "config.json"))
    assert difference(flatten(config), flatten(back)) == []
    plain = resolve(parse())
    change = difference(flatten(plain), flatten(config))
    assert change == [f"  views.overrides.{name}: (none) -> {lists(NEW[name])!r}"]
    for c in (config, back):
        views = build_views(c, 3)[0]["views"]
        untouched = build_views(plain, 3)[0]["views"]
        for view, before in zip(views, untouched, strict=True):
            assert view == dataclasses.replace(before, **{name: NEW[name]})


def test_the_overrides_are_the_fields_of_a_view():
    """Fails if a field is left out that no other key sets."""
    fields = {f.name for f in dataclasses.fields(ViewSpec)}
    assert fields - set(OVERRIDES) == {"size", "mean", "std"}


@pytest.mark.parametrize(
    ("args", "value"),
    [
        (("hue=0",), {"hue": 0.0}),
        (("hue", "0.0"), {"hue": 0.0}),
        (("area=(0.2, 1)",), {"area": [0.2, 1]}),
        (("area=0.2,1.0",), {"area": [0.2, 1.0]}),
        (("brightness_scales",), {"brightness_scales": True}),
        (("hue=0.1", "--config.views.overrides.hue=0.2"), {"hue": 0.2}),
        (("flip=0.0", "--config.views.overrides.grey=0.0"), {"flip": 0.0, "grey": 0.0}),
    ],
)
def test_forms_of_an_override(parse, args, value):
    """Fails for another way to write it."""
    found = parse(f"--config.views.overrides.{args[0]}", *args[1:]).views.overrides
    assert flatten(found) == value


def test_an_override_of_the_config_file_is_overridden(parse, tmp_path):
    """Fails if the type comes from the file: an integer there must not make integers of all."""
    file = tmp_path / "config.py"
    file.write_text(
        "from byol_jax.config import default_config\n\n\n"
        "def get_config():\n    c = default_config()\n"
        "    c.views.overrides.solarize = 0\n    c.views.overrides.grey = 0\n    return c\n"
    )
    config = parse("--config.views.overrides.solarize=0.5", file=file)
    assert flatten(config.views.overrides) == {"solarize": 0.5, "grey": 0}
    assert {v.solarize for v in build_views(resolve(config), 3)[0]["views"]} == {0.5}
    config = parse("--noconfig.views.overrides.brightness_scales", file=file)
    assert config.views.overrides.brightness_scales is False


@pytest.mark.parametrize(
    ("arg", "said"),
    [
        ("views.overrides.heu=0.0", "did you mean views.overrides.hue?"),
        ("views.overrides.zzz=0.0", "a view has the fields area, aspect, flip"),
        ("views.overrides.mean=(0, 0, 0)", "is set by views.mean"),
        ("views.overrides.std=(1, 1, 1)", "is set by views.std"),
        ("views.overrides.size=32", "is set by image_size"),
        ("views.overrides.hue=red", "could not convert string to float"),
        ("views.overrides.kernel=2.5", "kernel=2.5"),
        ("views.overrides.brightness_scales=2", "brightness_scales=2"),
        ("views.overrides.a.b=1", "Unknown config key views.overrides.a.b"),
        ("views.overrides", "did you mean"),
        ("views.override.hue=0.0", "did you mean views.overrides.hue?"),
        ("optimizer.momentum=0.9", "did you mean lars.momentum or "),
        ("batchsize=8", "did you mean batch_size"),
    ],
)
def test_a_wrong_override_is_one_clear_line(parse, arg, said):
    """Fails if ml_collections' own KeyError comes through, or a name is taken that no view has."""
    with pytest.raises(ValueError, match=re.escape(said)) as e:
        parse(f"--config.{arg}")
    assert "\n" not in str(e.value)


def test_a_switch_turned_off_is_looked_up_too(parse):
    """Fails if --noconfig.KEY escapes the check of names."""
    assert parse("--noconfig.method.probe").method.probe is False
    with pytest.raises(ValueError, match=r"did you mean method\.probe"):
        parse("--noconfig.method.prob")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("hue", "0.0", "expected a number, e.g. 0.1"),
        ("hue", True, "expected a number"),
        ("hue", math.nan, "expected a number"),
        ("kernel", 5.0, "expected a whole number"),
        ("kernel", True, "expected a whole number"),
        ("brightness_scales", 1, "expected true or false"),
        ("area", 0.5, r"expected two numbers, \(low, high\)"),
        ("area", (0.5,), "expected two numbers"),
        ("area", (0.5, "1"), "expected two numbers"),
        ("mean", (0.5,) * 3, r"is set by views\.mean"),
        ("sise", 3, "Unknown config key views.overrides.sise"),
    ],
)
def test_the_type_of_an_override_in_a_file(parse, name, value, said):
    """Fails if a value of another type reaches a view, which compares it with numbers."""
    config = parse()
    with config.unlocked():
        config.views.overrides[name] = value
    with pytest.raises(ValueError, match=said):
        build_views(resolve(config), 3)


@pytest.mark.parametrize(("name", "value"), [("hue", 0.6), ("flip", -0.1), ("area", (0.5, 2.0))])
def test_an_override_out_of_bounds_is_refused_with_the_config(parse, name, value):
    """Fails if the data are opened first, or the key is not named as it is typed."""
    config = parse(f"--config.views.overrides.{name}={value}")
    with pytest.raises(ValueError, match=rf"^views\.overrides\.{name} is .*expected"):
        resolve(config)


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_images_of_one_channel_are_left_without_colours(parse, recipe):
    """Fails if a grey array needs three overrides, or loses what a recipe does beside colours."""
    config = resolve(parse(f"--config.views.recipe={recipe}"))
    grey, colour = (build_views(config, channels)[0] for channels in (1, 3))
    none = dict.fromkeys(("saturation", "hue", "grey"), 0.0)
    for group, views in colour.items():
        for view, other in zip(grey[group], views, strict=True):
            same = {"mean": view.mean, "std": view.std}
            assert view == dataclasses.replace(other, **same, **none)
            assert view.channels == 1


def test_whole_numbers_and_lists_are_taken(parse):
    """Fails if a recipe must write 1.0 for 1, or what JSON made of a tuple is refused."""
    config = parse()
    with config.unlocked():
        config.views.overrides.update({"flip": 1, "area": [1, 1]})
    view = build_views(resolve(config), 3)[0]["views"][0]
    assert (view.flip, view.area) == (1.0, (1.0, 1.0))
    assert type(view.flip) is float


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("eval.lrs=()",), r"eval\.lrs is \[\]; expected at least one number\."),
        (("eval.shots=()",), "expected at least one number"),
        (("eval.lrs=((1.0,),)",), "expected above 0"),
        (("optimizer.exclude=(5,)",), "expected names"),
        (("optimizer.lr_fixed=5",), "expected names"),
        (("optimizer.lr_factors=('bias', 0.5)",), "expected pairs"),
        (("optimizer.lr_factors=(('bias', 'x'),)",), "expected pairs"),
        (("optimizer.lr_factors=(('bias', True),)",), "expected pairs"),
    ],
)
def test_tuples_that_are_none(parse, args, said):
    """Fails if what is no tuple of the right kind is taken."""
    facts = Facts(100, 10, 50, 5)
    with pytest.raises(ValueError, match=said):
        build_optimizer(resolve(parse(*(f"--config.{a}" for a in args))), facts)


@pytest.mark.parametrize("value", ["(('predictor', 0.5),)", "[['predictor', 0.5]]"])
def test_pairs_may_be_lists(parse, value):
    """Fails if pairs from JSON are refused, or differ from tuples on resume."""
    config = resolve(parse(f"--config.optimizer.lr_factors={value}"))
    assert flatten(config)["optimizer.lr_factors"] == [("predictor", 0.5)]
    build_optimizer(config, Facts(100, 10, 50, 5))
