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
      ValueError: the number is none.
    """
    if not epochs.isdigit() or int(epochs) < 1:
        raise ValueError(f"{epochs!r} is no number of epochs; give e.g. :100.")
    c = default_config()
    c.epochs = int(epochs)
    c.views.recipe = "simclr"

    c.method.name = "simclr"
    c.method.bn = "joint"
    c.method.hidden = 2048
    c.method.out = 128
    c.method.temperature = 0.1

    c.optimizer.lr = 0.3
    c.optimizer.weight_decay = 1e-6
    c.optimizer.lr_inside = True
    return c
