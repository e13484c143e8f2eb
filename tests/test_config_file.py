"""config.json: it comes back equal, what is torn is told, and runs of 0.1.0 are read."""

import json
import math

import pytest
from ml_collections import ConfigDict

from byol_jax.config import default_config, difference, flatten, group_of, put, resolve
from byol_jax.config_file import load_config, save_config


def config_of(**values):
    """The default config with some values, keys written with "__" for the dot."""
    config = default_config()
    for key, value in values.items():
        put(config, key.replace("__", "."), value)
    return config


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
    "encoder.input": "colour", "tiny.stages": 3,
    "optimizer.warmup_start": 0.0, "optimizer.schedule": "cosine", "optimizer.final": 0.0,
    "optimizer.milestones": [], "optimizer.drop": 0.1, "optimizer.weight_decay_end": -1.0,
    "optimizer.exclude": ["bias", "scale"], "optimizer.lr_factors": [], "optimizer.lr_fixed": [],
    "optimizer.layer_decay": 1.0, "optimizer.clip_norm": 0.0, "optimizer.clip_tensor": 0.0,
    "byol.bn_groups": 1, "simclr.bn_groups": 1, "supervised.bn_groups": 1, "lars.clip": False,
    "simclr.loss": "nt_xent", "simclr.norm": True, "simclr.margin": 0.8, "simclr.l2": 0.002,
    "eval.finetune_from": "encoder", "eval.penalties": 45, "eval.stage_numbers": 0,
    "eval.lowshot_shots": [1, 2, 4, 8, 16, 32, 64, 96], "eval.lowshot_draws": 5,
    "eval.svm_cs": [0.01, 0.1, 1.0, 10.0, 100.0],
    "optimizer.hold": [], "optimizer.hold_epochs": 0.0, "optimizer.hold_steps": 0,
    "lars.larc": False, "adamw.b2": 0.999, "adamw.eps": 1e-8, "data.bits": 0, "data.orient": False,
    "data.ids_file": "", "eval.label_balance": False, "eval.dense_encoder": "frozen",
    "eval.output_stride": 0, "eval.dense_side": 0, "eval.dense_crop": 513,
    "eval.dense_scales": [0.5, 2.0], "eval.dense_flip": 0.5, "eval.dense_steps": 30_000,
    "eval.dense_batch": 16, "eval.dense_lrs": [0.1, 0.03, 0.01], "eval.dense_decay": 1e-4,
    "eval.dense_width": 256, "eval.dense_taps": 6, "eval.void": [255], "eval.depth_unit": 0.001,
    "resnet.sk_ratio": 0.0, "eval.linear_norm": False, "supervised.last": -1,
    "supervised.norm": False, "supervised.head_std": 0.0, "supervised.mixup": 0.0,
    "supervised.cutmix": 0.0, "supervised.mix_prob": 1.0, "supervised.switch_prob": 0.5,
    "supervised.smoothing": 0.0, "data.frames": 0, "data.stride": 1, "data.sound": 0.0,
    "eval.patches_images": 256, "eval.patches_size": 0,
    "data.rate": 16_000, "eval.task": 0, "views.one_branch": False,
    "eval.finetune_epochs": [], "eval.pixels": True, "eval.cache": 2.0,
    "eval.suite_finetune": False,
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
        k: v
        for k, v in SINCE.items()
        if k.startswith(("optimizer.", "data.", "eval.", "encoder.", "views."))
        or k.split(".")[0] in used
    }
    expected["eval.antialias"] = False  # as 0.1.0 evaluated
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
