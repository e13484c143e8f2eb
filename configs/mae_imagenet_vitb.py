"""MAE on ImageNet with ViT-Base, -Large or -Huge, the authors' recipe.

    python -m byol_jax.train --config configs/mae_imagenet_vitb.py --workdir runs/mae_vitb
    python -m byol_jax.train --config configs/mae_imagenet_vitb.py:large --workdir runs/mae_vitl

The argument is the size: base, large or huge (patches of 14 px).
Paper: He et al. 2022, table 8; the command of facebookresearch/mae:PRETRAIN.md with the defaults of
main_pretrain.py. Published after 1600 epochs (--config.epochs=1600): fine-tuned 83.6 / 85.9 / 86.9,
linear 67.8 / 76.0 / 77.2 top-1; 800 epochs of ViT-Large took 42 hours on 64 V100. No difference is
known but for the online probe, which they do not have.
Hardware, hours and accuracy of this code: not yet run here.
"""

from ml_collections import ConfigDict

from byol_jax.config import default_config

PATCHES = {"base": 16, "large": 16, "huge": 14}  # px


def get_config(size: str = "base") -> ConfigDict:
    """The config for a size.

    Raises:
      ValueError: the authors give no recipe for it.
    """
    if size not in PATCHES:
        raise ValueError(f"No recipe for the size {size!r}; expected one of {', '.join(PATCHES)}.")
    c = default_config()
    c.batch_size = 4096
    c.epochs = 800
    c.image_size = 224

    c.data.name = "imagenet2012"
    c.views.recipe = "crop_flip"
    c.views.overrides.area = (0.2, 1.0)

    c.encoder.name = f"vit_{size}"
    c.encoder.drop_path = 0.0
    c.encoder.dtype = "bfloat16"
    c.vit.patch = PATCHES[size]
    c.vit.pool = "token"
    c.vit.class_token = True
    c.vit.registers = 0
    c.vit.positions = "sincos"
    c.vit.layer_scale = 0.0
    c.vit.maps = 4
    c.vit.init = "mae"

    c.method.name = "mae"
    c.method.probe = True
    c.mae.mask = 0.75
    c.mae.dim = 512
    c.mae.depth = 8
    c.mae.heads = 16
    c.mae.normalised = True
    c.mae.mask_tokens = False

    c.optimizer.name = "adamw"
    c.optimizer.lr = 1.5e-4
    c.optimizer.lr_scaling = "linear"
    c.optimizer.warmup_epochs = 40.0
    c.optimizer.warmup_start = 0.0
    c.optimizer.schedule = "cosine"
    c.optimizer.final = 0.0
    c.optimizer.weight_decay = 0.05
    c.optimizer.weight_decay_end = -1.0
    c.optimizer.exclude = ("bias", "scale")  # not the class token, the mask token
    c.optimizer.accumulate = 1
    c.adamw.b1 = 0.9
    c.adamw.b2 = 0.95
    c.adamw.eps = 1e-8
    c.eval.linear_norm = True
    return c
