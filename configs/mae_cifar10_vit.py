"""MAE on CIFAR-10 with ViT-Tiny of patches of 4 px, on one GPU.

    python -m byol_jax.train --config configs/mae_cifar10_vit.py --workdir runs/mae_cifar \\
        [--config.data.dir=/path/to/tensorflow_datasets]

Method: He et al. 2022, which has no numbers for CIFAR. The sizes (ViT-Tiny, a decoder of its width
and 4 blocks), the decay and AdamW's b2 are those in use for small images; the learning rate is for
a batch of 512. Predicting 0 for every pixel scores 47/48 = 0.979: the loss must fall well below.
Hardware, hours and accuracy of this code: not yet run here.
"""

from ml_collections import ConfigDict

from byol_jax.config import default_config


def get_config(epochs: str = "200") -> ConfigDict:
    """The config for a number of epochs.

    Raises:
      ValueError: it is not a number.
    """
    if not epochs.isdigit() or int(epochs) < 1:
        raise ValueError(f"{epochs!r} is not a number of epochs; give e.g. :800.")
    c = default_config()
    c.batch_size = 512
    c.epochs = int(epochs)
    c.image_size = 32
    c.checkpoint_every = 5000
    c.evaluate_every = max(c.epochs // 20, 1)

    c.data.name = "cifar10"
    c.data.placement = "resident"  # 154 MB
    c.views.placement = "device"
    c.views.recipe = "crop_flip"
    c.views.overrides.area = (0.2, 1.0)

    c.encoder.name = "vit_tiny"
    c.encoder.drop_path = 0.0
    c.encoder.dtype = "bfloat16"
    c.vit.patch = 4
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
    c.mae.dim = 192
    c.mae.depth = 4
    c.mae.heads = 3
    c.mae.normalised = True
    c.mae.mask_tokens = False

    c.optimizer.name = "adamw"
    c.optimizer.lr = 5e-4  # 1e-3 at this batch
    c.optimizer.lr_scaling = "linear"
    c.optimizer.warmup_epochs = c.epochs / 10
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
