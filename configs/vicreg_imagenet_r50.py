"""VICReg on ImageNet with ResNet-50, the authors' recipes for 1000 and for 100 epochs.

    python -m byol_jax.train --config configs/vicreg_imagenet_r50.py:1000 --workdir runs/vicreg

Paper: Bardes et al. 2022; facebookresearch/vicreg:main_vicreg.py and README.md, which publishes
73.2 linear top-1 after 1000 epochs at batch 2048; that of 100 epochs is for batch 512.
Hardware, hours and accuracy of this code: not yet run here.
"""

from ml_collections import ConfigDict

from byol_jax.config import default_config

# README.md: epochs -> (batch size, learning rate at batch 256).
_RECIPES = {"1000": (2048, 0.2), "100": (512, 0.3)}


def get_config(epochs: str = "1000") -> ConfigDict:
    """The config for a number of epochs.

    Raises:
      ValueError: the authors have no numbers for it.
    """
    if epochs not in _RECIPES:
        raise ValueError(
            f"{epochs!r} epochs have no recipe; expected one of {', '.join(_RECIPES)}."
        )
    c = default_config()
    c.batch_size, lr = _RECIPES[epochs]
    c.epochs = int(epochs)
    c.image_size = 224

    c.data.name = "imagenet2012"
    c.views.recipe = "byol"
    c.views.overrides.brightness_scales = True  # as torchvision's jitter

    c.encoder.name = "resnet50"
    c.encoder.width = 1.0
    c.encoder.padding = "torch"
    c.encoder.dtype = "bfloat16"
    c.resnet.stem = "imagenet"
    c.resnet.zero_init_last = True

    c.method.name = "vicreg"
    c.method.probe = True
    c.vicreg.hidden = 8192
    c.vicreg.out = 8192
    c.vicreg.layers = 3
    c.vicreg.invariance = 25.0
    c.vicreg.variance = 25.0
    c.vicreg.covariance = 1.0
    c.vicreg.bn = "per_view"
    c.vicreg.bn_groups = 1

    c.optimizer.name = "lars"
    c.optimizer.lr = lr
    c.optimizer.lr_scaling = "linear"
    c.optimizer.warmup_epochs = 10.0
    c.optimizer.warmup_start = 0.0
    c.optimizer.schedule = "cosine"
    c.optimizer.final = 0.001
    c.optimizer.weight_decay = 1e-6
    c.optimizer.exclude = ("bias", "scale")
    c.optimizer.accumulate = 1
    c.lars.momentum = 0.9
    c.lars.nesterov = False
    c.lars.eta = 1e-3
    c.lars.lr_inside = False
    c.lars.clip = False
    return c
