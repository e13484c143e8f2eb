"""From a config to the objects of a run: every key is used, what does not fit is refused early."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import filled, make_batch, mini_encoder, named
from small_vit import small_vit

from byol_jax import mesh as meshes
from byol_jax import models
from byol_jax.config import GROUPS, KEYS, default_config, put, resolve
from byol_jax.convert.classifier import save_classifier
from byol_jax.convert.info import EncoderInfo
from byol_jax.convert.native import save_encoder
from byol_jax.core import Method
from byol_jax.data.opening import open_source
from byol_jax.data.source import Clip, Source
from byol_jax.experiment.build import batch_shapes, build
from byol_jax.experiment.evaluation import build_evaluation
from byol_jax.experiment.methods import METHODS, Facts, Parts, build_encoder, build_method
from byol_jax.experiment.optimizers import OPTIMIZERS, build_optimizer
from byol_jax.experiment.views import build_views
from byol_jax.optim import Rates, constant
from byol_jax.train_step import init_state

CLIP = Clip(8, 1, 0.5, 1000)
FACTS = Facts(examples=512, classes=3, steps=20, steps_per_epoch=4, image_size=12, clip=CLIP)


def config_of(**values):
    """The default config with some values, keys written with "__" for the dot."""
    config = default_config()
    for key, value in values.items():
        put(config, key.replace("__", "."), value)
    return config


# --- every key is read ---------------------------------------------------------------------------


class Recorder:
    """Stands in for a group of a config, and remembers which keys were read."""

    def __init__(self, values):
        self._values, self.keys_read = dict(values), set()

    def __getattr__(self, name):
        self.keys_read.add(name)
        return self._values[name]  # a KeyError where there is no such key


def defaults(choice, name):
    values = {key: row.default for key, row in GROUPS[choice][name].items()}
    return values | ({"teacher": a_teacher(3)} if "teacher" in values else {})


@functools.cache
def a_teacher(classes):
    """The folder of a classifier of grey or coloured 8 px images."""
    encoder = models.make_encoder("tiny", width=0.25)
    image = jax.ShapeDtypeStruct((1, 1, 8, 8, 3), np.float32)
    params, stats = filled(jax.eval_shape(encoder.init, jax.random.key(0), image))
    linear = {"kernel": np.ones((32, classes), np.float32), "bias": np.ones(classes, np.float32)}
    folder = tempfile.mkdtemp(prefix="byol_jax_teacher_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    info = EncoderInfo(encoder.config, 8, (0.5,) * 3, (0.25,) * 3, 8)
    save_classifier(Path(folder, "out"), params, stats, linear, info)
    return f"{folder}/out"


def clips_of(batch):
    """What clips have beside one frame as an image: more of them, and sound."""
    frames = np.repeat(batch["views"], CLIP.frames, 1)
    sound = np.random.RandomState(0).randn(len(frames), CLIP.samples).astype(np.float32)
    return {"frames": frames, "sound": sound}


def parts(dtype="float64", method=""):
    encoder = mini_encoder(dtype, widths=(8, 16) if method == "colorization" else (16,))
    encoder = encoder._replace(config={**encoder.config, "dtype": dtype})
    if method == "colorization":  # of what it sees, the builder reads the name alone
        encoder = encoder._replace(config={**encoder.config, "lightness": True})
    if method == "avc":  # of which it makes a second one
        encoder = models.make_encoder("tiny", width=0.25, dtype=dtype)
    if method == "mae":
        encoder = small_vit(dtype, image_size=8, depth=1).encoder
    return Parts(encoder, lambda module: module)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_reads_every_key_of_its_group(name):
    """Fails if a key has no effect on the method, or one of another group has.

    (Take `m.temperature` out of `_objective`, or `layers` out of `_simclr`.)
    """
    group = Recorder(defaults("method.name", name))
    assert isinstance(METHODS[name](group, parts(method=name), FACTS), Method)
    assert group.keys_read == set(GROUPS["method.name"][name])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_reads_every_key_of_its_group(name):
    """Fails if a key has no effect on the optimizer. (Take `o.clip` out of `_lars`.)"""
    group = Recorder(defaults("optimizer.name", name))
    OPTIMIZERS[name](group, Rates(constant(0.1)), {"weight_decay": 0.0, "exclude": ()})
    assert group.keys_read == set(GROUPS["optimizer.name"][name])


def test_the_keys_of_all_optimizers_are_read():
    """Fails if `optimizer.KEY` is in the table and nothing reads it. (Take out `o.clip_tensor`.)"""
    read = set()
    for schedule in ("cosine", "multistep"):
        config = resolve(config_of(optimizer__schedule=schedule))
        with config.unlocked():
            group = Recorder(config.optimizer.to_dict())
            keys = {k: v for k, v in config.items() if k != "optimizer"}
        build_optimizer(Whole({**keys, "optimizer": group}), FACTS)
        read |= group.keys_read
    common = {k.removeprefix("optimizer.") for k in KEYS if k.startswith("optimizer.")}
    assert read == common - {"accumulate"}  # which is the step's


class Whole:
    """A config of given groups."""

    def __init__(self, groups):
        self._groups = groups

    def __getattr__(self, name):
        return self._groups[name]

    def __getitem__(self, name):
        return self._groups[name]


# --- and does something --------------------------------------------------------------------------

# Another value for each key, and what must be set for it to matter.
METHOD_KEYS = {
    "hidden": 9, "out": 5, "predictor": False, "tau": 0.5, "tau_schedule": "constant",
    "beta": 0.25, "temperature": 0.7, "bn": None, "bn_groups": 2, "stop_gradient": False,
    "layers": 4, "queue": 1024, "symmetric": True, "shuffle": False, "predictor_hidden": 6,
    "norm": None, "loss": "nt_logistic", "margin": 0.5, "l2": 0.5, "mean": "inside",
    "base_temperature": 0.5, "off_diagonal": 0.5, "scale": 0.5, "invariance": 2.0, "variance": 2.0,
    "covariance": 2.0, "prototypes": 7, "epsilon": 0.5, "iterations": 2,
    "queue_epoch": 2.0, "teacher_start": 0.5, "teacher_temperature": 0.5, "teacher_epochs": 3,
    "centre_momentum": 0.5,
    "negatives": 7, "momentum": 0.25, "teacher": None, "alpha": 0.5, "predictor_norm": True,
    "mask": 0.5, "dim": 8, "depth": 1, "heads": 2, "normalised": False, "mask_tokens": True,
    "turns": 2, "every": False, "permutations": 7, "grid": 2, "tile": 1, "jitter": 1, "shift": 0,
    "normalise": False, "project": 0.5, "pairs": 3, "drop": True, "region": "random", "size": 0.75,
    "deviations": True, "band": 1, "band_weight": 3.0, "area": 0.4, "bottleneck": 9, "width": 40,
    "last": 0, "head_std": 0.5, "mixup": 0.5, "cutmix": 0.5, "mix_prob": 0.5, "switch_prob": 0.25,
    "smoothing": 0.25,
    "sample": 1, "neighbours": 4, "sigma": 4.0, "rebalance": 0.25, "seeds": 9, "patch": 6,
    "rotate": 10.0, "contrast": 3.0, "power": 3.0, "hue": 0.2, "exemplar.scale": (0.5, 2.0),
    "span": 3, "apart": 2, "positive": 0.75, "fft": 40, "window": 24, "hop": 4, "dynamic": 60.0,
}  # fmt: skip
# What must be set for a key to matter: beside it, and for any.
BESIDE = {"margin": {"loss": "triplet"}, "l2": {"loss": "n_pair"}}
BESIDE |= {"area": {"region": "random"}}
BASE = {"hidden": 8, "out": 4, "beta": 0.5, "queue": 512, "prototypes": 6, "teacher_epochs": 2}
BASE |= {"dim": 16, "depth": 2, "heads": 4}
# Tasks of images of 12 px, and classifiers with a hidden layer.
TILES = {"tile": 2, "jitter": 0, "layers": 2}
OWN = {
    "rotation": {"layers": 2},
    "jigsaw": {**TILES, "shift": 1, "permutations": 20},
    "relative": TILES,
    "inpainting": {"band": 2, "bottleneck": 8, "width": 32},
    "supervised": {"mixup": 1.0, "cutmix": 1.0},
    "colorization": {"sample": 2, "width": 32},
    "exemplar": {"seeds": 8, "patch": 5, "layers": 2},
    "shuffle": {"span": 2, "apart": 1, "layers": 2},
    "avc": {"fft": 32, "window": 32, "hop": 8, "layers": 2},
}


def program(method):
    """The text of a method's loss and of what follows the update, as jax traces them."""
    batch, key, task = make_batch(4), jax.random.key(0), ""
    if method.task:
        batch = make_batch(4, size=12, views=1)
        batch |= clips_of(batch) if method.reads else {}
        task = f"{jax.make_jaxpr(method.task)(batch, key)}\n"
        batch = jax.eval_shape(method.task, batch, key)
    params, extra = jax.eval_shape(method.init, key, batch)
    step = jnp.int32(0)
    loss = jax.make_jaxpr(method.loss)(params, extra, batch, key, step)
    if method.pictures and "prior" in extra:  # one key of colorization is theirs alone
        task += str(jax.make_jaxpr(method.pictures)(params, extra, jnp.zeros((4, 12, 12, 3)), key))
    return f"{task}{loss}\n{jax.make_jaxpr(method.after_update)(params, extra, step)}"


@pytest.mark.parametrize("name", METHODS)
def test_every_key_of_a_method_changes_its_program(x64, name):
    """Fails if a key is read and then dropped. (Do not give `bn_groups` to `wrap`.)"""
    base = {**defaults("method.name", name), **BASE, **OWN.get(name, {})}
    base = {k: v for k, v in base.items() if k in GROUPS["method.name"][name]}
    texts = {"": program(METHODS[name](Recorder(base), parts(method=name), FACTS))}
    # One is of `init` alone (test_finetune.py), one is counted by (test_colorization.py).
    for key in base.keys() - {"head_std", "images"}:
        other = METHOD_KEYS.get(f"{name}.{key}", METHOD_KEYS[key])
        if key == "bn":
            other = "joint" if base["bn"] == "per_view" else "per_view"
        if key == "norm":
            other = not base["norm"]
        if key == "teacher":
            other = a_teacher(4)
        changed = Recorder({**base, **BESIDE.get(key, {}), key: other})
        texts[key] = program(METHODS[name](changed, parts(method=name), FACTS))
        if key in BESIDE and key != "area":  # beside which `region` alone is among the changes
            plain = Recorder({**base, **BESIDE[key]})
            texts[f"{key}, plain"] = program(METHODS[name](plain, parts(), FACTS))
    assert len(set(texts.values())) == len(texts)


# Of a network with an encoder's first layers, so that layers can be counted.
PARAMS = {
    "encoder": {
        "conv1": {"kernel": np.ones((3, 4), np.float32)},
        "bn1": {"scale": np.ones(4, np.float32)},
        "layer1_0": {"conv1": {"kernel": np.ones((4, 4), np.float32)}},
    },
    "predictor": {"fc1": {"kernel": np.ones((4, 2), np.float32), "bias": np.ones(2, np.float32)}},
}
COSINE = {"optimizer__warmup_epochs": 1.0, "optimizer__weight_decay": 0.1}
STEPS = {**COSINE, "optimizer__schedule": "multistep", "optimizer__milestones": (2.0,)}
HELD = {**COSINE, "optimizer__hold": ("predictor",), "optimizer__hold_epochs": 1.0}
HELD_STEPS = {**HELD, "optimizer__hold_epochs": 0.0}
# key -> (another value, what must be set beside it)
OPTIMIZER_KEYS = {
    "optimizer__lr": (0.3, COSINE),
    "optimizer__lr_scaling": ("sqrt", COSINE),
    "optimizer__warmup_epochs": (2.0, COSINE),
    "optimizer__warmup_start": (0.5, COSINE),
    "optimizer__schedule": ("multistep", COSINE),
    "optimizer__final": (0.5, COSINE),
    "optimizer__milestones": ((1.0, 3.0), STEPS),
    "optimizer__drop": (0.5, STEPS),
    "optimizer__weight_decay": (0.2, COSINE),
    "optimizer__weight_decay_end": (0.4, COSINE),
    "optimizer__exclude": ((), COSINE),
    "optimizer__lr_factors": ((("predictor", 0.5),), COSINE),
    "optimizer__lr_fixed": (("predictor",), COSINE),
    "optimizer__layer_decay": (0.5, COSINE),
    "optimizer__hold": (("bn1",), HELD),
    "optimizer__hold_epochs": (2.0, HELD),
    "optimizer__hold_steps": (5, {**HELD_STEPS, "optimizer__hold_steps": 3}),
    "optimizer__clip_norm": (1.0, COSINE),
    "optimizer__clip_tensor": (1.0, COSINE),
    "sgd__momentum": (0.5, COSINE),
    "sgd__nesterov": (True, COSINE),
} | {
    f"{name}__{key}": (value, {**COSINE, "optimizer__name": name})
    for name, changes in {
        "lars": {
            "momentum": 0.5, "nesterov": True, "eta": 0.5, "lr_inside": True, "clip": True,
            "larc": True,
        },
        "adamw": {"b1": 0.5, "b2": 0.5, "eps": 0.5},
    }.items()
    for key, value in changes.items()
}  # fmt: skip


def update_text(config):
    """The text of an update and of the learning rate, as jax traces them."""
    optimizer = build_optimizer(resolve(config), FACTS)
    state = jax.eval_shape(optimizer.init, PARAMS)
    update = jax.make_jaxpr(optimizer.update)(PARAMS, state, PARAMS, jnp.int32(0))
    return f"{update}\n{jax.make_jaxpr(optimizer.lr)(jnp.int32(0))}"


def test_every_key_of_an_optimizer_changes_its_update():
    """Fails if a key is read and then dropped. (Give `warmup_cosine` no `final`.)"""
    keys = {k for k in KEYS if k.startswith("optimizer.")} - {"optimizer.accumulate"}
    keys |= {f"{n}.{k}" for n, rows in GROUPS["optimizer.name"].items() for k in rows}
    assert {k.replace("__", ".") for k in OPTIMIZER_KEYS} == keys - {"optimizer.name"}
    for key, (value, beside) in OPTIMIZER_KEYS.items():
        base = {"batch_size": 512, **beside}
        plain, changed = (config_of(**v) for v in (base, {**base, key: value}))
        assert update_text(plain) != update_text(changed), key
    names = {update_text(config_of(optimizer__name=name, **COSINE)) for name in OPTIMIZERS}
    assert len(names) == len(OPTIMIZERS)


def test_an_encoder_gets_every_key_of_its_group():
    """Fails if a key of `encoder`, `resnet` or `tiny` does not reach the encoder."""
    changed = {
        "encoder__name": "resnet18", "encoder__width": 0.5, "encoder__padding": "same",
        "encoder__drop_path": 0.1, "encoder__remat": True, "encoder__dtype": "bfloat16",
        "resnet__stem": "cifar", "resnet__zero_init_last": True, "resnet__project_first": True,
    }  # fmt: skip
    found = build_encoder(resolve(config_of(**changed)), 1).config
    assert {k.split("__")[1]: v for k, v in changed.items()}.items() <= found.items()
    blocks = build_encoder(resolve(config_of(resnet__space_to_depth=True)), 3)
    assert blocks.config["space_to_depth"]
    assert build_encoder(resolve(config_of(resnet__sk_ratio=0.5)), 3).config["sk_ratio"] == 0.5
    plain = config_of(encoder__name="tiny", tiny__stages=4)
    assert build_encoder(resolve(plain), 3).config["stages"] == 4
    keys = {k.split(".")[1] for k in KEYS if k.startswith("encoder.")}
    keys -= {"input"}  # which wraps it; tests/test_colorization.py
    groups = GROUPS["encoder.name"]
    assert found.keys() == keys | groups["resnet"].keys() | groups["tiny"].keys() | {"channels"}


def test_a_recipe_gets_every_key_of_its_group():
    """Fails if `small` or `count` does not reach the recipe, or an override is dropped."""
    config = config_of(views__recipe="multi_crop", multi_crop__small=40, multi_crop__count=3)
    config.multi_crop.update(
        colours="simclr", large_area=(0.14, 1.0), small_area=(0.05, 0.14), small_blur=0.5
    )
    assert set(config.multi_crop) == set(GROUPS["views.recipe"]["multi_crop"])
    config.views.overrides.aspect = (0.5, 2.0)
    recipe, _ = build_views(resolve(config), 3)
    assert [v.size for v in recipe["local"]] == [40] * 3
    seen = {(v.area, v.blur, v.saturation) for views in recipe.values() for v in views}
    assert seen == {((0.14, 1.0), 0.5, 0.8), ((0.05, 0.14), 0.5, 0.8)}
    assert {v.aspect for views in recipe.values() for v in views} == {(0.5, 2.0)}
    config.views.overrides.blurr = 0.5
    with pytest.raises(
        ValueError, match=r"key views\.overrides\.blurr: did you mean views\.overrides\.blur\?"
    ):
        build_views(resolve(config), 3)


@pytest.mark.parametrize(
    ("name", "probe", "classes", "expected"),
    [
        ("byol", True, 3, True),
        ("byol", False, 3, False),
        ("byol", True, 0, False),
        ("supervised", True, 3, False),
    ],
)
def test_a_probe_where_there_are_labels(name, probe, classes, expected):
    """Fails if a probe is trained without labels, beside a classifier, or where none is wanted."""
    config = resolve(config_of(method__name=name, method__probe=probe))
    method = build_method(config, parts("float32"), FACTS._replace(classes=classes))
    batch = make_batch(4, "float32")
    params, _ = jax.eval_shape(method.init, jax.random.key(0), batch)
    assert ("probe" in params) == expected


def test_supervised_training_needs_labels():
    """Fails if a classifier of 0 classes is trained."""
    config = resolve(config_of(method__name="supervised"))
    with pytest.raises(ValueError, match="'supervised', but the data have no labels"):
        build_method(config, parts(), FACTS._replace(classes=0))


PLAIN, NORMED = {"kernel", "bias"}, {"scale", "bias"}


@pytest.mark.parametrize(
    ("name", "values", "head"),
    [
        ("simclr", {"layers": 0}, {}),
        ("simclr", {"layers": 1}, {"fc1": {"kernel"}, "bn1": {"scale"}}),
        (
            "simclr",
            {},
            {"fc1": {"kernel"}, "bn1": NORMED, "fc2": {"kernel"}, "bn2": {"scale"}},
        ),
        ("simclr", {"norm": False}, {"fc1": PLAIN, "fc2": PLAIN}),
        ("supcon", {"norm": False, "layers": 1}, {"fc1": PLAIN}),
        (
            "barlow",
            {},
            {f"fc{i}": {"kernel"} for i in (1, 2, 3)} | {"bn1": NORMED, "bn2": NORMED},
        ),
        (
            "vicreg",
            {},
            {"fc1": PLAIN, "fc2": PLAIN, "fc3": {"kernel"}, "bn1": NORMED, "bn2": NORMED},
        ),
    ],
)
def test_the_parts_of_a_projector(name, values, head):
    """Fails if a head has a bias or a norm that its paper's has not, or lacks one."""
    keys = {**defaults("method.name", name), "hidden": 8, "out": 4, **values}
    method = METHODS[name](Recorder(keys), parts("float32"), FACTS)
    batch = make_batch(4, "float32")
    params, _ = jax.eval_shape(method.init, jax.random.key(0), batch)
    assert {layer: set(names) for layer, names in params["projector"].items()} == head


def test_supcon_needs_labels():
    """Fails if it trains as SimCLR on data without labels, and says nothing."""
    config = resolve(config_of(method__name="supcon"))
    with pytest.raises(ValueError, match=r"'supcon', whose positives .* set method\.name=simclr"):
        build_method(config, parts(), FACTS._replace(classes=0))


@pytest.mark.parametrize(
    ("loss", "key", "value", "reads"),
    [
        ("nt_xent", "margin", 0.4, "temperature"),
        ("nt_logistic_semi_hard", "l2", 0.1, "temperature"),
        ("triplet", "temperature", 0.5, "margin"),
        ("n_pair", "temperature", 0.5, "l2"),
    ],
)
def test_a_key_that_a_loss_of_simclr_does_not_read(loss, key, value, reads):
    """Fails if a margin is swept with NT-Xent, which has none."""
    values = {"simclr__loss": loss, f"simclr__{key}": value}
    config = resolve(config_of(method__name="simclr", **values))
    message = rf"simclr\.{key} is {value}, which has no effect on simclr\.loss='{loss}' \(it reads "
    with pytest.raises(ValueError, match=message + rf"simclr\.{reads}\); leave it at"):
        build_method(config, parts(), FACTS)


# --- what is refused before anything is compiled -------------------------------------------------

COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, seconds, **_: COMPILED.append(name) if "backend_compile" in name else None
)


def images(count=64, side=32):
    return Source(
        "noise",
        count,
        3,
        classes=3,
        labels=np.arange(count, dtype=np.int32) % 3,
        images=np.zeros((count, side, side, 3), np.uint8),
    )


def small(method, recipe, **values):
    return config_of(
        method__name=method, views__recipe=recipe, batch_size=16, image_size=32,
        encoder__name="tiny", encoder__width=0.25, **values,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("method", "recipe", "message"),
    [
        (
            "byol",
            "crop_flip",
            r"method\.name=byol takes 2 'views' of each image, but views\.recipe=crop_flip makes "
            r"1 'views'; views\.recipe byol, simclr, cifar, digits, moco_v1 and moco_v2 make two\.",
        ),
        ("simclr", "crop_flip", r"simclr takes 2 'views' .*=crop_flip makes 1 'views'; .*make two"),
        ("barlow", "crop_flip", r"barlow takes 2 'views' .*=crop_flip makes 1 'views'"),
        ("siamese", "crop_flip", r"siamese takes 2 'views' .*=crop_flip makes 1 'views'"),
        ("simclr", "multi_crop", r"simclr takes 2 'views' .* makes 2 'views' and 6 'local'; "),
        ("swav", "crop_flip", r"swav takes 2 'views' .*=crop_flip makes 1 'views'"),
        ("dino", "crop_flip", r"dino takes 2 'views' .*=crop_flip makes 1 'views'"),
        (
            "supervised",
            "byol",
            r"supervised takes 1 'views' .*byol makes 2 'views'; .*=crop_flip make one view",
        ),
        ("npid", "byol", r"npid takes 1 'views' .*byol makes 2 'views'; views\.recipe=npid and"),
        ("supervised", "multi_crop", r"supervised takes 1 'views' .* and 6 'local'"),
    ],
)
def test_views_that_a_method_does_not_take(method, recipe, message):
    """Fails if BYOL trains on one view, its own target, or the views that are too many are lost.

    (Leave `check_takes` out of `build`.)
    """
    config = small(method, recipe)
    if recipe == "multi_crop":
        config.multi_crop.small = 16
    COMPILED.clear()
    with pytest.raises(ValueError, match=message):
        build(config, images(), jax.devices()[:1])
    assert not COMPILED


@pytest.mark.parametrize(
    ("method", "recipe"),
    [
        *(("byol", "byol"), ("byol", "simclr"), ("simclr", "cifar"), ("supervised", "crop_flip")),
        *(("moco", "moco_v2"), ("moco", "multi_crop"), ("mocov3", "byol"), ("simsiam", "moco_v2")),
        ("nnclr", "cifar"),
        *(("byol", "multi_crop"), ("swav", "multi_crop"), ("dino", "multi_crop")),
        *(("swav", "simclr"), ("dino", "cifar")),
        ("npid", "npid"),
    ],
)
def test_views_that_a_method_takes(method, recipe):
    """Fails if a recipe that fits is refused."""
    config = small(method, recipe)
    if recipe == "multi_crop":
        config.multi_crop.small = 16
    e = build(config, images(), jax.devices()[:1])
    assert dict(e.method.takes) == {group: len(views) for group, views in e.recipe.items()}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"byol__bn_groups": 3}, r"byol\.bn_groups is 3; expected a divisor of the 16 rows"),
        ({"optimizer__accumulate": 5}, "batch_size 16 cannot be divided into"),
        ({"data__train_examples": 63}, r"data\.train_examples is 63, but noise has 64 images"),
        ({"epochs": 2**28}, r"are more than 2\*\*31 examples; lower epochs"),
        ({"mesh__fsdp": 3}, r"mesh\.fsdp is 3, but 8 devices cannot be divided by it"),
        ({"batch_size": 12}, "batch_size 12 cannot be shared evenly by 8 devices; use 8 or 16"),
        (
            {"optimizer__schedule": "multistep", "optimizer__warmup_start": 0.5},
            r"warmup_start is 0\.5; expected 0\.0 with optimizer\.schedule=multistep",
        ),
        ({"optimizer__weight_decay_end": -0.5}, r"weight_decay_end is -0\.5; expected 0 or more"),
        ({"optimizer__layer_decay": 0.5}, "encoder.name 'tiny' has no blocks to count layers by"),
        ({"optimizer__lr_fixed": (1.0,)}, r"lr_fixed is \(1\.0,\); expected names"),
        ({"optimizer__lr_factors": ("bias", 0.5)}, "lr_factors has 'bias'; expected pairs"),
        ({"optimizer__lr_factors": (("bias", -1.0),)}, r"\('bias', -1\.0\); expected pairs"),
        ({"optimizer__hold": ("a",)}, r"hold is \('a',\), .* expected names and how long to hold"),
        ({"optimizer__hold_steps": 3}, r"hold is \(\), .*hold_steps 3; expected names and"),
        (
            {"optimizer__hold": ("a",), "optimizer__hold_steps": 3, "optimizer__hold_epochs": 1.0},
            r"hold_epochs is 1\.0 and optimizer\.hold_steps is 3; set one to 0",
        ),
        ({"init_from": "/nowhere"}, "/nowhere is not a folder"),
    ],
)
def test_what_cannot_be_built(values, message):
    """Fails if a run would start, and fail or do something else later."""
    config = small("byol", "byol")
    for key, value in values.items():
        put(config, key.replace("__", "."), value)
    COMPILED.clear()
    with pytest.raises(ValueError, match=message):
        build(config, images())
    assert not COMPILED


@pytest.mark.parametrize(
    ("method", "values", "message"),
    [
        ("moco", {"queue": 24}, r"moco\.queue is 24; expected a multiple of the 16 .* 16 or 32\."),
        (
            "moco",
            {"queue": 16, "symmetric": True},
            r"the 32 that .* of 16 images adds; set it to 32",
        ),
        ("nnclr", {"queue": 8}, r"nnclr\.queue is 8; expected a multiple of the 16"),
    ],
)
def test_a_queue_that_does_not_hold_whole_batches(method, values, message):
    """Fails if a part of a batch of keys is dropped at once. (Leave out `check_queue`.)"""
    config = small(method, "moco_v2", **{f"{method}__{k}": v for k, v in values.items()})
    COMPILED.clear()
    with pytest.raises(ValueError, match=message):
        build(config, images(), jax.devices()[:1])
    assert not COMPILED
    halves = small(method, "moco_v2", optimizer__accumulate=2)
    halves[method].queue = 8  # of the micro-batch
    build(halves, images(), jax.devices()[:1])


def test_what_swav_byol_and_larc_cannot_be_built_with():
    """Fails if a queue is cut to size in silence, or negatives are left out for local views."""
    config = small("swav", "simclr", swav__queue=40)
    message = r"swav\.queue is 40; expected a multiple of the 16 that a .*; set it to 32 or 48"
    with pytest.raises(ValueError, match=message):
        build(config, images(), jax.devices()[:1])
    config.optimizer.accumulate = 2
    build(config, images(), jax.devices()[:1])
    config = small("byol", "multi_crop", byol__beta=0.5, multi_crop__small=16)
    with pytest.raises(ValueError, match=r"byol\.beta is 0\.5, but the recipe makes 6 local"):
        build(config, images(), jax.devices()[:1])
    config = small("byol", "byol", optimizer__name="lars", lars__clip=True, lars__larc=True)
    with pytest.raises(ValueError, match=r"lars\.clip and lars\.larc are both true"):
        build(config, images(), jax.devices()[:1])


# --- starting from an export ---------------------------------------------------------------------


def digits(method="byol", **values):
    recipe = "crop_flip" if method == "supervised" else "digits"
    config = config_of(
        method__name=method, views__recipe=recipe, batch_size=64, image_size=8,
        data__name="digits", encoder__name="tiny", encoder__width=0.25, **values,
    )  # fmt: skip
    if method == "byol":
        config.byol.hidden, config.byol.out = 32, 16
    return config


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """(folder, params, stats) of an encoder of `digits`, none of its arrays as drawn."""
    config = {"name": "tiny", "width": 0.25, "channels": 1}
    encoder = models.make_encoder(**config)
    image = jax.ShapeDtypeStruct((1, 1, 8, 8, 1), np.float32)
    params, stats = filled(jax.eval_shape(encoder.init, jax.random.key(0), image), seed=5)
    stats = jax.tree.map(lambda x: x + np.float32(0.25), stats)
    folder = tmp_path_factory.mktemp("export") / "encoder"
    save_encoder(folder, params, stats, EncoderInfo(config, 8, (0.3,), (0.4,)))
    return str(folder), params, stats


def equal(tree, expected):
    ours, theirs = named(tree), named(expected)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


@pytest.mark.parametrize("method", ["byol", "supervised"])
def test_a_run_starts_from_an_export(quick, export, method):
    """Fails if the online encoder or the target is drawn anew. (Give `Parts` the plain encoder.)"""
    folder, params, stats = export
    e = build(digits(method, init_from=folder), devices=jax.devices()[:1])
    state = init_state(e.method, e.optimizer, jax.random.key(7), batch_shapes(e), e.mesh)
    equal(e.method.encoder(state.params, state.extra), (params, stats))
    if method == "byol":
        target = state.extra["target"]
        equal(target["params"]["encoder"], params)
        equal(target["stats"]["encoder"], stats)
        kernels = (t["projector"]["fc1"]["kernel"] for t in (state.params, target["params"]))
        assert not np.array_equal(*kernels)  # the heads are drawn as ever


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("encoder.width", 0.5, r"has encoder\.width 0\.25, the config 0\.5; make them equal"),
        ("encoder.padding", "same", r"has encoder\.padding 'torch', the config 'same'"),
        ("encoder.name", "resnet18", r"has encoder\.name 'tiny', the config 'resnet18'"),
        ("tiny.stages", 4, r"has tiny\.stages 3, the config 4"),
    ],
)
def test_an_export_of_another_architecture_is_refused(export, key, value, message):
    """Fails if arrays are taken that have the shapes but not the meaning."""
    config = digits(init_from=export[0])
    put(config, key, value)
    with pytest.raises(ValueError, match=message):
        build(config, devices=jax.devices()[:1])


def test_a_resumed_run_needs_no_export():
    """Fails if a run cannot go on once the export that it began with is gone."""
    config, one = digits(init_from="/nowhere"), jax.devices()[:1]
    with pytest.raises(ValueError, match="/nowhere"):
        build(config, devices=one)
    assert build(config, devices=one, resumed=True).encoder.config["name"] == "tiny"


# --- the state sharded over devices --------------------------------------------------------------


def sharded(tree):
    """Names of the arrays that are not whole on every device."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    names = {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}
    return {k for k, x in names.items() if not x.sharding.is_fully_replicated}


def test_a_run_is_sharded_from_its_start(quick, monkeypatch, export):
    """Fails if `mesh.fsdp` is not read, by init, a start from an export, or the evaluation."""
    monkeypatch.setattr(meshes, "SHARD_FROM", 4)
    folder, *given = export
    e = build(digits(mesh__fsdp=4, init_from=folder))
    assert dict(e.mesh.shape) == {"data": 2, "fsdp": 4}
    state = init_state(e.method, e.optimizer, jax.random.key(1), batch_shapes(e), e.mesh)
    assert jax.tree.map(lambda x: x.sharding, state) == meshes.state_sharding(state, e.mesh)
    for kind in ("params/encoder", "extra/target/params/encoder", "opt_state"):
        assert any(k.startswith(kind) for k in sharded(state)), kind
    equal(e.method.encoder(state.params, state.extra), tuple(given))
    one = build(digits())
    whole = jax.device_put(state, meshes.replicated(one.mesh))
    # Few images: what is compared are their features.
    few = open_source("digits").take(np.arange(256))
    found = []
    for run, at in ((e, state), (one, whole)):
        run = run._replace(source=few)
        found.append(build_evaluation(run)(at, lambda: None))
    counts = {"knn/train_images", "knn/test_images", "knn/damaged"}
    assert found[0].keys() == {"knn/test_top1", "probe/test_top1"} | counts
    assert found[0] == pytest.approx(found[1], abs=0.5)
