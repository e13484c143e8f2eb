"""SupCon on CIFAR-10 with ResNet-18 on one GPU: solo-learn's recipe. It trains on the labels.

    python -m byol_jax.train --config configs/supcon_cifar10_r18.py --workdir runs/supcon_cifar

Reference: vturrisi/solo-learn:scripts/pretrain/cifar/supcon.yaml and augmentations/symmetric.yaml,
which publishes 93.82 online linear top-1 after 1000 epochs. Its mean over the positives is inside
the logarithm, which the paper calls the weaker form; `--config.supcon.mean=outside` is the paper's.
Its projector has no batch norm, and each view has its own statistics. What differs: its stem pads
by 2 px, ours by 1; its warm-up ends a step earlier; its jitter (torchvision's) changes contrast
about the mean grey and saturation by blending with grey, ours about the mean of each channel and in
HSV.
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
    c.views.recipe = "simclr"  # jitter 0.8, 0.8, 0.8, 0.2
    c.views.mean = (0.4914, 0.4822, 0.4465)
    c.views.std = (0.2470, 0.2435, 0.2616)
    c.views.overrides.kernel = 13  # 3 sigma to each side, as Pillow's blur has no end

    c.encoder.name = "resnet18"
    c.encoder.width = 1.0
    c.encoder.padding = "torch"
    c.encoder.dtype = "bfloat16"
    c.resnet.stem = "cifar"
    c.resnet.zero_init_last = False
    c.resnet.project_first = False

    c.method.name = "supcon"
    c.method.probe = True
    c.supcon.hidden = 2048
    c.supcon.out = 256
    c.supcon.layers = 2
    c.supcon.norm = False
    c.supcon.temperature = 0.2
    c.supcon.base_temperature = 0.0
    c.supcon.mean = "inside"
    c.supcon.bn = "per_view"
    c.supcon.bn_groups = 1

    c.optimizer.name = "sgd"
    c.optimizer.lr = 0.4
    c.optimizer.lr_scaling = "linear"
    c.optimizer.lr_factors = (("probe", 0.25),)
    c.optimizer.warmup_epochs = 10.0
    c.optimizer.warmup_start = 7.5e-5  # 3e-5 of 0.4
    c.optimizer.schedule = "cosine"
    c.optimizer.final = 0.0
    c.optimizer.weight_decay = 1e-5
    c.optimizer.exclude = ("probe",)
    c.optimizer.accumulate = 1
    c.sgd.momentum = 0.9
    c.sgd.nesterov = False
    return c
