"""MoCo v3 on ImageNet with ResNet-50, the authors' recipe.

    python -m byol_jax.train --config configs/mocov3_imagenet_r50.py:300 --workdir runs/mocov3_300

The argument is the number of epochs: 100, 300 or 1000.
Paper: Chen, Xie and He 2021; facebookresearch/moco-v3:CONFIG.md, main_moco.py. Published linear
top-1: 68.9 at 100 epochs, 72.8 at 300, 74.6 at 1000 (16 V100). What differs: its jitter
(torchvision's) changes contrast about the mean grey and saturation by blending with grey, ours
about the mean of each channel and in HSV.
Hardware, hours and accuracy of this code: not yet run here.
"""

from ml_collections import ConfigDict

from byol_jax.config import default_config

# epochs -> base learning rate, weight decay, tau at the start
SCHEDULES = {100: (0.6, 1e-6, 0.99), 300: (0.3, 1e-6, 0.99), 1000: (0.3, 1.5e-6, 0.996)}


def get_config(epochs: str = "300") -> ConfigDict:
    """The config for a number of epochs.

    Raises:
      ValueError: the authors give no recipe for that number.
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
    c.views.overrides.area = (0.2, 1.0)
    c.views.overrides.brightness_scales = True  # as torchvision's jitter

    c.encoder.name = "resnet50"
    c.encoder.width = 1.0
    c.encoder.padding = "torch"
    c.encoder.dtype = "bfloat16"
    c.resnet.stem = "imagenet"
    c.resnet.zero_init_last = True

    c.method.name = "mocov3"
    c.method.probe = True
    c.mocov3.hidden = 4096
    c.mocov3.out = 256
    c.mocov3.layers = 2
    c.mocov3.predictor_norm = False
    c.mocov3.tau = tau
    c.mocov3.tau_schedule = "cosine"
    c.mocov3.temperature = 1.0
    c.mocov3.bn = "per_view"
    c.mocov3.bn_groups = 1

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
