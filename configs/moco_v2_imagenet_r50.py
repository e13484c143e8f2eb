"""MoCo v2 on ImageNet with ResNet-50, the paper's recipe.

    python -m byol_jax.train --config configs/moco_v2_imagenet_r50.py:800 --workdir runs/moco_v2

The argument is the number of epochs: 200 or 800.
Paper: Chen et al. 2020 (MoCo v2); facebookresearch/moco:main_moco.py (--mlp --moco-t 0.2 --aug-plus
--cos). Published linear top-1: 67.5 at 200 epochs (8 V100, 53 h), 71.1 at 800. Batch norm is of 8
groups, as of its 8 GPUs. All parameters decay. What differs: its learning rate falls once per
epoch, ours at each step.
Hardware, hours and accuracy of this code: not yet run here.
"""

from ml_collections import ConfigDict

from byol_jax.config import default_config


def get_config(epochs: str = "200") -> ConfigDict:
    """The config for a number of epochs.

    Raises:
      ValueError: the paper gives no recipe for that number.
    """
    if epochs not in ("200", "800"):
        raise ValueError(f"No recipe for {epochs!r} epochs; expected one of [200, 800].")
    c = default_config()
    c.batch_size = 256
    c.epochs = int(epochs)
    c.image_size = 224

    c.data.name = "imagenet2012"
    c.views.recipe = "moco_v2"

    c.encoder.name = "resnet50"
    c.encoder.width = 1.0
    c.encoder.padding = "torch"
    c.encoder.dtype = "bfloat16"
    c.resnet.stem = "imagenet"
    c.resnet.zero_init_last = False

    c.method.name = "moco"
    c.method.probe = True
    c.moco.hidden = 2048
    c.moco.out = 128
    c.moco.layers = 2
    c.moco.queue = 65536
    c.moco.tau = 0.999
    c.moco.tau_schedule = "constant"
    c.moco.temperature = 0.2
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
    c.optimizer.weight_decay = 1e-4
    c.optimizer.exclude = ()
    c.optimizer.accumulate = 1
    c.sgd.momentum = 0.9
    c.sgd.nesterov = False
    return c
