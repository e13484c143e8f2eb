"""Fine-tuning MAE's ViT-Base, -Large or -Huge on ImageNet, the authors' recipe.

    python -m byol_jax.export --workdir runs/mae_vitb --format orbax --out exports/mae_vitb
    python -m byol_jax.train --config configs/mae_finetune_imagenet_vitb.py \\
        --workdir runs/mae_vitb_tuned --config.init_from=exports/mae_vitb
    python -m byol_jax.train --config configs/mae_finetune_imagenet_vitb.py:large \\
        --workdir runs/mae_vitl_tuned --config.init_from=exports/mae_vitl

The argument is the size: base, large or huge (patches of 14 px). With --config.supervised.last=K
only the last K blocks are trained, the paper's partial fine-tuning; 0 is a linear probe.
Paper: He et al. 2022; facebookresearch/mae:FINETUNE.md, main_finetune.py. Published after 1600
epochs of pre-training: 83.6 / 85.9 / 86.9 top-1. What differs: their last norm is a new one, this
one goes on from the encoder's; their rectangle of random erasing is drawn again if it does not fit,
this one is cut.
On a TPU make the views on the host (the default): RandAugment gathers single pixels.
Hardware, hours and accuracy of this code: not yet run here.
"""

from ml_collections import ConfigDict

from byol_jax.config import default_config

# size -> (patch in px, epochs, learning rate at batch 256, layer decay, drop path)
SIZES = {
    "base": (16, 100, 5e-4, 0.65, 0.1),
    "large": (16, 50, 1e-3, 0.75, 0.2),
    "huge": (14, 50, 1e-3, 0.75, 0.3),
}


def get_config(size: str = "base") -> ConfigDict:
    """The config for a size.

    Raises:
      ValueError: the authors give no recipe for it.
    """
    if size not in SIZES:
        raise ValueError(f"No recipe for the size {size!r}; expected one of {', '.join(SIZES)}.")
    patch, epochs, lr, decay, drop = SIZES[size]
    c = default_config()
    c.batch_size = 1024
    c.epochs = epochs
    c.image_size = 224

    c.data.name = "imagenet2012"
    c.views.recipe = "crop_flip"
    c.views.overrides.rand_layers = 2  # rand-m9-mstd0.5-inc1
    c.views.overrides.rand_level = 9.0
    c.views.overrides.rand_std = 0.5
    c.views.overrides.rand_prob = 0.5
    c.views.overrides.erase = 0.25

    c.encoder.name = f"vit_{size}"
    c.encoder.drop_path = drop
    c.encoder.dtype = "bfloat16"
    c.vit.patch = patch
    c.vit.pool = "mean"
    c.vit.class_token = True
    c.vit.registers = 0
    c.vit.positions = "learned"  # from the fixed ones of the export
    c.vit.layer_scale = 0.0
    c.vit.maps = 4
    c.vit.init = "mae"

    c.method.name = "supervised"
    c.supervised.last = -1
    c.supervised.norm = False
    c.supervised.head_std = 2e-5
    c.supervised.mixup = 0.8
    c.supervised.cutmix = 1.0
    c.supervised.mix_prob = 1.0
    c.supervised.switch_prob = 0.5
    c.supervised.smoothing = 0.1

    c.optimizer.name = "adamw"
    c.optimizer.lr = lr
    c.optimizer.lr_scaling = "linear"
    c.optimizer.layer_decay = decay
    c.optimizer.warmup_epochs = 5.0
    c.optimizer.warmup_start = 0.0
    c.optimizer.schedule = "cosine"
    c.optimizer.final = 1e-6 / (4 * lr)  # of the rate at this batch
    c.optimizer.weight_decay = 0.05
    c.optimizer.weight_decay_end = -1.0
    c.optimizer.exclude = ("bias", "scale", "cls_token", "pos_embed")
    c.optimizer.accumulate = 1
    c.adamw.b1 = 0.9
    c.adamw.b2 = 0.999
    c.adamw.eps = 1e-8
    return c
