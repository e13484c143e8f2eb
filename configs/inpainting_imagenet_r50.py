"""Inpainting on ImageNet with ResNet-50: the authors' numbers, another network.

    python -m byol_jax.train --config configs/inpainting_imagenet_r50.py --workdir runs/inpainting

The argument is the region: centre (the default) or random. Paper: Pathak et al. 2016;
pathak22/context-encoder (train.lua at defa69a, README.md): crops of 128 px of
images of 350 px, the square of 64 px but for a band of 4 px hidden, Adam with 10 times 2e-4.
What differs: the network; no adversarial term (the authors' features are without it too); blobs are
drawn for each image; upsampling and convolution in place of transposed convolutions.
Hardware, hours and accuracy of this code: not yet run here.
"""

from ml_collections import ConfigDict

from byol_jax.config import default_config


def get_config(region: str = "centre") -> ConfigDict:
    """The config for a kind of region.

    Raises:
      ValueError: there is none of this name.
    """
    if region not in ("centre", "random"):
        raise ValueError(f"{region!r} is not a region; give centre or random.")
    c = default_config()
    c.batch_size = 64
    c.epochs = 500
    c.image_size = 128

    c.data.name = "imagenet2012"
    c.views.recipe = "crop_flip"
    c.views.mean = (0.485, 0.456, 0.406)
    c.views.std = (0.5, 0.5, 0.5)  # the scale of -1 to 1, and 0 is the mean colour
    c.views.overrides.update(area=(0.1, 0.1), aspect=(1.0, 1.0))

    c.encoder.name = "resnet50"
    c.encoder.width = 1.0
    c.encoder.padding = "torch"
    c.encoder.dtype = "bfloat16"
    c.resnet.stem = "imagenet"
    c.resnet.zero_init_last = False
    c.resnet.sk_ratio = 0.0

    c.method.name = "inpainting"
    c.method.probe = True
    c.inpainting.region = region
    c.inpainting.size = 0.5
    c.inpainting.band = 4
    c.inpainting.band_weight = 10.0
    c.inpainting.area = 0.25
    c.inpainting.bottleneck = 4000
    c.inpainting.width = 512
    c.inpainting.bn_groups = 1

    c.optimizer.name = "adamw"
    c.optimizer.lr = 2e-3
    c.optimizer.lr_scaling = "none"
    c.optimizer.warmup_epochs = 0.0
    c.optimizer.warmup_start = 0.0
    c.optimizer.schedule = "cosine"
    c.optimizer.final = 1.0  # constant
    c.optimizer.weight_decay = 0.0
    c.optimizer.weight_decay_end = -1.0
    c.optimizer.exclude = ("bias", "scale")
    c.optimizer.accumulate = 1
    c.adamw.b1 = 0.5
    c.adamw.b2 = 0.999
    c.adamw.eps = 1e-8
    return c
