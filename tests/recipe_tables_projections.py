"""Literal tables for tests/test_configs.py: methods whose loss is a function of projections."""

# vturrisi/solo-learn:scripts/pretrain/cifar/*.yaml; as for BYOL, the warm-up (10 epochs from 3e-5)
# and the momentum are defaults of its code, and the classifier's rate is 0.1.
SOLO = {
    "batch_size": 256,
    "epochs": 1000,
    "image_size": 32,
    "data.name": "cifar10",
    "encoder.name": "resnet18",
    "encoder.width": 1.0,
    "encoder.padding": "torch",
    "resnet.stem": "cifar",
    "resnet.zero_init_last": False,
    "resnet.project_first": False,
    "method.probe": True,
    "optimizer.lr_scaling": "linear",
    "optimizer.warmup_epochs": 10.0,
    "optimizer.schedule": "cosine",
    "optimizer.final": 0.0,
    "optimizer.accumulate": 1,
}
SOLO_LARS = {
    **SOLO,
    "optimizer.name": "lars",
    "optimizer.weight_decay": 1e-4,
    "optimizer.exclude": ["bias", "scale"],
    "lars.momentum": 0.9,
    "lars.nesterov": False,
    "lars.eta": 0.02,
    "lars.lr_inside": False,
    "lars.clip": True,
}
# facebookresearch/barlowtwins:main.py and facebookresearch/vicreg:main_vicreg.py have the same
# LARS, schedule and network.
REDUNDANCY = {
    "image_size": 224,
    "data.name": "imagenet2012",
    "views.recipe": "byol",
    "encoder.name": "resnet50",
    "encoder.width": 1.0,
    "encoder.padding": "torch",
    "resnet.stem": "imagenet",
    "resnet.zero_init_last": True,
    "method.probe": True,
    "optimizer.name": "lars",
    "optimizer.lr_scaling": "linear",
    "optimizer.warmup_epochs": 10.0,
    "optimizer.warmup_start": 0.0,
    "optimizer.schedule": "cosine",
    "optimizer.final": 0.001,
    "optimizer.weight_decay": 1e-6,
    "optimizer.exclude": ["bias", "scale"],
    "optimizer.accumulate": 1,
    "lars.momentum": 0.9,
    "lars.nesterov": False,
    "lars.eta": 1e-3,
    "lars.lr_inside": False,
    "lars.clip": False,
}
_NO_GROUPS = {"bn": "per_view", "bn_groups": 1}
_PLAIN_HEAD = {"hidden": 2048, "out": 256, "layers": 2, "norm": False, "temperature": 0.2}


def of(group, *tables, **values):
    """{"group.key": value} of several tables, and the method's name."""
    found = {k: v for table in (*tables, values) for k, v in table.items()}
    return {"method.name": group} | {f"{group}.{k}": v for k, v in found.items()}


TABLES = {
    "simclr_cifar10_r18": {
        **SOLO_LARS,
        **of("simclr", _PLAIN_HEAD, _NO_GROUPS, loss="nt_xent"),
        "views.recipe": "simclr",
        "optimizer.lr": 0.4,
        "optimizer.lr_factors": [("probe", 0.25)],
        "optimizer.warmup_start": 7.5e-5,
    },
    # solo/losses/simclr.py sums the positives inside the logarithm. The classifier's decay is 0.
    "supcon_cifar10_r18": {
        **SOLO,
        **of("supcon", _PLAIN_HEAD, _NO_GROUPS, base_temperature=0.0, mean="inside"),
        "views.recipe": "simclr",
        "optimizer.name": "sgd",
        "optimizer.lr": 0.4,
        "optimizer.lr_factors": [("probe", 0.25)],
        "optimizer.warmup_start": 7.5e-5,
        "optimizer.weight_decay": 1e-5,
        "optimizer.exclude": ["probe"],
        "sgd.momentum": 0.9,
        "sgd.nesterov": False,
    },
    "barlow_cifar10_r18": {
        **SOLO_LARS,
        **of(
            "barlow",
            _NO_GROUPS,
            hidden=2048,
            out=2048,
            layers=3,
            off_diagonal=0.0051,
            scale=0.1,
        ),
        "views.recipe": "cifar",
        "optimizer.lr": 0.3,
        "optimizer.lr_factors": [("probe", 1 / 3)],
        "optimizer.warmup_start": 1e-4,
    },
    # Its variance term is the sum of both views, ours their mean.
    "vicreg_cifar10_r18": {
        **SOLO_LARS,
        **of("vicreg", _NO_GROUPS, hidden=2048, out=2048, layers=3),
        **of("vicreg", invariance=25.0, variance=2 * 25.0, covariance=1.0),
        "views.recipe": "cifar",
        "optimizer.lr": 0.3,
        "optimizer.lr_factors": [("probe", 1 / 3)],
        "optimizer.warmup_start": 1e-4,
    },
    # The published run is that of README.md, on 16 GPUs, whose gradients are averaged.
    "barlow_imagenet_r50": {
        **REDUNDANCY,
        **of("barlow", _NO_GROUPS, hidden=8192, out=8192, layers=3),
        **of("barlow", off_diagonal=0.0051, scale=1 / 16),
        "batch_size": 2048,
        "epochs": 1000,
        "optimizer.lr": 0.2,
        "optimizer.lr_factors": [("bias", 0.024), ("scale", 0.024)],  # 0.0048
    },
    # google-research/simclr:README.md and Chen et al. 2020 (v2), section 3: lr 0.1 sqrt(batch),
    # warm-up over 5% of the run.
    "simclr2_imagenet_r50": {
        **REDUNDANCY,
        **of("simclr", hidden=2048, out=128, layers=3, norm=True, loss="nt_xent", temperature=0.1),
        "simclr.bn": "joint",
        "simclr.bn_groups": 1,
        "batch_size": 4096,
        "epochs": 800,
        "views.recipe": "simclr",
        "optimizer.lr": 0.1,
        "optimizer.lr_scaling": "sqrt",
        "optimizer.warmup_epochs": 40.0,
        "optimizer.final": 0.0,
        "optimizer.weight_decay": 1e-4,
        "lars.lr_inside": True,
    },
    # google-research/google-research:supcon/scripts/supcon_imagenet_resnet50.sh, configs.sh;
    # utils.py (LARS), hparams_flags.py (warm-up).
    "supcon_imagenet_r50": {
        **REDUNDANCY,
        **of("supcon", out=128, layers=1, norm=False, temperature=0.1, base_temperature=1.0),
        **of("supcon", mean="outside", bn="joint", bn_groups=1),
        "batch_size": 6144,
        "epochs": 350,
        "views.recipe": "simclr",
        "optimizer.lr": 0.4,
        "optimizer.warmup_epochs": 12.0,
        "optimizer.final": 0.0,
        "optimizer.weight_decay": 1e-3,
        "lars.lr_inside": True,
    },
} | {
    f"vicreg_imagenet_r50:{epochs}": {
        **REDUNDANCY,
        **of("vicreg", _NO_GROUPS, hidden=8192, out=8192, layers=3),
        **of("vicreg", invariance=25.0, variance=25.0, covariance=1.0),
        "batch_size": batch,
        "epochs": epochs,
        "optimizer.lr": lr,
    }
    for epochs, batch, lr in ((1000, 2048, 0.2), (100, 512, 0.3))
}
