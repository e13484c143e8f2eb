"""The published recipes in configs/ against literal tables of their papers' numbers."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest
import recipe_tables_clips
import recipe_tables_clusters
import recipe_tables_finetune
import recipe_tables_instances
import recipe_tables_masked
import recipe_tables_pretext
import recipe_tables_projections
import recipe_tables_queries

from byol_jax import config as configuration
from byol_jax.config import flatten, resolve
from byol_jax.data.facts import FACTS
from byol_jax.experiment.methods import Facts
from byol_jax.experiment.optimizers import build_optimizer
from byol_jax.experiment.views import build_views

FOLDER = Path(__file__).parents[1] / "configs"

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CIFAR = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}
CROP = {"area": (0.08, 1.0), "aspect": (3 / 4, 4 / 3), "flip": 0.5, "rotate": 0.0, "shift": 0.0}
CROP |= {"rand_layers": 0, "erase": 0.0}

# google-deepmind/deepmind-research:byol/configs/byol.py, utils/optimizers.py and utils/schedules.py
# (Grill et al. 2020, appendix). README.md, "Note on batch normalization": the paper's networks were
# not initialised with zero scales. Padding is torch's, a deviation (docs/architecture.md).
BYOL = {
    "batch_size": 4096,
    "image_size": 224,
    "data.name": "imagenet2012",
    "views.recipe": "byol",
    "encoder.name": "resnet50",
    "encoder.width": 1.0,
    "encoder.padding": "torch",
    "resnet.stem": "imagenet",
    "resnet.zero_init_last": False,
    "method.name": "byol",
    "method.probe": True,
    "byol.hidden": 4096,
    "byol.out": 256,
    "byol.predictor": True,
    "byol.tau_schedule": "cosine",
    "byol.beta": 0.0,
    "byol.bn": "per_view",
    "byol.bn_groups": 1,
    "optimizer.name": "lars",
    "optimizer.lr_scaling": "linear",  # base_learning_rate * batch_size / 256
    "optimizer.warmup_epochs": 10.0,
    "optimizer.warmup_start": 0.0,
    "optimizer.schedule": "cosine",
    "optimizer.final": 0.0,
    "optimizer.exclude": ["bias", "scale"],
    "optimizer.accumulate": 1,
    "lars.momentum": 0.9,
    "lars.nesterov": False,
    "lars.eta": 1e-3,
    "lars.lr_inside": False,
    "lars.clip": False,
}

TABLES = {
    # _LR_PRESETS, _WD_PRESETS and _EMA_PRESETS of byol/configs/byol.py.
    f"byol_imagenet_r50:{epochs}": {
        **BYOL,
        "epochs": epochs,
        "optimizer.lr": lr,
        "optimizer.weight_decay": decay,
        "byol.tau": tau,
    }
    for epochs, lr, decay, tau in (
        (40, 0.45, 1e-6, 0.97),
        (100, 0.45, 1e-6, 0.99),
        (300, 0.3, 1e-6, 0.99),
        (1000, 0.2, 1.5e-6, 0.996),
    )
} | {
    # byol/README.md, "Setup for fast iteration": "other parameters unchanged" of 1000 epochs. It is
    # run as the code is, so with Haiku's SAME padding and shortcuts, and zero scales at the start.
    "byol_imagenette_r18": {
        **BYOL,
        "batch_size": 256,
        "epochs": 1000,
        "image_size": 128,
        "data.name": "imagenette/160px-v2",
        "encoder.name": "resnet18",
        "encoder.padding": "same",
        "resnet.project_first": True,
        "resnet.zero_init_last": True,
        "byol.tau": 0.996,
        "optimizer.lr": 2.0,
        "optimizer.weight_decay": 1e-6,
    },
    # vturrisi/solo-learn:scripts/pretrain/cifar/byol.yaml; the warm-up (10 epochs from 3e-5), the
    # momentum and the end of the cosine are the defaults of solo/methods/base.py. The classifier
    # has a rate of its own, 0.1 of 1.0.
    "byol_cifar10_r18": {
        **BYOL,
        "batch_size": 256,
        "epochs": 1000,
        "image_size": 32,
        "data.name": "cifar10",
        "views.recipe": "cifar",
        "encoder.name": "resnet18",
        "resnet.stem": "cifar",
        "resnet.project_first": False,
        "byol.tau": 0.99,
        "optimizer.lr": 1.0,
        "optimizer.weight_decay": 1e-5,
        "optimizer.warmup_start": 3e-5,
        "optimizer.lr_factors": [("probe", 0.1)],
        "lars.eta": 0.02,
        "lars.clip": True,
    },
    # Chen et al. 2020, section 2 and appendix B; google-research/simclr:README.md (ImageNet),
    # resnet.py (init_zero of the last norm; explicit padding) and lars_optimizer.py.
    "simclr_imagenet_r50:100": {
        "batch_size": 4096,
        "epochs": 100,
        "image_size": 224,
        "data.name": "imagenet2012",
        "views.recipe": "simclr",
        "encoder.name": "resnet50",
        "encoder.width": 1.0,
        "encoder.padding": "torch",
        "resnet.stem": "imagenet",
        "resnet.zero_init_last": True,
        "method.name": "simclr",
        "method.probe": True,
        "simclr.hidden": 2048,
        "simclr.out": 128,
        "simclr.layers": 2,
        "simclr.norm": True,
        "simclr.loss": "nt_xent",
        "simclr.temperature": 0.1,
        "simclr.bn": "joint",
        "simclr.bn_groups": 1,
        "optimizer.name": "lars",
        "optimizer.lr": 0.3,
        "optimizer.lr_scaling": "linear",
        "optimizer.warmup_epochs": 10.0,
        "optimizer.warmup_start": 0.0,
        "optimizer.schedule": "cosine",
        "optimizer.final": 0.0,
        "optimizer.weight_decay": 1e-6,
        "optimizer.exclude": ["bias", "scale"],
        "optimizer.accumulate": 1,
        "lars.momentum": 0.9,
        "lars.nesterov": False,
        "lars.eta": 1e-3,
        "lars.lr_inside": True,
        "lars.clip": False,
    },
}

TABLES |= recipe_tables_queries.TABLES
TABLES |= recipe_tables_projections.TABLES
TABLES |= recipe_tables_clusters.TABLES
TABLES |= recipe_tables_instances.TABLES
TABLES |= recipe_tables_masked.TABLES
TABLES |= recipe_tables_pretext.TABLES
TABLES |= recipe_tables_finetune.TABLES
TABLES |= recipe_tables_clips.TABLES

# byol/utils/augmentations.py (augment_config) and utils/dataset.py; taps: int(side / 10 / 2) each
# side of the middle one.
BYOL_VIEW = {
    **CROP, "jitter": 0.8, "brightness": 0.4, "brightness_scales": False, "contrast": 0.4,
    "saturation": 0.2, "hue": 0.1, "grey": 0.2, "sigma": (0.1, 2.0), **IMAGENET,
}  # fmt: skip
# google-research/simclr:data_util.py at strength 1, and no normalisation.
SIMCLR_VIEW = {
    **CROP, "jitter": 0.8, "brightness": 0.8, "brightness_scales": True, "contrast": 0.8,
    "saturation": 0.8, "hue": 0.2, "grey": 0.2, "blur": 0.5, "sigma": (0.1, 2.0), "kernel": 23,
    "solarize": 0.0, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "size": 224,
}  # fmt: skip
# scripts/pretrain/cifar/augmentations/asymmetric.yaml; torchvision's ColorJitter multiplies.
CIFAR_VIEW = {
    **BYOL_VIEW, "brightness_scales": True, "blur": 0.0, "size": 32, **CIFAR,
}  # fmt: skip


def byol_views(size, taps):
    always, rarely = {"blur": 1.0, "solarize": 0.0}, {"blur": 0.1, "solarize": 0.2}
    return [{**BYOL_VIEW, "size": size, "kernel": taps, **own} for own in (always, rarely)]


# facebookresearch/moco:main_moco.py; torchvision's ColorJitter multiplies.
_MOCO_VIEW = {
    **BYOL_VIEW, "area": (0.2, 1.0), "brightness_scales": True, "saturation": 0.4, "blur": 0.5,
    "kernel": 23, "solarize": 0.0, "size": 224,
}  # fmt: skip
_MOCO_V1_VIEW = {**_MOCO_VIEW, "jitter": 1.0, "hue": 0.4, "blur": 0.0}
_MOCO_CIFAR_VIEW = {
    **_MOCO_VIEW, **CIFAR, "area": (0.08, 1.0), "blur": 0.0, "size": 32, "kernel": 3,
    "std": (0.2023, 0.1994, 0.2010),
}  # fmt: skip
# scripts/pretrain/cifar/augmentations/symmetric_weak.yaml; Pillow's blur is as wide as sigma asks.
_WEAK_VIEW = {**_MOCO_CIFAR_VIEW, **CIFAR, "blur": 0.5, "kernel": 13}
# facebookresearch/moco-v3:main_moco.py with --crop-min=.2.
_MOCOV3_VIEWS = [
    {**view, "area": (0.2, 1.0), "brightness_scales": True} for view in byol_views(224, 23)
]
# The same for transformers, with the default --crop-min.
_MOCOV3_VIT_VIEWS = [{**view, "area": (0.08, 1.0)} for view in _MOCOV3_VIEWS]
# facebookresearch/mae:main_pretrain.py: crop and flip alone.
MAE_VIEW = {
    **BYOL_VIEW, "area": (0.2, 1.0), "jitter": 0.0, "saturation": 0.0, "hue": 0.0, "grey": 0.0,
    "blur": 0.0, "solarize": 0.0, "size": 224,
}  # fmt: skip
# augmentations/symmetric.yaml; Pillow's blur.
SYMMETRIC_VIEW = {**SIMCLR_VIEW, "size": 32, "kernel": 13, **CIFAR}
# Transform of barlowtwins' main.py, and vicreg's augmentations.py: BYOL's, torchvision's jitter.
SCALED_VIEWS = [{**view, "brightness_scales": True} for view in byol_views(224, 23)]

# cifar.py and main.py of instance discrimination: torchvision's jitter, always.
INSTANCE_VIEW = {
    **CROP, "area": (0.2, 1.0), "jitter": 1.0, "brightness": 0.4, "brightness_scales": True,
    "contrast": 0.4, "saturation": 0.4, "hue": 0.4, "grey": 0.2, "blur": 0.0, "solarize": 0.0,
    "sigma": (0.1, 2.0), "size": 224, **IMAGENET,
}  # fmt: skip

VIEWS = recipe_tables_clusters.VIEWS | {
    "moco_v1_imagenet_r50": [_MOCO_V1_VIEW] * 2,
    "moco_v2_imagenet_r50:200": [_MOCO_VIEW] * 2,
    "moco_cifar10_r18:200": [_MOCO_CIFAR_VIEW] * 2,
    "mocov3_cifar10_r18": [{**CIFAR_VIEW, "solarize": p} for p in (0.0, 0.2)],
    "mocov3_imagenet_r50:300": _MOCOV3_VIEWS,
    "mocov3_imagenet_vits": _MOCOV3_VIT_VIEWS,
    "mae_imagenet_vitb:large": [MAE_VIEW],
    "mae_cifar10_vit": [{**MAE_VIEW, **CIFAR, "size": 32}],
    "mae_finetune_imagenet_vitb:huge": [{**MAE_VIEW, **recipe_tables_finetune.VIEW}],
    "mae_finetune_cifar10_cpu": [
        {**MAE_VIEW, **CIFAR, "size": 32, **recipe_tables_finetune.SMALL_VIEW}
    ],
    # Pretext tasks: a square of the image, of one size; grey puzzles.
    "rotation_cifar10_r18": [
        {**MAE_VIEW, **CIFAR, "size": 32, "area": (1.0, 1.0), "aspect": (1.0, 1.0), "shift": 0.125}
    ],
    "rotation_imagenet_r50": [{**MAE_VIEW, "area": (0.08, 1.0)}],
    "jigsaw_imagenet_r50:100": [
        {**MAE_VIEW, "size": 255, "area": (0.75, 0.75), "aspect": (1.0, 1.0), "grey": 0.66}
    ],
    "inpainting_imagenet_r50": [
        {
            **MAE_VIEW,
            "size": 128,
            "area": (0.1, 0.1),
            "aspect": (1.0, 1.0),
            "std": (0.5, 0.5, 0.5),
        }
    ],
    "colorization_imagenet_r50": [
        {**MAE_VIEW, "size": 192, "area": (0.5625, 0.5625), "aspect": (1.0, 1.0)}
    ],
    "several_imagenet_r50": [
        {**MAE_VIEW, "size": 256, "area": (0.57, 0.57), "aspect": (1.0, 1.0), "flip": 0.0}
    ],
    "exemplar_cifar10_r18": [
        {**MAE_VIEW, **CIFAR, "size": 32, "area": (1.0, 1.0), "aspect": (1.0, 1.0), "flip": 0.0}
    ],
    "relative_imagenet_r50": [
        {
            **MAE_VIEW,
            "size": 255,
            "area": (0.57, 0.57),
            "aspect": (1.0, 1.0),
            "flip": 0.0,
            "grey": 0.66,
        }
    ],
    # Clips: the frames of one, all cut alike.
    "shuffle_ucf101_r18": {"frames": [{**MAE_VIEW, "area": (0.5, 1.0)}] * 18},
    "avc_audioset_r18": [{**MAE_VIEW, "area": (0.5, 1.0)}],
    "simsiam_cifar10_r18": [_WEAK_VIEW] * 2,
    "simsiam_imagenet_r50": [_MOCO_VIEW] * 2,
    "nnclr_cifar10_r18": [{**CIFAR_VIEW, "solarize": p} for p in (0.0, 0.2)],
    "nnclr_imagenet_r50": byol_views(224, 23),
    "npid_imagenet_r50": [INSTANCE_VIEW],
    "npid_cifar10_r18": [
        {
            **INSTANCE_VIEW,
            "flip": 0.0,
            "size": 32,
            "mean": CIFAR["mean"],
            "std": (0.2023, 0.1994, 0.2010),
        }
    ],
    "simclr2_imagenet_r50_sk": [SIMCLR_VIEW, SIMCLR_VIEW],
    "byol_imagenet_r50:300": byol_views(224, 23),
    "byol_imagenette_r18": byol_views(128, 13),
    "byol_cifar10_r18": [{**CIFAR_VIEW, "solarize": 0.0}, {**CIFAR_VIEW, "solarize": 0.2}],
    "simclr_imagenet_r50:100": [SIMCLR_VIEW, SIMCLR_VIEW],
    "simclr2_imagenet_r50": [SIMCLR_VIEW, SIMCLR_VIEW],
    "simclr_cifar10_r18": [SYMMETRIC_VIEW, SYMMETRIC_VIEW],
    "supcon_cifar10_r18": [SYMMETRIC_VIEW, SYMMETRIC_VIEW],
    "supcon_imagenet_r50": [SIMCLR_VIEW, SIMCLR_VIEW],
    "barlow_cifar10_r18": [{**CIFAR_VIEW, "solarize": 0.0}, {**CIFAR_VIEW, "solarize": 0.2}],
    "vicreg_cifar10_r18": [{**CIFAR_VIEW, "area": (0.2, 1.0), "solarize": 0.1}] * 2,
    "barlow_imagenet_r50": SCALED_VIEWS,
    "vicreg_imagenet_r50:100": SCALED_VIEWS,
}


def config_of(recipe):
    """The config of "FILE" or "FILE:ARGUMENT", as the command line gets it."""
    name, _, argument = recipe.partition(":")
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*([argument] if argument else []))


@pytest.mark.parametrize("recipe", TABLES)
def test_a_recipe_has_its_papers_numbers(recipe):
    """Fails if a number of a recipe, or a default that it relies on, is changed."""
    found = flatten(resolve(config_of(recipe)))
    table = TABLES[recipe]
    assert {k: found.get(k) for k in table} == table


@pytest.mark.parametrize("recipe", VIEWS)
def test_a_recipe_has_its_papers_views(recipe):
    """Fails if a number of a view is changed, or the views are in another order."""
    views, spec = build_views(resolve(config_of(recipe)), 3)
    groups = VIEWS[recipe]
    groups = groups if isinstance(groups, dict) else {"views": groups}
    assert list(views) == list(groups)
    for group, expected in groups.items():
        found = [dataclasses.asdict(view) for view in views[group]]
        assert [{k: v[k] for k in e} for v, e in zip(found, expected, strict=True)] == expected
        # All fields are in the table, but for those of an operation that is never done.
        for view, table in zip(found, expected, strict=True):
            unused = set() if view["blur"] else {"kernel"}
            unused |= set() if view["rand_layers"] else {"rand_level", "rand_std", "rand_prob"}
            unused |= set() if view["erase"] else {"erase_area", "erase_aspect"}
            assert view.keys() - table.keys() <= unused
    first = views[next(iter(groups))][0]
    assert (spec.mean, spec.std) == (first.mean, first.std)


def other(row):
    """A row with another default, that is allowed as well."""
    default = row.default
    if isinstance(default, bool):
        return row._replace(default=not default)
    if row.choices:
        return row._replace(default=next(c for c in row.choices if c != default))
    if isinstance(default, str):
        return row._replace(default=f"another {default}")
    if isinstance(default, tuple):
        return row._replace(default=(*default, "another"))
    candidates = (default + 1, default / 2, 0.4321, default - 0.0625)
    candidates = [type(default)(c) for c in candidates if type(default)(c) != default]
    return row._replace(default=next(c for c in candidates if row.allows(c)))


@pytest.mark.parametrize("recipe", TABLES)
def test_a_recipe_states_every_number_itself(recipe, monkeypatch):
    """Fails if a recipe takes a number of its paper from the defaults.

    Every default of the table is another one here. (Take `byol.bn` out of a recipe.)
    """
    table = TABLES[recipe]
    keys = {k: other(row) if k in table else row for k, row in configuration.KEYS.items()}
    groups = {
        choice: {
            group: {k: other(row) if f"{group}.{k}" in table else row for k, row in rows.items()}
            for group, rows in rows_of.items()
        }
        for choice, rows_of in configuration.GROUPS.items()
    }
    monkeypatch.setattr(configuration, "KEYS", keys)
    monkeypatch.setattr(configuration, "GROUPS", groups)
    found = flatten(resolve(config_of(recipe)))
    assert {k: found.get(k) for k in table} == table


def test_every_config_file_is_allowed():
    """Fails if a file in configs/ has a key or value that is refused, or cannot be read alone."""
    names = sorted(path.stem for path in FOLDER.glob("*.py"))
    assert {name.partition(":")[0] for name in TABLES} <= set(names)
    for name in names:
        config = resolve(config_of(name))
        build_optimizer(config, Facts(examples=512, classes=3, steps=20, steps_per_epoch=4))
        build_views(config, 1 if config.data.name == "digits" else 3)
        known = config.data.name.partition("/")[0]
        assert known in FACTS or known in ("folder", "clips")


@pytest.mark.parametrize(
    "recipe",
    [
        "byol_imagenet_r50:50",
        "simclr_imagenet_r50:0",
        "byol_cifar10_r18:x",
        "byol_imagenette_r18:-1",
        "moco_v2_imagenet_r50:100",
        "mocov3_imagenet_r50:200",
        "simsiam_imagenet_r50:0",
        "simclr_cifar10_r18:x",
        "supcon_cifar10_r18:x",
        "barlow_cifar10_r18:0",
        "vicreg_cifar10_r18:x",
        "barlow_imagenet_r50:x",
        "vicreg_imagenet_r50:300",
        "simclr2_imagenet_r50:x",
        "supcon_imagenet_r50:x",
        "swav_imagenet_r50:400",
        "swav_cifar10_r18:0",
        "dino_cifar10_r18:x",
        "dino_imagenet_r50:x",
        "npid_cifar10_r18:x",
        "simclr2_imagenet_r50_sk:x",
        "distill_imagenet_r50:0",
        "mae_imagenet_vitb:giant",
        "mae_cifar10_vit:0",
        "mae_finetune_imagenet_vitb:giant",
        "mocov3_imagenet_vits:large",
        "jigsaw_imagenet_r50:701",
        "inpainting_imagenet_r50:corner",
    ],
)
def test_an_argument_without_a_recipe_is_refused(recipe):
    """Fails if a number of epochs is taken that the paper has no numbers for, or that is none."""
    with pytest.raises(ValueError, match=repr(recipe.partition(":")[2])):
        config_of(recipe)
