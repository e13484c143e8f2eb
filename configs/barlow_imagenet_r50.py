"""Barlow Twins on ImageNet with ResNet-50, the authors' recipe.

    python -m byol_jax.train --config configs/barlow_imagenet_r50.py --workdir runs/barlow

Paper: Zbontar et al. 2021; facebookresearch/barlowtwins:main.py and README.md, which publishes 73.5
linear top-1 after 1000 epochs at batch 2048, on 16 GPUs. Their correlation is summed over the GPUs
without a gradient, and DistributedDataParallel averages: their gradient is that of the loss divided
by the number of GPUs. LARS undoes this for the direction of weights, but not for biases, norms and
weight decay, so `barlow.scale` is 1 / 16 here.
Hardware, hours and accuracy of this code: not yet run here.
"""

from ml_collections import ConfigDict

from byol_jax.config import default_config


def get_config(epochs: str = "1000") -> ConfigDict:
    """The config for a number of epochs; the published one is 1000.

    Raises:
      ValueError: it is not a number.
    """
    if not epochs.isdigit() or int(epochs) < 1:
        raise ValueError(f"{epochs!r} is not a number of epochs; give e.g. :300.")
    c = default_config()
    c.batch_size = 2048
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

    c.method.name = "barlow"
    c.method.probe = True
    c.barlow.hidden = 8192
    c.barlow.out = 8192
    c.barlow.layers = 3
    c.barlow.off_diagonal = 0.0051
    c.barlow.scale = 0.0625  # 1 / 16 GPUs
    c.barlow.bn = "per_view"
    c.barlow.bn_groups = 1

    c.optimizer.name = "lars"
    c.optimizer.lr = 0.2
    c.optimizer.lr_scaling = "linear"
    c.optimizer.lr_factors = (("bias", 0.024), ("scale", 0.024))  # 0.0048 of 0.2
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
