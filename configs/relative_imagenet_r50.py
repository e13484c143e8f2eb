"""Relative position on ImageNet with ResNet-50: mmselfsup's recipe.

    python -m byol_jax.train --config configs/relative_imagenet_r50.py --workdir runs/relative

Method: Doersch et al. 2015. Numbers: open-mmlab/mmselfsup at ded3dc9,
configs/selfsup/relative_loc/relative-loc_resnet50_8xb64-steplr-70e_in1k.py, which publishes a
linear top-1 of 40.4. Against chromatic aberration it has grey images; the paper's own ways are
--config.relative.drop=True and --config.relative.project=1.0.
What differs: no dropout before the last layer; the classifier's weights decay like the others
(there: 5 times as much); the crop is a square of 0.57 of the image (there: 255 of 292 px of the
shorter side); the warm-up starts from 0 (there: a tenth of the rate); batch norm is of the global
batch (there: of 64 images).
Hardware, hours and accuracy of this code: not yet run here.
"""

from ml_collections import ConfigDict

from byol_jax.config import default_config


def get_config() -> ConfigDict:
    """The config."""
    c = default_config()
    c.batch_size = 512
    c.epochs = 70
    c.image_size = 255

    c.data.name = "imagenet2012"
    c.views.recipe = "crop_flip"
    c.views.overrides.update(area=(0.57, 0.57), aspect=(1.0, 1.0), flip=0.0, grey=0.66)

    c.encoder.name = "resnet50"
    c.encoder.width = 1.0
    c.encoder.padding = "torch"
    c.encoder.dtype = "bfloat16"
    c.resnet.stem = "imagenet"
    c.resnet.zero_init_last = False
    c.resnet.sk_ratio = 0.0

    c.method.name = "relative"
    c.method.probe = False  # it would learn from tiles
    c.relative.pairs = 8
    c.relative.tile = 64
    c.relative.jitter = 21
    c.relative.drop = False
    c.relative.project = 0.0
    c.relative.hidden = 4096
    c.relative.layers = 2
    c.relative.bn = "joint"
    c.relative.bn_groups = 1

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
