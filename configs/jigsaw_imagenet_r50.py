"""Jigsaw puzzles on ImageNet with ResNet-50: VISSL's recipe.

    python -m byol_jax.train --config configs/jigsaw_imagenet_r50.py:100 --workdir runs/jigsaw

The argument is the number of permutations: 100, 2000 or 10000, with a published linear top-1 of
48.57, 46.73 and 48.11. Method: Noroozi and Favaro 2016. Numbers: facebookresearch/vissl at 2cf181d,
configs/config/pretrain/jigsaw/jigsaw_8gpu_resnet.yaml. It relies on grey images against
chromatic aberration, and neither normalises tiles nor shifts their channels, as the paper does:
--config.jigsaw.normalise=True --config.jigsaw.jitter=19 --config.jigsaw.shift=2.
What differs: the set of permutations is our own (docs/methods.md); the crop is a square of 3/4 of
the image, the largest there is in one of 4 x 3 (there: 255 of 256 px of the shorter side); the
classifier's bias is not decayed; the warm-up starts from 0 (there: a quarter of the rate); batch
norm is of the global batch (there: of 32 images).
Hardware, hours and accuracy of this code: not yet run here.
"""

from ml_collections import ConfigDict

from byol_jax.config import default_config


def get_config(permutations: str = "100") -> ConfigDict:
    """The config for a number of permutations.

    Raises:
      ValueError: none was published for it.
    """
    if permutations not in ("100", "2000", "10000"):
        raise ValueError(f"{permutations!r} permutations: give one of 100, 2000, 10000.")
    c = default_config()
    c.batch_size = 256
    c.epochs = 105
    c.image_size = 255

    c.data.name = "imagenet2012"
    c.views.recipe = "crop_flip"
    c.views.overrides.update(area=(0.75, 0.75), aspect=(1.0, 1.0), grey=0.66)

    c.encoder.name = "resnet50"
    c.encoder.width = 1.0
    c.encoder.padding = "torch"
    c.encoder.dtype = "bfloat16"
    c.resnet.stem = "imagenet"
    c.resnet.zero_init_last = False
    c.resnet.sk_ratio = 0.0

    c.method.name = "jigsaw"
    c.method.probe = False  # it would learn from tiles
    c.jigsaw.permutations = int(permutations)
    c.jigsaw.grid = 3
    c.jigsaw.tile = 64
    c.jigsaw.jitter = 21
    c.jigsaw.shift = 0
    c.jigsaw.normalise = False
    c.jigsaw.project = 0.0
    c.jigsaw.out = 1000
    c.jigsaw.layers = 1
    c.jigsaw.bn = "joint"
    c.jigsaw.bn_groups = 1

    c.optimizer.name = "sgd"
    c.optimizer.lr = 0.1
    c.optimizer.lr_scaling = "linear"
    c.optimizer.warmup_epochs = 5.0
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
