"""SimSiam on CIFAR-10 with ResNet-18 on one GPU: solo-learn's recipe.

    python -m byol_jax.train --config configs/simsiam_cifar10_r18.py --workdir runs/simsiam_cifar \\
        [--config.data.dir=/path/to/tensorflow_datasets]

Reference: vturrisi/solo-learn:scripts/pretrain/cifar/simsiam.yaml and symmetric_weak.yaml, which
publishes 90.51 online linear top-1 after 1000 epochs. Unlike the paper it warms up. All parameters
decay; the predictor's rate is constant. What differs: its stem pads by 2 px, ours by 1; its warm-up
ends a step earlier; its jitter (torchvision's) changes contrast about the mean grey and saturation
by blending with grey, ours about the mean of each channel and in HSV; its classifier does not
decay, ours does.
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
    c.views.recipe = "moco_v2"
    c.views.overrides.area = (0.08, 1.0)
    c.views.overrides.kernel = 13  # 3 sigma each side, as Pillow's blur has at least

    c.encoder.name = "resnet18"
    c.encoder.width = 1.0
    c.encoder.padding = "torch"
    c.encoder.dtype = "bfloat16"
    c.resnet.stem = "cifar"
    c.resnet.zero_init_last = False
    c.resnet.project_first = False

    c.method.name = "simsiam"
    c.method.probe = True
    c.simsiam.hidden = 2048
    c.simsiam.out = 2048
    c.simsiam.layers = 3
    c.simsiam.predictor_hidden = 512
    c.simsiam.bn = "per_view"
    c.simsiam.bn_groups = 1

    c.optimizer.name = "sgd"
    c.optimizer.lr = 0.5
    c.optimizer.lr_scaling = "linear"
    c.optimizer.lr_factors = (("probe", 0.2),)
    c.optimizer.lr_fixed = ("predictor",)
    c.optimizer.warmup_epochs = 10.0
    c.optimizer.warmup_start = 6e-5  # 3e-5
    c.optimizer.schedule = "cosine"
    c.optimizer.final = 0.0
    c.optimizer.weight_decay = 1e-5
    c.optimizer.exclude = ()
    c.optimizer.accumulate = 1
    c.sgd.momentum = 0.9
    c.sgd.nesterov = False
    return c
