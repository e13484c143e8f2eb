"""DINO on ImageNet with ResNet-50: two crops of 224 px and eight of 96 px, 100 epochs at batch 512.

    python -m byol_jax.train --config configs/dino_imagenet_r50.py --workdir runs/dino100

Paper: Caron et al. 2021; the command of facebookresearch/dino:README.md, "ResNet-50 and other
convnets trainings" (8 GPUs of 64 images), with the defaults of main_dino.py. Its result is
published as a log only; the released ResNet-50 (67.5 kNN, 75.3 linear top-1) was trained for longer
and with other arguments. What differs: the warm-up reaches its end a step later; contrast changes
about the mean of each channel and saturation in HSV.
Hardware, hours and accuracy of this code: not yet run here.
"""

from ml_collections import ConfigDict

from byol_jax.config import default_config


def get_config(epochs: str = "100") -> ConfigDict:
    """The config for a number of epochs; that of the command is 100.

    Raises:
      ValueError: it is not a number.
    """
    if not epochs.isdigit() or int(epochs) < 1:
        raise ValueError(f"{epochs!r} is not a number of epochs; give e.g. :300.")
    c = default_config()
    c.batch_size = 512
    c.epochs = int(epochs)
    c.image_size = 224

    c.data.name = "imagenet2012"
    c.views.recipe = "multi_crop"
    c.views.overrides.brightness_scales = True  # as torchvision's jitter
    c.views.overrides.kernel = 23  # Pillow's blur is as wide as sigma asks, at 96 px too
    c.multi_crop.small = 96
    c.multi_crop.count = 8
    c.multi_crop.colours = "byol"
    c.multi_crop.large_area = (0.14, 1.0)
    c.multi_crop.small_area = (0.05, 0.14)
    c.multi_crop.small_blur = 0.5

    c.encoder.name = "resnet50"
    c.encoder.width = 1.0
    c.encoder.padding = "torch"
    c.encoder.drop_path = 0.0
    c.encoder.dtype = "bfloat16"
    c.resnet.stem = "imagenet"
    c.resnet.zero_init_last = False

    c.method.name = "dino"
    c.method.probe = True
    c.dino.hidden = 2048
    c.dino.layers = 3
    c.dino.out = 256
    c.dino.prototypes = 65536
    c.dino.tau = 0.996
    c.dino.tau_schedule = "cosine"
    c.dino.temperature = 0.1
    c.dino.teacher_start = 0.04
    c.dino.teacher_temperature = 0.04
    c.dino.teacher_epochs = 0
    c.dino.centre_momentum = 0.9
    c.dino.bn = "joint"
    c.dino.bn_groups = 1

    c.optimizer.name = "sgd"
    c.optimizer.lr = 0.03
    c.optimizer.lr_scaling = "linear"
    c.optimizer.warmup_epochs = 10.0
    c.optimizer.warmup_start = 0.0
    c.optimizer.schedule = "cosine"
    c.optimizer.final = 1e-6 / 0.06
    c.optimizer.weight_decay = 1e-4
    c.optimizer.weight_decay_end = -1.0
    c.optimizer.exclude = ("bias", "scale")
    c.optimizer.hold = ("last_layer",)
    c.optimizer.hold_epochs = 1.0
    c.optimizer.hold_steps = 0
    c.optimizer.clip_tensor = 3.0
    c.optimizer.accumulate = 1
    c.sgd.momentum = 0.9
    c.sgd.nesterov = False
    return c
