"""MoCo v3 on ImageNet with ViT-Small or ViT-Base, the authors' recipe.

    python -m byol_jax.train --config configs/mocov3_imagenet_vits.py --workdir runs/mocov3_vits
    python -m byol_jax.train --config configs/mocov3_imagenet_vits.py:base --workdir runs/mocov3_b

The argument is the size: small (of 12 heads, not timm's 6) or base.
Paper: Chen, Xie and He 2021; facebookresearch/moco-v3:CONFIG.md, main_moco.py, vits.py. Published
linear top-1 after 300 epochs: 73.2 (small), 76.7 (base), on 32 and 64 V100. The patch projection
stays as drawn. What differs: theirs has the row first in its fixed positions, ours the column; its
jitter (torchvision's) changes contrast about the mean grey and saturation by blending with grey,
ours about the mean of each channel and in HSV.
Hardware, hours and accuracy of this code: not yet run here.
"""

from ml_collections import ConfigDict

from byol_jax.config import default_config


def get_config(size: str = "small") -> ConfigDict:
    """The config for a size.

    Raises:
      ValueError: the authors give no recipe for it.
    """
    if size not in ("small", "base"):
        raise ValueError(f"No recipe for the size {size!r}; expected small or base.")
    c = default_config()
    c.batch_size = 4096
    c.epochs = 300
    c.image_size = 224

    c.data.name = "imagenet2012"
    c.views.recipe = "byol"
    c.views.overrides.area = (0.08, 1.0)
    c.views.overrides.brightness_scales = True  # as torchvision's jitter

    c.encoder.name = f"vit_{size}"
    c.encoder.drop_path = 0.0
    c.encoder.dtype = "bfloat16"
    c.vit.patch = 16
    c.vit.heads = 12
    c.vit.pool = "token"
    c.vit.class_token = True
    c.vit.registers = 0
    c.vit.positions = "sincos"
    c.vit.layer_scale = 0.0
    c.vit.maps = 4
    c.vit.init = "mocov3"

    c.method.name = "mocov3"
    c.method.probe = True
    c.mocov3.hidden = 4096
    c.mocov3.out = 256
    c.mocov3.layers = 3
    c.mocov3.predictor_norm = True
    c.mocov3.tau = 0.99
    c.mocov3.tau_schedule = "cosine"
    c.mocov3.temperature = 0.2
    c.mocov3.bn = "per_view"
    c.mocov3.bn_groups = 1

    c.optimizer.name = "adamw"
    c.optimizer.lr = 1.5e-4
    c.optimizer.lr_scaling = "linear"
    c.optimizer.lr_factors = (("encoder/patch_embed", 0.0),)  # frozen, and not decayed
    c.optimizer.warmup_epochs = 40.0
    c.optimizer.warmup_start = 0.0
    c.optimizer.schedule = "cosine"
    c.optimizer.final = 0.0
    c.optimizer.weight_decay = 0.1
    c.optimizer.weight_decay_end = -1.0
    c.optimizer.exclude = ()
    c.optimizer.accumulate = 1
    c.adamw.b1 = 0.9
    c.adamw.b2 = 0.999
    c.adamw.eps = 1e-8
    return c
