"""BYOL on scikit-learn's handwritten digits: the demo. Nothing is downloaded.

    python -m byol_jax.train --config configs/digits.py --workdir runs/digits

Method: Grill et al. 2020, with views, optimizer and heads for 1,297 scans of 8x8 pixels: one affine
crop with rotation, brightness and contrast; SGD; a fast target (tau from 0.9).
Hardware, time and accuracy: docs/results.md.
"""

from ml_collections import ConfigDict

from byol_jax.config import default_config


def get_config() -> ConfigDict:
    """The config."""
    c = default_config()
    c.batch_size = 128
    c.epochs = 60
    c.image_size = 8
    c.log_every = 20
    c.checkpoint_every = 100
    c.evaluate_every = 20

    c.data.name = "digits"
    c.data.placement = "resident"
    c.data.steps_per_dispatch = 20
    c.views.placement = "device"
    c.views.recipe = "digits"

    c.encoder.name = "tiny"
    c.encoder.dtype = "float32"

    c.method.name = "byol"
    c.byol.hidden = 256
    c.byol.out = 64
    c.byol.tau = 0.9
    c.byol.tau_schedule = "cosine"

    c.optimizer.name = "sgd"
    c.optimizer.lr = 0.2
    c.optimizer.lr_scaling = "linear"
    c.optimizer.warmup_epochs = 10.0
    c.optimizer.weight_decay = 5e-4
    c.sgd.momentum = 0.9
    return c
