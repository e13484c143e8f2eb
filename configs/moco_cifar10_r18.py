"""MoCo on CIFAR-10 with ResNet-18 on one GPU: the setting of the authors' notebook.

    python -m byol_jax.train --config configs/moco_cifar10_r18.py:800 --workdir runs/moco_cifar \\
        [--config.moco.symmetric=True] [--config.data.dir=/path/to/tensorflow_datasets]

The argument is the number of epochs.
Reference: facebookresearch/moco, branch colab-notebook (moco_cifar10_demo.ipynb), which publishes a
kNN top-1 (k 200, T 0.1) of 82.6 / 86.3 / 88.7 at 200 / 400 / 800 epochs, and with the symmetric
loss (the sum of both directions; the keys of both views are queued) 85.3 / 88.5 / 89.7; without
shuffling about 4 less. That kNN reads the 128 outputs of the one linear layer, ours the 512
features below it. What differs: its learning rate falls once per epoch, ours at each step; its
jitter (torchvision's) changes contrast about the mean grey and saturation by blending with grey,
ours about the mean of each channel and in HSV.
Hardware, hours and accuracy of this code: not yet run here.
"""

from ml_collections import ConfigDict

from byol_jax.config import default_config


def get_config(epochs: str = "200") -> ConfigDict:
    """The config for a number of epochs; published are 200, 400 and 800.

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
    c.views.recipe = "moco_v2"
    c.views.mean = (0.4914, 0.4822, 0.4465)
    c.views.std = (0.2023, 0.1994, 0.2010)
    c.views.overrides.area = (0.08, 1.0)
    c.views.overrides.blur = 0.0

    c.encoder.name = "resnet18"
    c.encoder.width = 1.0
    c.encoder.padding = "torch"
    c.encoder.dtype = "bfloat16"
    c.resnet.stem = "cifar"
    c.resnet.zero_init_last = False
    c.resnet.project_first = False

    c.method.name = "moco"
    c.method.probe = True
    c.moco.hidden = 2048  # without effect: one layer
    c.moco.out = 128
    c.moco.layers = 1
    c.moco.queue = 4096
    c.moco.tau = 0.99
    c.moco.tau_schedule = "constant"
    c.moco.temperature = 0.1
    c.moco.symmetric = False
    c.moco.shuffle = True
    c.moco.bn_groups = 8

    c.optimizer.name = "sgd"
    c.optimizer.lr = 0.03
    c.optimizer.lr_scaling = "linear"
    c.optimizer.warmup_epochs = 0.0
    c.optimizer.warmup_start = 0.0
    c.optimizer.schedule = "cosine"
    c.optimizer.final = 0.0
    c.optimizer.weight_decay = 5e-4
    c.optimizer.exclude = ()
    c.optimizer.accumulate = 1
    c.sgd.momentum = 0.9
    c.sgd.nesterov = False

    c.eval.knn_k = 200
    c.eval.knn_temperature = 0.1
    return c
