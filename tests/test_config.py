"""The config: its keys, groups and bounds, and what may change on resume."""

import math

import pytest

from byol_jax import models
from byol_jax.config import (
    GROUPS,
    KEYS,
    all_keys,
    default_config,
    difference,
    flatten,
    group_of,
    nearest,
    put,
    resolve,
)
from byol_jax.config_table import TASKS
from byol_jax.experiment.methods import METHODS, pretext
from byol_jax.experiment.optimizers import OPTIMIZERS
from byol_jax.views.recipes import RECIPES


def config_of(**values):
    """The default config with some values, keys written with "__" for the dot."""
    config = default_config()
    for key, value in values.items():
        put(config, key.replace("__", "."), value)
    return config


def test_the_default_has_no_none_and_fits_itself():
    """Fails if a key could not be overridden on the command line, or a default is not allowed."""
    config = default_config()
    resolve(config)
    assert all(v is not None for v in flatten(config).values())
    assert all(row.allows(row.default) for row in all_keys().values())


# --- unknown and missing keys --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("batchsize", "batch_size"),
        ("lars.momentm", "lars.momentum"),
        ("simclr.temprature", "simclr.temperature"),
        ("weight_decay", "optimizer.weight_decay"),
        ("encoder.widht", "encoder.width"),
        ("evaluate_evry", "evaluate_every"),
    ],
)
def test_an_unknown_key_names_the_nearest(wrong, right):
    """Fails if a misspelt key is ignored, also in a group not in use, or another is proposed."""
    config = default_config()
    put(config, wrong, 1)
    with pytest.raises(ValueError, match=rf"Unknown config key {wrong}: did you mean {right}\?"):
        resolve(config)


def test_a_key_like_no_other_points_to_the_list():
    """Fails if a far-fetched key is proposed."""
    assert "config_table.py" in nearest("zzzzqqq", flatten(default_config()))


@pytest.mark.parametrize("key", ["seed", "byol.tau", "method.name", "resnet.stem"])
def test_a_missing_key_is_named(key):
    """Fails if a config is taken with a key less."""
    config = default_config()
    *groups, name = key.split(".")
    del (config[groups[0]] if groups else config)[name]
    with pytest.raises(ValueError, match=f"has no key {key}; start from default_config"):
        resolve(config)


def test_overrides_of_views_are_free():
    """Fails if a field of the views cannot be set, or is lost when the config is resolved."""
    config = default_config()
    config.views.overrides.blur = 0.5
    assert flatten(resolve(config))["views.overrides.blur"] == 0.5


# --- groups --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choices", "used"),
    [
        ({}, {"byol", "sgd", "resnet"}),
        ({"method__name": "simclr", "optimizer__name": "lars"}, {"simclr", "lars", "resnet"}),
        ({"method__name": "siamese", "encoder__name": "tiny"}, {"siamese", "sgd", "tiny"}),
        (
            {"views__recipe": "multi_crop", "encoder__name": "resnet200"},
            {"byol", "sgd", "resnet", "multi_crop"},
        ),
        (
            {"method__name": "supervised", "optimizer__name": "adamw"},
            {"supervised", "adamw", "resnet"},
        ),
    ],
)
def test_the_groups_in_use_are_kept(choices, used):
    """Fails if a group is lost, or one stays that has no effect, or `resolve` changes a value."""
    config = config_of(**choices)
    before = config.to_dict()
    found = resolve(config)
    optional = {group for groups in GROUPS.values() for group in groups}
    assert optional & set(found.keys()) == used
    assert config.to_dict() == before  # a copy
    assert flatten(found) == {
        k: v
        for k, v in flatten(config).items()
        if k.split(".")[0] not in optional or k.split(".")[0] in used
    }
    assert resolve(found).to_dict() == found.to_dict()


@pytest.mark.parametrize(
    ("choices", "changed", "message"),
    [
        (
            {"method__name": "simclr"},
            ("byol.tau", 0.5),
            r"byol\.tau has no effect: method\.name is 'simclr'; .* set method\.name=byol\.",
        ),
        (
            {"optimizer__name": "sgd"},
            ("lars.eta", 0.02),
            r"lars\.eta has no effect: optimizer\.name is 'sgd'; .* set optimizer\.name=lars\.",
        ),
        (
            {"encoder__name": "tiny"},
            ("resnet.stem", "cifar"),
            r"resnet\.stem has no effect: encoder\.name is 'tiny'; .*encoder\.name=resnet50\.",
        ),
        (
            {"views__recipe": "byol"},
            ("multi_crop.count", 8),
            r"multi_crop\.count has no effect: views\.recipe is 'byol'; leave it at 6, or",
        ),
    ],
)
def test_a_change_in_a_group_that_is_not_in_use_is_refused(choices, changed, message):
    """Fails if it is dropped in silence, or the remedy names a choice that there is not."""
    config = config_of(**choices)
    put(config, *changed)
    with pytest.raises(ValueError, match=message):
        resolve(config)
    put(config, changed[0], all_keys()[changed[0]].default)
    resolve(config)


def test_choices_are_the_functions_there_are():
    """Fails if a name can be chosen that nothing builds, or what is built has no name."""
    built = {*METHODS, "several"}  # which is made of others
    assert set(KEYS["method.name"].choices) == built == set(GROUPS["method.name"])
    assert set(TASKS) == set(pretext.METHODS)
    assert set(KEYS["optimizer.name"].choices) == set(OPTIMIZERS) == set(GROUPS["optimizer.name"])
    assert set(KEYS["encoder.name"].choices) == set(models.ENCODERS)
    assert set(KEYS["encoder.dtype"].choices) == set(models.DTYPES)
    assert set(KEYS["views.recipe"].choices) == set(RECIPES)


# --- values --------------------------------------------------------------------------------------

# Texts and names that only the file system, the data or the parameters can judge.
FREE = (
    "init_from", "data.name", "data.dir", "data.ids_file", "optimizer.exclude",
    "optimizer.lr_factors", "optimizer.lr_fixed", "optimizer.hold", "distill.teacher",
    "several.tasks",
)  # fmt: skip
BOUNDED = [k for k, row in all_keys().items() if row.bounded]
CHOSEN = [k for k, row in all_keys().items() if row.choices]


def test_every_key_is_checked():
    """Fails if a new key takes any value, and is not one of the few that cannot be told."""
    free = set(all_keys()) - set(BOUNDED) - set(CHOSEN)
    assert {k for k in free if not isinstance(all_keys()[k].default, bool)} == set(FREE)
    assert not set(BOUNDED) & set(CHOSEN)
    # Bounds of numbers, choices of texts; a tuple's are those of its values.
    for key in BOUNDED:
        default = all_keys()[key].default
        assert not isinstance(default, bool | str)
        assert all(
            isinstance(v, int | float) for v in (default if isinstance(default, tuple) else ())
        )
    assert all(isinstance(all_keys()[k].default, str) for k in CHOSEN)


def with_value(key, value):
    """A config in which `key` is in use, has this value, and nothing else stands in its way."""
    config, group = default_config(), key.split(".")[0]
    for choice, groups in GROUPS.items():
        if group in groups:
            put(
                config,
                choice,
                next(n for n in KEYS[choice].choices if group_of(choice, n) == group),
            )
    if key == "optimizer.accumulate" or key.endswith(".bn_groups"):
        config.batch_size = min(max(value, 1), 2**31 - 1)
    if key == "data.placement":
        config.views.placement = "device"
    put(config, key, value)
    return config


def beside(key):
    """[(value, whether it is allowed)] below, at and above each bound of a key."""
    row = all_keys()[key]
    default = row.default
    like = (default or (0.5,))[0] if isinstance(default, tuple) else default
    found = []
    for bound, is_open, out in ((row.low, row.low_open, -1), (row.high, row.high_open, 1)):
        if not math.isfinite(bound):
            continue
        if isinstance(like, int):
            around = [(bound + out, False), (bound, True), (bound - out, True)]
        else:
            bound = float(bound)
            outside, inside = (math.nextafter(bound, math.inf * s) for s in (out, -out))
            around = [(outside, False), (bound, not is_open), (inside, True)]
        found += around
    if isinstance(like, float):
        found += [(math.inf, False), (math.nan, False)]
    if isinstance(default, tuple):
        found = [((v,), ok) for v, ok in found] + [((like, "a"), False), ((True,), False)]
    return found


@pytest.mark.parametrize("key", BOUNDED)
def test_values_at_every_bound(key):
    """Fails if a bound is not looked at, is open where it should be closed, or is not told.

    (Take a row out of KEYS, or `high` out of `Key.allows`.)
    """
    cases = beside(key)
    assert any(ok for _, ok in cases)
    assert not all(ok for _, ok in cases)
    for value, ok in cases:
        if ok:
            config = with_value(key, value)
            assert flatten(resolve(config))[key] == flatten(config)[key]
            continue
        with pytest.raises(ValueError, match="expected") as e:
            resolve(with_value(key, value))
        shown = list(value) if isinstance(value, tuple) else value
        assert str(e.value) == f"{key} is {shown!r}; expected {all_keys()[key].expected()}."


@pytest.mark.parametrize("key", CHOSEN)
def test_every_choice(key):
    """Fails if a choice is refused, another text is taken, or the choices are not listed."""
    row = all_keys()[key]
    for value in row.choices:
        assert flatten(resolve(with_value(key, value)))[key] == value
    config = with_value(key, row.default)
    put(config, key, "zzzz")
    with pytest.raises(ValueError, match="expected") as e:
        resolve(config)
    assert str(e.value) == f"{key} is 'zzzz'; expected one of {', '.join(row.choices)}."


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("batch_size", 0, "batch_size is 0; expected 1 to 2147483647."),
        ("data.max_damaged", 1.5, "data.max_damaged is 1.5; expected 0 to 1."),
        ("optimizer.lr", -0.1, "optimizer.lr is -0.1; expected at least 0."),
        ("sgd.momentum", 1.0, "sgd.momentum is 1.0; expected at least 0 and below 1."),
        ("eval.knn_temperature", 0.0, "eval.knn_temperature is 0.0; expected above 0."),
        ("eval.validation", 1.0, "eval.validation is 1.0; expected above 0 and below 1."),
        ("encoder.width", 0.2, "encoder.width is 0.2; expected 0.25 to 4."),
        ("eval.shots", (1, 2.5), "eval.shots is [1, 2.5]; expected 1 to 2147483647."),
        (
            "optimizer.schedule",
            "cosin",
            "optimizer.schedule is 'cosin'; expected one of cosine, multistep; "
            "did you mean cosine?",
        ),
    ],
)
def test_what_a_wrong_value_is_told(key, value, message):
    """Fails if the words for a bound are wrong."""
    with pytest.raises(ValueError, match="expected") as e:
        resolve(with_value(key, value))
    assert str(e.value) == message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimizer__accumulate": 3}, "batch_size 256 cannot be divided into .* 3 micro-batches"),
        ({"data__placement": "resident"}, r"set views\.placement to device"),
        ({"byol__bn_groups": 3}, r"byol\.bn_groups is 3; expected a divisor of the 256 rows"),
        (
            {"byol__bn_groups": 256, "optimizer__accumulate": 2},
            r"byol\.bn_groups is 256; expected a divisor of the 128 rows of a \(micro-\)batch",
        ),
        ({"method__name": "supervised", "supervised__bn_groups": 3}, r"supervised\.bn_groups is 3"),
    ],
)
def test_values_that_do_not_go_together(values, message):
    """Fails if a run would fail on it later, or do something else."""
    with pytest.raises(ValueError, match=message):
        resolve(config_of(**values))


# --- resuming ------------------------------------------------------------------------------------


def test_difference_lists_only_what_may_not_change():
    """Fails if a key that changes the training is let through, or a harmless one is refused."""
    old = flatten(default_config())
    harmless = {
        "log_every": 1,
        "checkpoint_every": 2,
        "keep": 9,
        "keep_every": 5,
        "evaluate_every": 7,
        "data.dir": "elsewhere",
        "data.max_damaged": 0.5,
        "data.threads": 3,
        "mesh.fsdp": 4,
        "collapse.stop": True,
        "eval.knn_k": 20,
    }
    assert not harmless.keys() - old.keys()
    assert difference(old, old | harmless) == []
    changed = old | harmless | {"optimizer.lr": 0.2, "views.mean": [0.5], "new": 1}
    del changed["seed"]
    assert difference(old, changed) == [
        "  new: (none) -> 1",
        "  optimizer.lr: 0.1 -> 0.2",
        "  seed: 0 -> (none)",
        "  views.mean: [] -> [0.5]",
    ]


@pytest.mark.parametrize("key", [k for k in flatten(default_config()) if k.count(".") <= 1])
def test_every_other_key_is_fixed(key):
    """Fails if a prefix of a key that may change lets others through (keep, keep_it)."""
    may = ("log_every", "checkpoint_every", "keep", "keep_every", "evaluate_every")
    may += ("hang_seconds", "rollbacks")
    may += ("data.dir", "data.max_damaged", "data.threads", "mesh.fsdp")
    free = key in may or key.split(".")[0] in ("collapse", "eval")
    old = flatten(default_config())
    assert bool(difference(old, old | {key: "other"})) != free
    assert difference({}, {key + "_it": 1}) or key.split(".")[0] in ("collapse", "eval")
