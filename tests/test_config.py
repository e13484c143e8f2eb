"""The config: its keys and their bounds, what may change on resume, and its file."""

import json
import math

import pytest
from ml_collections import ConfigDict

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
from byol_jax.config_file import load_config, save_config
from byol_jax.experiment.methods import METHODS
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
    assert "config.py" in nearest("zzzzqqq", flatten(default_config()))


@pytest.mark.parametrize("key", ["seed", "byol.tau", "method.name", "resnet.stem"])
def test_a_missing_key_is_named(key):
    """Fails if a config is taken with a key less."""
    config = default_config()
    *groups, name = key.split(".")
    del (config[groups[0]] if groups else config)[name]
    with pytest.raises(ValueError, match=f"lacks the key {key}; start from default_config"):
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
        ({"method__name": "siamese", "encoder__name": "tiny"}, {"siamese", "sgd"}),
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
    assert set(KEYS["method.name"].choices) == set(METHODS) == set(GROUPS["method.name"])
    assert set(KEYS["optimizer.name"].choices) == set(OPTIMIZERS) == set(GROUPS["optimizer.name"])
    assert set(KEYS["encoder.name"].choices) == set(models.ENCODERS)
    assert set(KEYS["encoder.dtype"].choices) == set(models.DTYPES)
    assert set(KEYS["views.recipe"].choices) == set(RECIPES)


# --- values --------------------------------------------------------------------------------------

# Texts and names that only the file system, the data or the parameters can judge.
FREE = (
    "init_from", "data.name", "data.dir", "optimizer.exclude", "optimizer.lr_factors",
    "optimizer.lr_fixed",
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
            "optimizer.schedule is 'cosin'; expected one of cosine, multistep; did you mean "
            "cosine?",
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


# --- the file ------------------------------------------------------------------------------------


def test_the_file_comes_back_equal(tmp_path):
    """Fails if tuples come back as lists, floats as integers, or overrides are lost."""
    config = default_config()
    config.views.mean, config.eval.shots = (0.5, 0.25, 1.0), (1, 2)
    config.epochs, config.optimizer.lr = 7, 2.0
    config.optimizer.lr_factors = (("bias", 0.024), ("scale", 0.5))
    config.views.overrides.area = (0.2, 1.0)
    config.views.overrides.nested = ((1, 2), (3, 4))
    path = tmp_path / "config.json"
    save_config(config, path)
    back = load_config(path)
    assert back.to_dict() == config.to_dict()
    assert back.views.mean == (0.5, 0.25, 1.0)
    assert back.optimizer.lr_factors == (("bias", 0.024), ("scale", 0.5))
    assert isinstance(back.optimizer.lr, float)
    assert isinstance(back.views.std, tuple)
    assert isinstance(back.views.overrides, ConfigDict)
    assert difference(flatten(config), flatten(back)) == []
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    "values",
    [
        {"byol__tau": 0.5, "byol__beta": 0.25, "resnet__stem": "cifar", "sgd__momentum": 0.5},
        {
            "method__name": "simclr",
            "simclr__layers": 3,
            "optimizer__name": "lars",
            "lars__clip": True,
        },
        {"views__recipe": "multi_crop", "multi_crop__small": 32, "encoder__name": "tiny"},
    ],
)
def test_a_resolved_config_comes_back_equal(tmp_path, values):
    """Fails if a group in use is not written, or comes back with its defaults."""
    config = resolve(config_of(**values))
    save_config(config, tmp_path / "config.json")
    written = json.loads((tmp_path / "config.json").read_text())
    assert flatten(written) == flatten(config)
    back = load_config(tmp_path / "config.json")
    assert set(flatten(back)) == set(flatten(default_config()))
    assert resolve(back).to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no JSON"),
        (b'{"seed": 0, "batch_si', "is no JSON"),
        (b"\xff\xfe\x00garbage", "is no JSON"),
        (b"[1, 2]", "is no config"),
        (b"null", "is no config"),
        (b"3", "is no config"),
        (b'{"seed": "x"}', "seed cannot be 'x'"),
        (b'{"seed": null}', "seed cannot be None"),
        (b'{"epochs": 1.5}', "epochs cannot be 1.5"),
        (b'{"encoder": 3}', "encoder cannot be 3"),
        (b'{"seed": {"a": 1}}', "seed.a cannot be 1"),
        (b'{"byol": {"tau": "x"}}', "byol.tau cannot be 'x'"),
        (b'{"method": {"name": "simclr", "head": ["v1"]}}', r"simclr.layers cannot be \['v1'\]"),
        (b'{"method": {"name": "simclr", "head": "v9"}}', "simclr.layers cannot be 'v9'"),
        (b'{"method": {"name": ["byol"], "tau": 0.5}}', r"method.name cannot be \['byol'\]"),
    ],
)
def test_a_torn_file_is_a_clear_error(tmp_path, content, message):
    """Fails with a TypeError, a UnicodeDecodeError or another bare error."""
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as e:
        load_config(path)
    assert not isinstance(e.value, json.JSONDecodeError | UnicodeDecodeError)


def test_a_number_that_json_cannot_hold_is_not_written(tmp_path):
    """Fails if a file is written that cannot be read back."""
    config = default_config()
    config.views.overrides.blur = math.nan
    with pytest.raises(ValueError, match=r"views\.overrides\.blur is nan; expected a finite"):
        save_config(config, tmp_path / "config.json")
    assert not list(tmp_path.iterdir())


def test_keys_newer_than_the_run_keep_their_defaults(tmp_path):
    """Fails if a run of an older version cannot be read any more."""
    path, values = tmp_path / "config.json", default_config().to_dict()
    del values["keep_every"], values["eval"]["shots"], values["byol"]["bn_groups"]
    values["epochs"] = 7
    path.write_text(json.dumps(values))
    config = load_config(path)
    assert (config.keep_every, config.eval.shots, config.epochs) == (0, (1, 5, 10), 7)
    assert config.byol.bn_groups == 1


def test_no_file_is_a_clear_error(tmp_path):
    """Fails if a missing run folder is a traceback."""
    with pytest.raises(ValueError, match=r"config\.json does not exist; expected the folder"):
        load_config(tmp_path / "config.json")


def test_a_file_of_another_version_names_its_key(tmp_path):
    """Fails if the keys of a file are not checked."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(default_config().to_dict() | {"bach_size": 3}))
    with pytest.raises(ValueError, match=r"bach_size: did you mean batch_size"):
        load_config(path)


# The keys of config.json as version 0.1.0 wrote it; values that are nobody's defaults.
OLD = {
    "seed": 3, "batch_size": 512, "epochs": 7, "image_size": 96, "init_from": "there",
    "log_every": 11, "checkpoint_every": 12, "keep": 4, "keep_every": 13, "evaluate_every": 2,
    "rollbacks": 1, "hang_seconds": 60.0, "data.name": "cifar10", "data.dir": "here",
    "data.placement": "resident", "data.resident_size": 64, "data.steps_per_dispatch": 5,
    "data.max_damaged": 0.5, "data.train_examples": 1000, "data.threads": 3, "mesh.fsdp": 2,
    "views.recipe": "cifar", "views.placement": "device", "views.mean": [0.5, 0.4, 0.3],
    "views.std": [0.1, 0.2, 0.3], "views.overrides.area": [0.2, 1.0], "encoder.name": "resnet18",
    "encoder.width": 0.5, "encoder.stem": "cifar", "encoder.padding": "same",
    "encoder.zero_init_last": True, "encoder.project_first": True, "encoder.drop_path": 0.1,
    "encoder.remat": True, "encoder.space_to_depth": True, "encoder.dtype": "bfloat16",
    "method.name": "byol", "method.hidden": 123, "method.out": 45, "method.predictor": False,
    "method.target": True, "method.tau": 0.5, "method.tau_schedule": "constant",
    "method.beta": 0.25, "method.temperature": 0.3, "method.stop_gradient": False,
    "method.bn": "joint", "method.head": "v2", "method.probe": False, "optimizer.name": "lars",
    "optimizer.lr": 0.7, "optimizer.lr_scaling": "sqrt", "optimizer.warmup_epochs": 1.5,
    "optimizer.weight_decay": 1e-3, "optimizer.momentum": 0.8, "optimizer.nesterov": True,
    "optimizer.eta": 0.02, "optimizer.lr_inside": True, "optimizer.accumulate": 2,
    "collapse.threshold": 0.2, "collapse.stop": True, "eval.batch_size": 64, "eval.resize": 100,
    "eval.train_examples": 500, "eval.knn_k": 20, "eval.knn_temperature": 0.1, "eval.epochs": 9,
    "eval.lrs": [1.0, 0.5], "eval.finetune_lrs": [0.2], "eval.train_batch": 128,
    "eval.validation": 0.2, "eval.label_fraction": 0.5, "eval.shots": [2], "eval.draws": 3,
    "eval.fewshot_c": 10.0,
}  # fmt: skip
# What each choice of then has under which key now; all else of these three groups had no effect.
MOVED = {
    "byol": {
        "byol.hidden": 123, "byol.out": 45, "byol.predictor": False, "byol.tau": 0.5,
        "byol.tau_schedule": "constant", "byol.beta": 0.25, "byol.temperature": 0.3,
        "byol.bn": "joint",
    },
    "simclr": {
        "simclr.hidden": 123, "simclr.out": 45, "simclr.temperature": 0.3, "simclr.bn": "joint",
        "simclr.layers": 3,
    },
    "supervised": {},
    "lars": {
        "lars.momentum": 0.8, "lars.nesterov": True, "lars.eta": 0.02, "lars.lr_inside": True,
    },
    "sgd": {"sgd.momentum": 0.8, "sgd.nesterov": True},
    "adamw": {"adamw.b1": 0.8},
    "resnet18": {
        "resnet.stem": "cifar", "resnet.zero_init_last": True, "resnet.project_first": True,
        "resnet.space_to_depth": True,
    },
    "tiny": {},
}  # fmt: skip
# Keys that 0.1.0 did not have, with what it did.
SINCE = {
    "optimizer.warmup_start": 0.0, "optimizer.schedule": "cosine", "optimizer.final": 0.0,
    "optimizer.milestones": [], "optimizer.drop": 0.1, "optimizer.weight_decay_end": -1.0,
    "optimizer.exclude": ["bias", "scale"], "optimizer.lr_factors": [], "optimizer.lr_fixed": [],
    "optimizer.layer_decay": 1.0, "optimizer.clip_norm": 0.0, "optimizer.clip_tensor": 0.0,
    "byol.bn_groups": 1, "simclr.bn_groups": 1, "supervised.bn_groups": 1, "lars.clip": False,
    "adamw.b2": 0.999, "adamw.eps": 1e-8,
}  # fmt: skip
GONE = {
    "encoder.": ("stem", "zero_init_last", "project_first", "space_to_depth"),
    "method.": (
        "hidden", "out", "predictor", "target", "tau", "tau_schedule", "beta", "temperature",
        "stop_gradient", "bn", "head",
    ),
    "optimizer.": ("momentum", "nesterov", "eta", "lr_inside"),
}  # fmt: skip


def old_file(path, **changed):
    values = ConfigDict()
    for key, value in (OLD | {k.replace("__", "."): v for k, v in changed.items()}).items():
        put(values, key, value)
    path.write_text(json.dumps(values.to_dict()))
    return path


@pytest.mark.parametrize(
    ("method", "optimizer", "encoder"),
    [
        ("byol", "lars", "resnet18"),
        ("simclr", "sgd", "tiny"),
        ("supervised", "adamw", "resnet18"),
        ("byol", "sgd", "tiny"),
    ],
)
def test_files_of_0_1_0_are_read(tmp_path, method, optimizer, encoder):
    """Fails if a renamed key falls back to its default, or gets the value of another one."""
    names = {"method__name": method, "optimizer__name": optimizer, "encoder__name": encoder}
    config = resolve(load_config(old_file(tmp_path / "config.json", **names)))
    gone = {group + name for group, all_of in GONE.items() for name in all_of}
    expected = {k: v for k, v in OLD.items() if k not in gone}
    expected |= {k.replace("__", "."): v for k, v in names.items()}
    for choice in names.values():
        expected |= MOVED[choice]
    used = {group_of(choice.replace("__", "."), name) for choice, name in names.items()}
    expected |= {
        k: v for k, v in SINCE.items() if k.startswith("optimizer.") or k.split(".")[0] in used
    }
    assert flatten(config) == expected


def test_the_two_heads_of_simclr(tmp_path):
    """Fails if v1 and v2 are mixed up: 2 and 3 layers in 0.1.0."""
    for name, layers in (("v1", 2), ("v2", 3)):
        path = old_file(tmp_path / "config.json", method__name="simclr", method__head=name)
        assert load_config(path).simclr.layers == layers


def test_byol_without_a_target_is_another_method_now(tmp_path):
    """Fails if an old ablation goes on as BYOL with a target."""
    path = old_file(tmp_path / "config.json", method__target=False)
    with pytest.raises(ValueError, match=r"method\.target=False is now method\.name=siamese"):
        load_config(path)
    load_config(old_file(path, method__target=False, method__name="simclr"))  # it had no effect
