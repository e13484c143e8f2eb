"""The numbers of MAE's recipes and of MoCo v3's for transformers, from their sources."""

_VIT = {
    "encoder.drop_path": 0.0,
    "vit.patch": 16,
    "vit.class_token": True,
    "vit.registers": 0,
    "vit.positions": "sincos",
    "vit.layer_scale": 0.0,
    "vit.maps": 4,
}
_SHARED = {
    "method.probe": True,
    "optimizer.name": "adamw",
    "optimizer.lr_scaling": "linear",
    "optimizer.warmup_start": 0.0,
    "optimizer.schedule": "cosine",
    "optimizer.final": 0.0,
    "optimizer.weight_decay_end": -1.0,
    "optimizer.accumulate": 1,
    "adamw.b1": 0.9,
    "adamw.eps": 1e-8,
}
_IMAGENET = {**_VIT, "image_size": 224, "data.name": "imagenet2012", "vit.pool": "token"}
_METHOD = {
    **_SHARED,
    "views.recipe": "crop_flip",
    "vit.init": "mae",
    "method.name": "mae",
    "mae.mask": 0.75,
    "mae.normalised": True,
    "mae.mask_tokens": False,
    "optimizer.weight_decay": 0.05,
    "optimizer.exclude": ["bias", "scale"],
    "adamw.b2": 0.95,
    "eval.linear_norm": True,  # main_linprobe.py
}
# facebookresearch/mae:PRETRAIN.md, main_pretrain.py, models_mae.py.
_MAE = {
    **_IMAGENET,
    **_METHOD,
    "batch_size": 4096,
    "epochs": 800,
    "mae.dim": 512,
    "mae.depth": 8,
    "mae.heads": 16,
    "optimizer.lr": 1.5e-4,
    "optimizer.warmup_epochs": 40.0,
}
# facebookresearch/moco-v3:CONFIG.md, main_moco.py, vits.py, moco/builder.py.
_MOCOV3 = {
    **_IMAGENET,
    **_SHARED,
    "batch_size": 4096,
    "epochs": 300,
    "views.recipe": "byol",
    "vit.heads": 12,
    "vit.init": "mocov3",
    "method.name": "mocov3",
    "mocov3.hidden": 4096,
    "mocov3.out": 256,
    "mocov3.layers": 3,
    "mocov3.predictor_norm": True,
    "mocov3.tau": 0.99,
    "mocov3.tau_schedule": "cosine",
    "mocov3.temperature": 0.2,
    "mocov3.bn": "per_view",
    "mocov3.bn_groups": 1,
    "optimizer.lr": 1.5e-4,
    "optimizer.lr_factors": [("encoder/patch_embed", 0.0)],
    "optimizer.warmup_epochs": 40.0,
    "optimizer.weight_decay": 0.1,
    "optimizer.exclude": [],
    "adamw.b2": 0.999,
}
# No paper: what the recipes say of themselves.
_CIFAR = {**_VIT, **_METHOD, "image_size": 32, "data.name": "cifar10", "vit.pool": "mean"}

TABLES = {
    "mae_imagenet_vitb": {**_MAE, "encoder.name": "vit_base"},
    "mae_imagenet_vitb:large": {**_MAE, "encoder.name": "vit_large"},
    "mae_imagenet_vitb:huge": {**_MAE, "encoder.name": "vit_huge", "vit.patch": 14},
    "mocov3_imagenet_vits": {**_MOCOV3, "encoder.name": "vit_small"},
    "mocov3_imagenet_vits:base": {**_MOCOV3, "encoder.name": "vit_base"},
    "mae_cifar10_vit": {
        **_CIFAR,
        "batch_size": 512,
        "epochs": 200,
        "encoder.name": "vit_tiny",
        "vit.patch": 4,
        "mae.dim": 192,
        "mae.depth": 4,
        "mae.heads": 3,
        "optimizer.lr": 5e-4,
        "optimizer.warmup_epochs": 20.0,
    },
    "mae_cifar10_cpu": {
        **_CIFAR,
        "batch_size": 128,
        "epochs": 6,
        "encoder.name": "vit_tiny",
        "vit.patch": 4,
        "vit.dim": 96,
        "vit.depth": 4,
        "vit.heads": 3,
        "mae.dim": 64,
        "mae.depth": 1,
        "mae.heads": 4,
        "optimizer.lr": 4e-3,
        "optimizer.warmup_epochs": 1.0,
    },
}
