"""The config: unknown keys, what may change on resume, and its file."""

import json

import pytest
from ml_collections import ConfigDict

from byol_jax.config import (
    check_keys,
    default_config,
    difference,
    flatten,
    load_config,
    nearest,
    save_config,
)


def test_the_default_has_no_none_and_fits_itself():
    """Fails if a key could not be overridden on the command line."""
    config = default_config()
    check_keys(config)
    assert all(v is not None for v in flatten(config).values())


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("batchsize", "batch_size"),
        ("optimizer.momentm", "optimizer.momentum"),
        ("method.temprature", "method.temperature"),
        ("weight_decay", "optimizer.weight_decay"),
        ("encoder.widht", "encoder.width"),
        ("evaluate_evry", "evaluate_every"),
    ],
)
def test_an_unknown_key_names_the_nearest(wrong, right):
    """Fails if a misspelt key is ignored, or another one is proposed."""
    config = default_config()
    *groups, name = wrong.split(".")
    with config.unlocked():
        (config[groups[0]] if groups else config)[name] = 1
    with pytest.raises(ValueError, match=rf"Unknown config key {wrong}: did you mean {right}\?"):
        check_keys(config)


def test_a_key_like_no_other_points_to_the_list():
    """Fails if a far-fetched key is proposed."""
    assert "config.py" in nearest("zzzzqqq", flatten(default_config()))


def test_a_missing_key_is_named():
    """Fails if an old config is taken with a key less."""
    config = default_config()
    del config.method.tau
    with pytest.raises(ValueError, match=r"has no key method\.tau"):
        check_keys(config)


def test_overrides_of_views_are_free():
    """Fails if a field of the views cannot be set."""
    config = default_config()
    config.views.overrides.blur_p = 0.5
    check_keys(config)
    assert flatten(config)["views.overrides.blur_p"] == 0.5


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
        "  optimizer.lr: 0.3 -> 0.2",
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


def test_the_file_comes_back_equal(tmp_path):
    """Fails if tuples come back as lists, floats as integers, or overrides are lost."""
    config = default_config()
    config.views.mean, config.eval.shots = (0.5, 0.25, 1.0), (1, 2)
    config.epochs, config.optimizer.lr = 7, 2.0
    config.views.overrides.area = (0.2, 1.0)
    config.views.overrides.nested = ((1, 2), (3, 4))
    path = tmp_path / "config.json"
    save_config(config, path)
    back = load_config(path)
    assert back.to_dict() == config.to_dict()
    assert back.views.mean == (0.5, 0.25, 1.0)
    assert isinstance(back.optimizer.lr, float)
    assert isinstance(back.views.std, tuple)
    assert isinstance(back.views.overrides, ConfigDict)
    assert difference(flatten(config), flatten(back)) == []
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b'{"seed": 0, "batch_si', "is not JSON"),
        (b"\xff\xfe\x00garbage", "is not JSON"),
        (b"[1, 2]", "is not a config"),
        (b"null", "is not a config"),
        (b"3", "is not a config"),
        (b'{"seed": "x"}', "seed cannot be 'x'"),
        (b'{"seed": null}', "seed cannot be None"),
        (b'{"epochs": 1.5}', "epochs cannot be 1.5"),
        (b'{"encoder": 3}', "encoder cannot be 3"),
        (b'{"seed": {"a": 1}}', "seed.a cannot be 1"),
    ],
)
def test_a_torn_file_is_a_clear_error(tmp_path, content, message):
    """Fails with a TypeError, a UnicodeDecodeError or another bare error."""
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as e:
        load_config(path)
    assert not isinstance(e.value, json.JSONDecodeError | UnicodeDecodeError)


def test_keys_newer_than_the_run_keep_their_defaults(tmp_path):
    """Fails if a run of an older version cannot be read any more."""
    path, values = tmp_path / "config.json", default_config().to_dict()
    del values["keep_every"], values["eval"]["shots"]
    values["epochs"] = 7
    path.write_text(json.dumps(values))
    config = load_config(path)
    assert (config.keep_every, config.eval.shots, config.epochs) == (0, (1, 5, 10), 7)


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
