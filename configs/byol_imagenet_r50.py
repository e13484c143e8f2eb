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
      ValueError: the paper gives no recipe for that number.
    """
    if epochs not in {str(k) for k in SCHEDULES}:
        raise ValueError(f"No recipe for {epochs!r} epochs; expected one of {list(SCHEDULES)}.")
    lr, weight_decay, tau = SCHEDULES[int(epochs)]
    c = default_config()
    c.batch_size = 4096
    c.epochs = int(epochs)
    c.image_size = 224

    c.data.name = "imagenet2012"
    c.views.recipe = "byol"

    c.encoder.name = "resnet50"
    c.encoder.width = 1.0
    c.encoder.padding = "torch"  # DeepMind's is "same", which timm and torchvision do not know
    c.encoder.dtype = "bfloat16"
    c.resnet.stem = "imagenet"
    c.resnet.zero_init_last = False

    c.method.name = "byol"
    c.method.probe = True
    c.byol.hidden = 4096
    c.byol.out = 256
    c.byol.predictor = True
    c.byol.tau = tau
    c.byol.tau_schedule = "cosine"
    c.byol.beta = 0.0
    c.byol.bn = "per_view"
    c.byol.bn_groups = 1

    c.optimizer.name = "lars"
    c.optimizer.lr = lr
    c.optimizer.lr_scaling = "linear"
    c.optimizer.warmup_epochs = 10.0
    c.optimizer.warmup_start = 0.0
    c.optimizer.schedule = "cosine"
    c.optimizer.final = 0.0
    c.optimizer.weight_decay = weight_decay
    c.optimizer.exclude = ("bias", "scale")
    c.optimizer.accumulate = 1
    c.lars.momentum = 0.9
    c.lars.nesterov = False
    c.lars.eta = 1e-3
    c.lars.lr_inside = False
    c.lars.clip = False
    return c
