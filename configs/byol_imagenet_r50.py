"""BYOL on ImageNet with ResNet-50, the paper's recipe.

    python -m byol_jax.train --config configs/byol_imagenet_r50.py:300 --workdir runs/byol300

The argument is the number of epochs: 40, 100, 300 or 1000.
Paper: Grill et al. 2020; published linear top-1: 72.5 at 300 epochs, 74.3 at 1000 (512 TPU v3
cores, about 8 h for 1000 epochs). Hardware, hours and accuracy of this code: not yet run here.
"""

from ml_collections import ConfigDict

from byol_jax.config import default_config

# epochs -> base learning rate, weight decay, tau at the start (google-deepmind/deepmind-research)
SCHEDULES = {
    40: (0.45, 1e-6, 0.97),
    100: (0.45, 1e-6, 0.99),
    300: (0.3, 1e-6, 0.99),
    1000: (0.2, 1.5e-6, 0.996),
}


def get_config(epochs: str = "300") -> ConfigDict:
    """The config for a number of epochs.

    Raises:
      ValueError: the papers give no recipe for that number.
    """
    if epochs not in {str(k) for k in SCHEDULES}:
        raise ValueError(f"No recipe for {epochs!r} epochs; expected one of {list(SCHEDULES)}.")
    c = default_config()
    c.epochs = int(epochs)
    c.optimizer.lr, c.optimizer.weight_decay, c.method.tau = SCHEDULES[c.epochs]
    return c
