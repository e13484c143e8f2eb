"""MoCo v1 on ImageNet with ResNet-50, the paper's recipe.

    python -m byol_jax.train --config configs/moco_v1_imagenet_r50.py --workdir runs/moco_v1

Paper: He et al. 2020; facebookresearch/moco:main_moco.py. Published linear top-1: 60.8 at 200
epochs (8 V100, 53 h). Batch norm is of 8 groups, as of its 8 GPUs, whatever the number of devices.
The weights of all parameters decay, those of the probe too. What differs: the original turns an
image grey before its jitter, ours after it.
Hardware, hours and accuracy of this code: not yet run here.
"""

from ml_collections import ConfigDict

from byol_jax.config import default_config


def get_config() -> ConfigDict:
    """The config."""
    c = default_config()
    c.batch_size = 256
    c.epochs = 200
    c.image_size = 224

    c.data.name = "imagenet2012"
    c.views.recipe = "moco_v1"

    c.encoder.name = "resnet50"
    c.encoder.width = 1.0
    c.encoder.padding = "torch"
    c.encoder.dtype = "bfloat16"
    c.resnet.stem = "imagenet"
    c.resnet.zero_init_last = False

    c.method.name = "moco"
    c.method.probe = True
    c.moco.hidden = 2048  # without effect: one layer
    c.moco.out = 128
    c.moco.layers = 1
    c.moco.queue = 65536
    c.moco.tau = 0.999
    c.moco.tau_schedule = "constant"
    c.moco.temperature = 0.07
    c.moco.symmetric = False
    c.moco.shuffle = True
    c.moco.bn_groups = 8

    c.optimizer.name = "sgd"
    c.optimizer.lr = 0.03
    c.optimizer.lr_scaling = "linear"
    c.optimizer.warmup_epochs = 0.0
    c.optimizer.warmup_start = 0.0
    c.optimizer.schedule = "multistep"
    c.optimizer.milestones = (120.0, 160.0)
    c.optimizer.drop = 0.1
    c.optimizer.weight_decay = 1e-4
    c.optimizer.exclude = ()
    c.optimizer.accumulate = 1
    c.sgd.momentum = 0.9
    c.sgd.nesterov = False
    return c
