"""DINO on CIFAR-10 with ResNet-18 on one GPU: solo-learn's recipe, without small crops.

    python -m byol_jax.train --config configs/dino_cifar10_r18.py --workdir runs/dino_r18 \\
        [--config.data.dir=/path/to/tensorflow_datasets]

Reference: vturrisi/solo-learn:scripts/pretrain/cifar/dino.yaml and augmentations/asymmetric.yaml,
with the defaults of solo/methods/dino.py, which publishes 89.52 online linear top-1 after 1000
epochs. What differs is what differs of configs/byol_cifar10_r18.py (stem, warm-up, jitter).
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
        raise ValueError(f"{epochs!r} is not a number of epochs; give e.g. :200.")
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
    c.views.overrides.brightness_scales = True  # as torchvision's jitter

    c.encoder.name = "resnet18"
    c.encoder.width = 1.0
    c.encoder.padding = "torch"
    c.encoder.dtype = "bfloat16"
    c.resnet.stem = "cifar"
    c.resnet.zero_init_last = False
    c.resnet.project_first = False

    c.method.name = "dino"
    c.method.probe = True
    c.dino.hidden = 2048
    c.dino.layers = 3
    c.dino.out = 256
    c.dino.prototypes = 4096
    c.dino.tau = 0.9995
    c.dino.tau_schedule = "cosine"
    c.dino.temperature = 0.1
    c.dino.teacher_start = 0.04
    c.dino.teacher_temperature = 0.07
    c.dino.teacher_epochs = 0
    c.dino.centre_momentum = 0.9
    c.dino.bn = "per_view"
    c.dino.bn_groups = 1

    c.optimizer.name = "lars"
    c.optimizer.lr = 0.3
    c.optimizer.lr_factors = (("probe", 1 / 3),)  # 0.1
    c.optimizer.warmup_start = 1e-4  # 3e-5
    c.optimizer.hold = ("last_layer",)
    c.optimizer.hold_epochs = 1.0
    c.optimizer.hold_steps = 0
    c.optimizer.clip_tensor = 0.0
    c.optimizer.lr_scaling = "linear"
    c.optimizer.warmup_epochs = 10.0
    c.optimizer.schedule = "cosine"
    c.optimizer.final = 0.0
    c.optimizer.weight_decay = 1e-6
    c.optimizer.exclude = ("bias", "scale")
    c.optimizer.accumulate = 1
    c.lars.momentum = 0.9
    c.lars.nesterov = False
    c.lars.eta = 0.02
    c.lars.lr_inside = False
    c.lars.clip = True
    c.lars.larc = False
    return c
