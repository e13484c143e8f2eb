"""SimCLR v1 on ImageNet with ResNet-50, the paper's recipe.

    python -m byol_jax.train --config configs/simclr_imagenet_r50.py:1000 --workdir runs/simclr

The argument is the number of epochs.
Paper: Chen et al. 2020; published linear top-1: 69.3 at 1000 epochs, batch 4096.
Hardware, hours and accuracy of this code: not yet run here.
"""

from ml_collections import ConfigDict

from byol_jax.config import default_config


def get_config(epochs: str = "1000") -> ConfigDict:
    """The config for a number of epochs.

    Raises:
      ValueError: it is not a number.
    """
    if not epochs.isdigit() or int(epochs) < 1:
        raise ValueError(f"{epochs!r} is not a number of epochs; give e.g. :100.")
    c = default_config()
    c.batch_size = 4096
    c.epochs = int(epochs)
    c.image_size = 224

    c.data.name = "imagenet2012"
    c.views.recipe = "simclr"

    c.encoder.name = "resnet50"
    c.encoder.width = 1.0
    c.encoder.padding = "torch"  # the original pads by the kernel alone, as torch does
    c.encoder.dtype = "bfloat16"
    c.resnet.stem = "imagenet"
    c.resnet.zero_init_last = True

    c.method.name = "simclr"
    c.method.probe = True
    c.simclr.hidden = 2048
    c.simclr.out = 128
    c.simclr.layers = 2
    c.simclr.norm = True
    c.simclr.loss = "nt_xent"
    c.simclr.temperature = 0.1
    c.simclr.bn = "joint"
    c.simclr.bn_groups = 1

    c.optimizer.name = "lars"
    c.optimizer.lr = 0.3
    c.optimizer.lr_scaling = "linear"
    c.optimizer.warmup_epochs = 10.0
    c.optimizer.warmup_start = 0.0
    c.optimizer.schedule = "cosine"
    c.optimizer.final = 0.0
    c.optimizer.weight_decay = 1e-6
    c.optimizer.exclude = ("bias", "scale")
    c.optimizer.accumulate = 1
    c.lars.momentum = 0.9
    c.lars.nesterov = False
    c.lars.eta = 1e-3
    c.lars.lr_inside = True
    c.lars.clip = False
    return c
