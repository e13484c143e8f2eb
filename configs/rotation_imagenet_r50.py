"""Rotation on ImageNet with ResNet-50: VISSL's recipe.

    python -m byol_jax.train --config configs/rotation_imagenet_r50.py --workdir runs/rotation

Method: Gidaris et al. 2018. Numbers: facebookresearch/vissl at 0e5cc45,
configs/config/pretrain/rotnet/rotnet_8gpu_resnet.yaml, which publishes a linear top-1 of 48.2. Each
image is shown in one rotation.
What differs: images are turned after crop and flip (there: before); the classifier's bias is not
decayed; batch norm is of the global batch (there: of 32 images).
Hardware, hours and accuracy of this code: not yet run here.
"""

from ml_collections import ConfigDict

from byol_jax.config import default_config


def get_config() -> ConfigDict:
    """The config."""
    c = default_config()
    c.batch_size = 256
    c.epochs = 105
    c.image_size = 224

    c.data.name = "imagenet2012"
    c.views.recipe = "crop_flip"

    c.encoder.name = "resnet50"
    c.encoder.width = 1.0
    c.encoder.padding = "torch"
    c.encoder.dtype = "bfloat16"
    c.resnet.stem = "imagenet"
    c.resnet.zero_init_last = False
    c.resnet.sk_ratio = 0.0

    c.method.name = "rotation"
    c.method.probe = True
    c.rotation.turns = 4
    c.rotation.every = False
    c.rotation.layers = 1
    c.rotation.bn = "joint"
    c.rotation.bn_groups = 1

    c.optimizer.name = "sgd"
    c.optimizer.lr = 0.1
    c.optimizer.lr_scaling = "linear"
    c.optimizer.warmup_epochs = 0.0
    c.optimizer.warmup_start = 0.0
    c.optimizer.schedule = "multistep"
    c.optimizer.milestones = (30.0, 60.0, 90.0, 100.0)
    c.optimizer.drop = 0.1
    c.optimizer.weight_decay = 1e-4
    c.optimizer.exclude = ("bias", "scale")
    c.optimizer.accumulate = 1
    c.sgd.momentum = 0.9
    c.sgd.nesterov = False
    return c
