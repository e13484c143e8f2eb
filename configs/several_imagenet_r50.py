"""Relative position and colorization in one run on ImageNet with ResNet-50.

    python -m byol_jax.train --config configs/several_imagenet_r50.py --workdir runs/several

Method: Doersch and Zisserman 2017, who combine four tasks in a ResNet-101. Both tasks see the
lightness alone, which is their idea of harmonised inputs. Each step is of one task, in turns. The
other numbers are those of configs/relative_imagenet_r50.py (open-mmlab/mmselfsup) and
configs/colorization_imagenet_r50.py (richzhang/colorization); those of the paper were not compared.
What differs: the network; the optimizer and its schedule; the order of the tasks.
Hardware, hours and accuracy of this code: not yet run here.
"""

from ml_collections import ConfigDict

from byol_jax.config import default_config


def get_config() -> ConfigDict:
    """The config."""
    c = default_config()
    c.batch_size = 512
    c.epochs = 70
    c.image_size = 256  # a multiple of the last map, for the colours

    c.data.name = "imagenet2012"
    c.views.recipe = "crop_flip"
    c.views.overrides.update(area=(0.57, 0.57), aspect=(1.0, 1.0), flip=0.0)

    c.encoder.name = "resnet50"
    c.encoder.input = "lightness"
    c.encoder.width = 1.0
    c.encoder.padding = "torch"
    c.encoder.dtype = "bfloat16"
    c.resnet.stem = "imagenet"
    c.resnet.zero_init_last = False
    c.resnet.sk_ratio = 0.0

    c.method.name = "several"
    c.method.probe = False  # it would learn from tiles
    c.several.tasks = "relative,colorization"
    c.several.turns = (1,)
    c.relative.pairs = 8
    c.relative.tile = 64
    c.relative.jitter = 21
    c.relative.drop = False
    c.relative.project = 0.0
    c.relative.hidden = 4096
    c.relative.layers = 2
    c.relative.bn = "joint"
    c.relative.bn_groups = 1
    c.colorization.sample = 4
    c.colorization.images = 10_000
    c.colorization.neighbours = 10
    c.colorization.sigma = 5.0
    c.colorization.rebalance = 0.5
    c.colorization.temperature = 0.38
    c.colorization.width = 512
    c.colorization.bn_groups = 1

    c.optimizer.name = "sgd"
    c.optimizer.lr = 0.2
    c.optimizer.lr_scaling = "none"
    c.optimizer.warmup_epochs = 5.0
    c.optimizer.warmup_start = 0.0
    c.optimizer.schedule = "multistep"
    c.optimizer.milestones = (30.0, 50.0)
    c.optimizer.drop = 0.1
    c.optimizer.weight_decay = 1e-4
    c.optimizer.exclude = ()
    c.optimizer.accumulate = 1
    c.sgd.momentum = 0.9
    c.sgd.nesterov = False
    return c
