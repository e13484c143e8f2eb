"""BYOL on CIFAR-10 on a laptop: a tiny encoder, half an hour on two CPU cores.

    python -m byol_jax.train --config configs/cifar10_cpu.py --workdir runs/cifar_cpu \\
        [--config.data.dir=/path/to/tensorflow_datasets]

Method: Grill et al. 2020, with SGD, small heads, a fast target (tau from 0.96) and mild colour
views, which let an encoder at 30,000 images per minute learn something in six epochs.
Hardware, time and accuracy: docs/results.md.
"""

from ml_collections import ConfigDict

from byol_jax.config import default_config


def get_config() -> ConfigDict:
    """The config."""
    c = default_config()
    c.batch_size = 64
    c.epochs = 6
    c.image_size = 32
    c.log_every = 50
    c.checkpoint_every = 500
    c.evaluate_every = 2

    c.data.name = "cifar10"
    c.views.recipe = "cifar"
    c.views.overrides.area = (0.2, 1.0)
    c.views.overrides.brightness = 0.25
    c.views.overrides.contrast = 0.25
    c.views.overrides.saturation = 0.25
    c.views.overrides.hue = 0.04
    c.views.overrides.grey = 0.1
    c.views.overrides.solarize = 0.0

    c.encoder.name = "tiny"
    c.encoder.width = 0.5
    c.encoder.dtype = "float32"

    c.method.name = "byol"
    c.byol.hidden = 512
    c.byol.out = 128
    c.byol.tau = 0.96
    c.byol.tau_schedule = "cosine"

    c.optimizer.name = "sgd"
    c.optimizer.lr = 0.4
    c.optimizer.lr_scaling = "linear"
    c.optimizer.weight_decay = 5e-4
    c.optimizer.warmup_epochs = 0.5
    c.sgd.momentum = 0.9
    return c
