"""MAE on CIFAR-10 on a laptop: a small transformer, a quarter of an hour on two CPU cores.

    python -m byol_jax.train --config configs/mae_cifar10_cpu.py --workdir runs/mae_cpu \\
        [--config.data.dir=/path/to/tensorflow_datasets]

Method: He et al. 2022 with a transformer of 4 blocks of width 96 (patches of 4 px), a decoder of
one block of width 64, and AdamW at 2e-3. Predicting 0 for every pixel scores 47/48 = 0.979: the
loss must fall well below. docs/methods.md has the rest.
379 images/s on one core of an AMD EPYC (Zen 5) whose other core was busy, 13 minutes for 6 epochs.
Mean of three seeds: loss 0.47; logistic regression on 10,000 images 51.7 (untrained 40.4).
"""

from ml_collections import ConfigDict

from byol_jax.config import default_config


def get_config() -> ConfigDict:
    """The config."""
    c = default_config()
    c.batch_size = 128
    c.epochs = 6
    c.image_size = 32
    c.log_every = 50
    c.checkpoint_every = 500
    c.evaluate_every = 3

    c.data.name = "cifar10"
    c.data.placement = "resident"
    c.views.placement = "device"
    c.views.recipe = "crop_flip"
    c.views.overrides.area = (0.2, 1.0)

    c.encoder.name = "vit_tiny"
    c.encoder.drop_path = 0.0
    c.encoder.dtype = "float32"
    c.vit.patch = 4
    c.vit.dim = 96
    c.vit.depth = 4
    c.vit.heads = 3
    c.vit.pool = "mean"
    c.vit.class_token = True
    c.vit.registers = 0
    c.vit.positions = "sincos"
    c.vit.layer_scale = 0.0
    c.vit.maps = 4
    c.vit.init = "mae"

    c.method.name = "mae"
    c.method.probe = True
    c.mae.mask = 0.75
    c.mae.dim = 64
    c.mae.depth = 1
    c.mae.heads = 4
    c.mae.normalised = True
    c.mae.mask_tokens = False

    c.optimizer.name = "adamw"
    c.optimizer.lr = 4e-3  # 2e-3 at this batch
    c.optimizer.lr_scaling = "linear"
    c.optimizer.warmup_epochs = 1.0
    c.optimizer.warmup_start = 0.0
    c.optimizer.schedule = "cosine"
    c.optimizer.final = 0.0
    c.optimizer.weight_decay = 0.05
    c.optimizer.weight_decay_end = -1.0
    c.optimizer.exclude = ("bias", "scale")
    c.optimizer.accumulate = 1
    c.adamw.b1 = 0.9
    c.adamw.b2 = 0.95
    c.adamw.eps = 1e-8
    c.eval.linear_norm = True
    return c
