"""BYOL on CIFAR-10 with ResNet-18 on one GPU.

    python -m byol_jax.train --config configs/byol_cifar10_r18.py --workdir runs/cifar_r18 \\
        [--config.data.dir=/path/to/tensorflow_datasets]

Views as in solo-learn's recipe (vturrisi/solo-learn: scripts/pretrain/cifar/byol.yaml), which
publishes 92.58 online linear top-1 after 1000 epochs. LARS is BYOL's own, without that recipe's
clipping.
Hardware, hours and accuracy of this code: not yet run here.
"""

from ml_collections import ConfigDict

from byol_jax.config import default_config


def get_config(epochs: str = "1000") -> ConfigDict:
    """The config for a number of epochs."""
    c = default_config()
    c.batch_size = 256
    c.epochs = int(epochs)
    c.image_size = 32
    c.checkpoint_every = 5000
    c.evaluate_every = max(c.epochs // 20, 1)

    c.data.name = "cifar10"
    c.data.placement = "resident"  # 154 MB
    c.views.placement = "device"
    c.views.recipe = "cifar"

    c.encoder.name = "resnet18"
    c.encoder.stem = "cifar"

    c.optimizer.lr = 1.0
    c.optimizer.weight_decay = 1e-5
    return c
