"""Literal tables of the recipes of SwAV and DINO, for test_configs.py."""

_CROP = {"aspect": (3 / 4, 4 / 3), "flip": 0.5, "rotate": 0.0, "shift": 0.0, "sigma": (0.1, 2.0)}
_CROP |= {"rand_layers": 0, "erase": 0.0}
_JITTER = {"jitter": 0.8, "grey": 0.2, "brightness_scales": True}
_STRONG = {
    **_CROP, **_JITTER, "brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2,
    "blur": 0.5, "solarize": 0.0,
}  # fmt: skip
_WEAK = {
    **_CROP, **_JITTER, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1,
}  # fmt: skip
_CIFAR = {
    "area": (0.08, 1.0), "size": 32, "mean": (0.4914, 0.4822, 0.4465),
    "std": (0.2470, 0.2435, 0.2616),
}  # fmt: skip
_IMAGENET = {"kernel": 23, "mean": (0.485, 0.456, 0.406)}

# vturrisi/solo-learn:scripts/pretrain/cifar/*.yaml and solo/methods/base.py.
_SOLO = {
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
    "optimizer.name": "lars",
    "optimizer.lr_scaling": "linear",
    "optimizer.warmup_epochs": 10.0,
    "optimizer.schedule": "cosine",
    "optimizer.final": 0.0,
    "optimizer.weight_decay": 1e-6,
    "optimizer.exclude": ["bias", "scale"],
    "optimizer.hold_steps": 0,
    "optimizer.accumulate": 1,
    "lars.momentum": 0.9,
    "lars.nesterov": False,
    "lars.eta": 0.02,
    "lars.lr_inside": False,
    "lars.clip": True,
    "lars.larc": False,
}
_SWAV = {
    "method.name": "swav",
    "swav.hidden": 2048,
    "swav.out": 128,
    "swav.prototypes": 3000,
    "swav.temperature": 0.1,
    "swav.epsilon": 0.05,
    "swav.iterations": 3,
    "optimizer.hold": ["prototypes"],
}
_DINO = {
    "method.name": "dino",
    "dino.hidden": 2048,
    "dino.layers": 3,
    "dino.out": 256,
    "dino.tau_schedule": "cosine",
    "dino.temperature": 0.1,
    "dino.teacher_start": 0.04,
    "dino.teacher_epochs": 0,
    "dino.centre_momentum": 0.9,
    "dino.bn_groups": 1,
    "optimizer.hold": ["last_layer"],
    "optimizer.hold_epochs": 1.0,
    "optimizer.hold_steps": 0,
}
_R50 = {
    "image_size": 224,
    "data.name": "imagenet2012",
    "views.recipe": "multi_crop",
    "views.overrides.kernel": 23,
    "multi_crop.small": 96,
    "multi_crop.large_area": [0.14, 1.0],
    "multi_crop.small_area": [0.05, 0.14],
    "multi_crop.small_blur": 0.5,
    "encoder.name": "resnet50",
    "encoder.width": 1.0,
    "encoder.padding": "torch",
    "resnet.stem": "imagenet",
    "resnet.zero_init_last": False,
    "method.probe": True,
    "optimizer.lr_scaling": "linear",
    "optimizer.schedule": "cosine",
    "optimizer.accumulate": 1,
}

TABLES = {
    # swav.yaml; the classifier's rate is 0.1, the warm-up starts from 3e-5.
    "swav_cifar10_r18": {
        **_SOLO,
        **_SWAV,
        "views.recipe": "simclr",
        "swav.queue": 3840,
        "swav.queue_epoch": 50.0,
        "swav.bn": "per_view",
        "swav.bn_groups": 1,
        "optimizer.lr": 0.6,
        "optimizer.lr_factors": [("probe", 1 / 6)],
        "optimizer.warmup_start": 5e-5,
        "optimizer.hold_epochs": 2.0,
    },
    # dino.yaml and the defaults of solo/methods/dino.py.
    "dino_cifar10_r18": {
        **_SOLO,
        **_DINO,
        "views.recipe": "cifar",
        "dino.prototypes": 4096,
        "dino.tau": 0.9995,
        "dino.teacher_temperature": 0.07,
        "dino.bn": "per_view",
        "optimizer.lr": 0.3,
        "optimizer.lr_factors": [("probe", 1 / 3)],
        "optimizer.warmup_start": 1e-4,
        "optimizer.clip_tensor": 0.0,
    },
    # facebookresearch/dino:README.md (ResNet-50: 8 GPUs of 64) and the defaults of main_dino.py.
    "dino_imagenet_r50": {
        **_R50,
        **_DINO,
        "batch_size": 512,
        "epochs": 100,
        "views.overrides.brightness_scales": True,
        "multi_crop.count": 8,
        "multi_crop.colours": "byol",
        "encoder.drop_path": 0.0,
        "dino.prototypes": 65536,
        "dino.tau": 0.996,
        "dino.teacher_temperature": 0.04,
        "dino.bn": "joint",
        "optimizer.name": "sgd",
        "optimizer.lr": 0.03,
        "optimizer.warmup_epochs": 10.0,
        "optimizer.warmup_start": 0.0,
        "optimizer.final": 1e-6 / 0.06,  # --min_lr at 0.03 x 512 / 256
        "optimizer.weight_decay": 1e-4,
        "optimizer.weight_decay_end": -1.0,
        "optimizer.exclude": ["bias", "scale"],
        "optimizer.clip_tensor": 3.0,
        "sgd.momentum": 0.9,
        "sgd.nesterov": False,
    },
} | {
    # facebookresearch/swav:scripts/swav_800ep_pretrain.sh, swav_200ep_bs256_pretrain.sh, the
    # defaults of main_swav.py and src/multicropdataset.py.
    f"swav_imagenet_r50:{epochs}": {
        **_R50,
        **_SWAV,
        "batch_size": batch,
        "epochs": epochs,
        "views.mean": [0.485, 0.456, 0.406],
        "views.std": [0.228, 0.224, 0.225],
        "multi_crop.count": 6,
        "multi_crop.colours": "simclr",
        "swav.queue": queue,
        "swav.queue_epoch": 15.0,
        "swav.bn": "joint",
        "swav.bn_groups": groups,
        "optimizer.name": "lars",
        "optimizer.lr": lr,
        "optimizer.warmup_epochs": warmup,
        "optimizer.warmup_start": start,
        "optimizer.final": 0.001,
        "optimizer.weight_decay": 1e-6,
        "optimizer.exclude": [],
        "optimizer.hold_epochs": 0.0,
        "optimizer.hold_steps": held,
        "lars.momentum": 0.9,
        "lars.nesterov": False,
        "lars.eta": 1e-3,
        "lars.lr_inside": False,
        "lars.clip": False,
        "lars.larc": True,
    }
    for epochs, batch, lr, warmup, start, queue, held, groups in (
        (800, 4096, 4.8 / 16, 10.0, 0.3 / 4.8, 0, 313, 8),
        (200, 256, 0.6, 0.0, 0.0, 3840, 5005, 1),
    )
}

_SWAV_VIEW = {**_STRONG, **_IMAGENET, "std": (0.228, 0.224, 0.225)}
_DINO_VIEW = {**_WEAK, **_IMAGENET, "std": (0.229, 0.224, 0.225)}
_DINO_LARGE = {**_DINO_VIEW, "size": 224, "area": (0.14, 1.0)}

VIEWS = {
    "swav_cifar10_r18": [{**_STRONG, **_CIFAR, "kernel": 13}] * 2,
    "dino_cifar10_r18": [{**_WEAK, **_CIFAR, "blur": 0.0, "solarize": p} for p in (0.0, 0.2)],
    "swav_imagenet_r50:800": {
        "views": [{**_SWAV_VIEW, "size": 224, "area": (0.14, 1.0)}] * 2,
        "local": [{**_SWAV_VIEW, "size": 96, "area": (0.05, 0.14)}] * 6,
    },
    "dino_imagenet_r50": {
        "views": [
            {**_DINO_LARGE, "blur": 1.0, "solarize": 0.0},
            {**_DINO_LARGE, "blur": 0.1, "solarize": 0.2},
        ],
        "local": [{**_DINO_VIEW, "size": 96, "area": (0.05, 0.14), "blur": 0.5, "solarize": 0.0}]
        * 8,
    },
}
