"""BYOL on Imagenette with ResNet-18 on one GPU: the fast setting of DeepMind's README.

    python -m byol_jax.train --config configs/byol_imagenette_r18.py --workdir runs/imagenette \\
        [--config.data.dir=/path/to/tensorflow_datasets]

Reference: google-deepmind/deepmind-research:byol/README.md (Imagenette), byol/configs/byol.py.
It reports about 92.3 top-1 for the online classifier after 1000 epochs, in about 4 h on a V100.
Padding and shortcuts are DeepMind's (`same`, `project_first`): such an encoder has no exact form in
timm or torchvision.
Hardware, hours and accuracy of this code: not yet run here.
"""

from ml_collections import ConfigDict

from byol_jax.config import default_config


def get_config(epochs: str = "1000") -> ConfigDict:
    """The config for a number of epochs; the published one is 1000.

    Raises:
      ValueError: it is not a number.
    """
    if not epochs.isdigit() or int(epochs) < 1:
        raise ValueError(f"{epochs!r} is not a number of epochs; give e.g. :100.")
    c = default_config()
    c.batch_size = 256
    c.epochs = int(epochs)
    c.image_size = 128
    c.evaluate_every = max(c.epochs // 20, 1)

    c.data.name = "imagenette/160px-v2"
    c.views.recipe = "byol"
    c.views.placement = "device"

    c.encoder.name = "resnet18"
    c.encoder.width = 1.0
    c.encoder.padding = "same"
    c.encoder.dtype = "bfloat16"
    c.resnet.stem = "imagenet"
    c.resnet.project_first = True
    c.resnet.zero_init_last = True  # as Haiku's networks, which that code uses

    c.method.name = "byol"
    c.method.probe = True
    c.byol.hidden = 4096
    c.byol.out = 256
    c.byol.predictor = True
    c.byol.tau = 0.996
    c.byol.tau_schedule = "cosine"
    c.byol.beta = 0.0
    c.byol.bn = "per_view"
    c.byol.bn_groups = 1

    c.optimizer.name = "lars"
    c.optimizer.lr = 2.0
    c.optimizer.lr_scaling = "linear"
    c.optimizer.warmup_epochs = 10.0
    c.optimizer.warmup_start = 0.0
    c.optimizer.schedule = "cosine"
    c.optimizer.final = 0.0
    c.optimizer.weight_decay = 1e-6
    c.optimizer.exclude = ("bias", "scale")
    c.optimizer.accumulate = 1
    c.lars.momentum = 0.9
    c.lars.nesterov = False
    c.lars.eta = 1e-3
    c.lars.lr_inside = False
    c.lars.clip = False
    return c
