"""BYOL on a folder of your own images, with ResNet-18.

    python -m byol_jax.train --config configs/folder.py --workdir runs/mine \\
        --config.data.dir=/path/to/images

Any nesting of image files (docs/data.md); labels (folders named by class) are only used by the
online probe and the evaluation. The encoder exports to timm and torchvision. Lower batch_size and
image_size for small machines. Time and accuracy depend on the images: not yet run on a GPU.
"""

from ml_collections import ConfigDict

from byol_jax.config import default_config


def get_config() -> ConfigDict:
    """The config."""
    c = default_config()
    c.batch_size = 256
    c.epochs = 200
    c.log_every = 10
    c.checkpoint_every = 200

    c.data.name = "folder"
    c.data.dir = "images"

    c.views.recipe = "byol"

    c.encoder.name = "resnet18"
    c.encoder.dtype = "bfloat16"

    c.method.name = "byol"
    c.byol.hidden = 4096
    c.byol.out = 256
    c.byol.tau = 0.99
    c.byol.tau_schedule = "cosine"

    c.optimizer.name = "sgd"
    c.optimizer.lr = 0.1
    c.optimizer.lr_scaling = "linear"
    c.optimizer.warmup_epochs = 10.0
    c.optimizer.weight_decay = 1e-4
    c.sgd.momentum = 0.9
    return c
