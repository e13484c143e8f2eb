"""SwAV on ImageNet with ResNet-50, the authors' recipes: two crops of 224 px and six of 96 px.

    python -m byol_jax.train --config configs/swav_imagenet_r50.py:800 --workdir runs/swav800

The argument is the number of epochs: 800 at batch 4096, or 200 at batch 256 with a queue.
Paper: Caron et al. 2020; facebookresearch/swav:scripts/swav_800ep_pretrain.sh and
swav_200ep_bs256_pretrain.sh. Published linear top-1: 75.3 (800 epochs, 64 GPUs) and 72.7 (200
epochs at batch 256, 4 GPUs). The std of the first channel, 0.228, is that of the authors' code. The
prototypes are held for 313 or 5005 steps, about an epoch. What differs: the warm-up reaches its end
a step later; contrast changes about the mean of each channel and saturation in HSV.
Hardware, hours and accuracy of this code: not yet run here.
"""

from ml_collections import ConfigDict

from byol_jax.config import default_config

# epochs -> batch, base learning rate (per 256), warm-up epochs, its start (0.3 of 4.8), queue,
# steps for which the prototypes are held, groups of batch norm (8 GPUs of 64 GPUs each; all)
RECIPES = {
    800: (4096, 0.3, 10.0, 0.0625, 0, 313, 8),
    200: (256, 0.6, 0.0, 0.0, 3840, 5005, 1),
}


def get_config(epochs: str = "800") -> ConfigDict:
    """The config for a number of epochs.

    Raises:
      ValueError: there is no recipe for that number.
    """
    if epochs not in {str(k) for k in RECIPES}:
        raise ValueError(f"No recipe for {epochs!r} epochs; expected one of {list(RECIPES)}.")
    batch, lr, warmup, warmup_start, queue, held, groups = RECIPES[int(epochs)]
    c = default_config()
    c.batch_size = batch
    c.epochs = int(epochs)
    c.image_size = 224

    c.data.name = "imagenet2012"
    c.views.recipe = "multi_crop"
    c.views.mean = (0.485, 0.456, 0.406)
    c.views.std = (0.228, 0.224, 0.225)
    c.views.overrides.kernel = 23  # Pillow's blur is as wide as sigma asks, at 96 px too
    c.multi_crop.small = 96
    c.multi_crop.count = 6
    c.multi_crop.colours = "simclr"
    c.multi_crop.large_area = (0.14, 1.0)
    c.multi_crop.small_area = (0.05, 0.14)
    c.multi_crop.small_blur = 0.5

    c.encoder.name = "resnet50"
    c.encoder.width = 1.0
    c.encoder.padding = "torch"
    c.encoder.dtype = "bfloat16"
    c.resnet.stem = "imagenet"
    c.resnet.zero_init_last = False

    c.method.name = "swav"
    c.method.probe = True
    c.swav.hidden = 2048
    c.swav.out = 128
    c.swav.prototypes = 3000
    c.swav.temperature = 0.1
    c.swav.epsilon = 0.05
    c.swav.iterations = 3
    c.swav.queue = queue
    c.swav.queue_epoch = 15.0
    c.swav.bn = "joint"
    c.swav.bn_groups = groups

    c.optimizer.name = "lars"
    c.optimizer.lr = lr
    c.optimizer.lr_scaling = "linear"
    c.optimizer.warmup_epochs = warmup
    c.optimizer.warmup_start = warmup_start
    c.optimizer.schedule = "cosine"
    c.optimizer.final = 0.001
    c.optimizer.weight_decay = 1e-6
    c.optimizer.exclude = ()  # everything is decayed and adapted
    c.optimizer.hold = ("prototypes",)
    c.optimizer.hold_epochs = 0.0
    c.optimizer.hold_steps = held
    c.optimizer.accumulate = 1
    c.lars.momentum = 0.9
    c.lars.nesterov = False
    c.lars.eta = 1e-3
    c.lars.lr_inside = False
    c.lars.clip = False
    c.lars.larc = True
    return c
