"""SwAV on CIFAR-10 with ResNet-18 on one GPU: solo-learn's recipe, without small crops.

    python -m byol_jax.train --config configs/swav_cifar10_r18.py --workdir runs/swav_r18 \\
        [--config.data.dir=/path/to/tensorflow_datasets]

Reference: vturrisi/solo-learn:scripts/pretrain/cifar/swav.yaml and augmentations/symmetric.yaml,
which publishes 89.17 online linear top-1 after 1000 epochs. What differs: solo-learn fills its
queue from the beginning and uses it from epoch 50 on, here it is filled from epoch 50 on and used
once it is full, 15 steps later; there the prototypes are weight-normed (the gradient flows through
their norm), here they are made of unit length before each step, as the authors do; and what differs
of configs/byol_cifar10_r18.py (stem, warm-up, jitter).
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
    c.views.recipe = "simclr"
    c.views.mean = (0.4914, 0.4822, 0.4465)
    c.views.std = (0.2470, 0.2435, 0.2616)
    c.views.overrides.kernel = 13  # Pillow's blur is as wide as sigma asks

    c.encoder.name = "resnet18"
    c.encoder.width = 1.0
    c.encoder.padding = "torch"
    c.encoder.dtype = "bfloat16"
    c.resnet.stem = "cifar"
    c.resnet.zero_init_last = False
    c.resnet.project_first = False

    c.method.name = "swav"
    c.method.probe = True
    c.swav.hidden = 2048
    c.swav.out = 128
    c.swav.prototypes = 3000
    c.swav.temperature = 0.1
    c.swav.epsilon = 0.05
    c.swav.iterations = 3
    c.swav.queue = 3840
    c.swav.queue_epoch = 50.0
    c.swav.bn = "per_view"
    c.swav.bn_groups = 1

    c.optimizer.name = "lars"
    c.optimizer.lr = 0.6
    c.optimizer.lr_factors = (("probe", 1 / 6),)  # 0.1
    c.optimizer.warmup_start = 5e-5  # 3e-5
    c.optimizer.hold = ("prototypes",)
    c.optimizer.hold_epochs = 2.0
    c.optimizer.hold_steps = 0
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
