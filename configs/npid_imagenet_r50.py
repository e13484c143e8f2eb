"""Instance discrimination on ImageNet with ResNet-50: the paper's recipe.

    python -m byol_jax.train --config configs/npid_imagenet_r50.py --workdir runs/npid

Paper: Wu et al. 2018, section 4.2: 4096 negatives, 200 epochs, batch 256, learning rate 0.03,
divided by 10 at epochs 120 and 160; published linear top-1: 54.0 (on the features of conv5). The
authors' code: zhirongw/lemniscate.pytorch:main.py at f7cfe29. The memory bank is 656 MB, shared by
all devices.
What differs: main.py turns images grey before its jitter, here it comes after it.
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
    c.views.recipe = "npid"

    c.encoder.name = "resnet50"
    c.encoder.width = 1.0
    c.encoder.padding = "torch"
    c.encoder.dtype = "bfloat16"
    c.resnet.stem = "imagenet"
    c.resnet.zero_init_last = False
    c.resnet.sk_ratio = 0.0

    c.method.name = "npid"
    c.method.probe = True
    c.npid.out = 128
    c.npid.negatives = 4096
    c.npid.temperature = 0.07
    c.npid.momentum = 0.5
    c.npid.bn_groups = 1

    c.optimizer.name = "sgd"
    c.optimizer.lr = 0.03
    c.optimizer.lr_scaling = "none"
    c.optimizer.warmup_epochs = 0.0
    c.optimizer.schedule = "multistep"
    c.optimizer.milestones = (120.0, 160.0)
    c.optimizer.drop = 0.1
    c.optimizer.weight_decay = 1e-4
    c.optimizer.exclude = ()
    c.optimizer.accumulate = 1
    c.sgd.momentum = 0.9
    c.sgd.nesterov = False
    return c
