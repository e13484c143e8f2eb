"""The numbers of the recipes of fine-tuning, from their sources."""

_SHARED = {
    "views.recipe": "crop_flip",
    "vit.pool": "mean",
    "vit.class_token": True,
    "vit.registers": 0,
    "vit.positions": "learned",
    "vit.layer_scale": 0.0,
    "vit.maps": 4,
    "vit.init": "mae",
    "method.name": "supervised",
    "supervised.last": -1,
    "supervised.norm": False,
    "supervised.head_std": 2e-5,
    "supervised.cutmix": 1.0,
    "supervised.switch_prob": 0.5,
    "supervised.smoothing": 0.1,
    "optimizer.name": "adamw",
    "optimizer.lr_scaling": "linear",
    "optimizer.warmup_start": 0.0,
    "optimizer.schedule": "cosine",
    "optimizer.weight_decay": 0.05,
    "optimizer.weight_decay_end": -1.0,
    "optimizer.exclude": ["bias", "scale", "cls_token", "pos_embed"],
    "optimizer.accumulate": 1,
    "adamw.b1": 0.9,
    "adamw.b2": 0.999,
    "adamw.eps": 1e-8,
}
# facebookresearch/mae:FINETUNE.md, with the defaults of main_finetune.py; models_vit.py.
_IMAGENET = {
    **_SHARED,
    "batch_size": 1024,
    "image_size": 224,
    "data.name": "imagenet2012",
    "supervised.mixup": 0.8,
    "supervised.mix_prob": 1.0,
    "optimizer.warmup_epochs": 5.0,
}

TABLES = {
    f"mae_finetune_imagenet_vitb:{size}": {
        **_IMAGENET,
        "encoder.name": f"vit_{size}",
        "vit.patch": patch,
        "epochs": epochs,
        "optimizer.lr": blr,
        "optimizer.final": final,  # min_lr 1e-6 of blr * 1024 / 256
        "optimizer.layer_decay": decay,
        "encoder.drop_path": drop,
    }
    for size, patch, epochs, blr, final, decay, drop in (
        ("base", 16, 100, 5e-4, 5e-4, 0.65, 0.1),
        ("large", 16, 50, 1e-3, 2.5e-4, 0.75, 0.2),
        ("huge", 14, 50, 1e-3, 2.5e-4, 0.75, 0.3),
    )
} | {
    # No paper: what the recipe says of itself.
    "mae_finetune_cifar10_cpu": {
        **_SHARED,
        "batch_size": 128,
        "epochs": 6,
        "image_size": 32,
        "data.name": "cifar10",
        "encoder.name": "vit_tiny",
        "encoder.drop_path": 0.0,
        "vit.patch": 4,
        "vit.dim": 96,
        "vit.depth": 4,
        "vit.heads": 3,
        "supervised.mixup": 0.2,
        "supervised.mix_prob": 0.5,
        "optimizer.lr": 2e-3,
        "optimizer.layer_decay": 0.75,
        "optimizer.final": 0.0,
        "optimizer.warmup_epochs": 1.0,
    },
}
# main_finetune.py: --aa rand-m9-mstd0.5-inc1, --reprob 0.25, --remode pixel, no jitter.
_RAND = {"rand_layers": 2, "rand_level": 9.0, "rand_std": 0.5, "rand_prob": 0.5}
_ERASE = {"erase": 0.25, "erase_area": (0.02, 1 / 3), "erase_aspect": (0.3, 1 / 0.3)}
VIEW = {"area": (0.08, 1.0), **_RAND, **_ERASE}
SMALL_VIEW = {
    "area": (0.4, 1.0),
    **_RAND,
    "rand_layers": 1,
    "rand_level": 5.0,
    **_ERASE,
    "erase": 0.1,
}
