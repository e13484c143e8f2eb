"""Colorization on ImageNet with ResNet-50: the authors' numbers, another network.

    python -m byol_jax.train --config configs/colorization_imagenet_r50.py --workdir runs/colour

Paper: Zhang et al. 2016; richzhang/colorization at 4aa459f (train/solver.prototxt, models/
colorization_train_val_v2.prototxt, resources/caffe_traininglayers.py): crops of 176 px of images of
256 px, batch 40, 500,000 steps, Adam with 3e-5, a tenth of it after 225,000 and 450,000. Each
target is spread over 10 bins (the paper's text: 5). Published with another ResNet-50 by VISSL,
whose evaluation feeds it all of Lab: linear top-1 40.11.
What differs: the network, whose last map of 6 x 6 is doubled three times (so crops of 192 px, at
the same scale); the bins, which are counted in the data; weight decay is AdamW's (there: 0.001
added to the gradient); crops are squares of a fixed share of the image; norms have a scale and an
offset.
Hardware, hours and accuracy of this code: not yet run here.
"""

from ml_collections import ConfigDict

from byol_jax.config import default_config


def get_config() -> ConfigDict:
    """The config."""
    c = default_config()
    c.batch_size = 40
    c.epochs = 16  # 512,464 steps
    c.image_size = 192

    c.data.name = "imagenet2012"
    c.views.recipe = "crop_flip"
    c.views.overrides.update(area=(0.5625, 0.5625), aspect=(1.0, 1.0))

    c.encoder.name = "resnet50"
    c.encoder.input = "lightness"
    c.encoder.width = 1.0
    c.encoder.padding = "torch"
    c.encoder.dtype = "bfloat16"
    c.resnet.stem = "imagenet"
    c.resnet.zero_init_last = False
    c.resnet.sk_ratio = 0.0

    c.method.name = "colorization"
    c.method.probe = True
    c.colorization.sample = 4
    c.colorization.images = 10_000
    c.colorization.neighbours = 10
    c.colorization.sigma = 5.0
    c.colorization.rebalance = 0.5
    c.colorization.temperature = 0.38
    c.colorization.width = 512
    c.colorization.bn_groups = 1

    c.optimizer.name = "adamw"
    c.optimizer.lr = 3e-5
    c.optimizer.lr_scaling = "none"
    c.optimizer.warmup_epochs = 0.0
    c.optimizer.warmup_start = 0.0
    c.optimizer.schedule = "multistep"
    c.optimizer.milestones = (7.025, 14.05)  # 225,000 and 450,000 steps
    c.optimizer.drop = 0.1
    c.optimizer.weight_decay = 1e-3
    c.optimizer.weight_decay_end = -1.0
    c.optimizer.exclude = ("bias", "scale")
    c.optimizer.accumulate = 1
    c.adamw.b1 = 0.9
    c.adamw.b2 = 0.99
    c.adamw.eps = 1e-8
    return c
