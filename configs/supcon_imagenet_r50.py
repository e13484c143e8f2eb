"""SupCon on ImageNet with ResNet-50, the authors' recipe. It trains on the labels.

    python -m byol_jax.train --config configs/supcon_imagenet_r50.py --workdir runs/supcon

Paper: Khosla et al. 2020, which publishes 78.7 linear top-1 at batch 6144, with AutoAugment;
google-research/google-research:supcon/scripts/supcon_imagenet_resnet50.sh and configs.sh (350
epochs, one linear layer of 128, no batch norm, loss times temperature). What differs: the views are
SimCLR's, as AutoAugment is not here; biases are not decayed, and the linear layer has one; theirs
normalises the features before that layer, which without a bias changes nothing.
Hardware, hours and accuracy of this code: not yet run here.
"""

from ml_collections import ConfigDict

from byol_jax.config import default_config


def get_config(epochs: str = "350") -> ConfigDict:
    """The config for a number of epochs; the published one is 350.

    Raises:
      ValueError: it is not a number.
    """
    if not epochs.isdigit() or int(epochs) < 1:
        raise ValueError(f"{epochs!r} is not a number of epochs; give e.g. :100.")
    c = default_config()
    c.batch_size = 6144
    c.epochs = int(epochs)
    c.image_size = 224

    c.data.name = "imagenet2012"
    c.views.recipe = "simclr"

    c.encoder.name = "resnet50"
    c.encoder.width = 1.0
    c.encoder.padding = "torch"
    c.encoder.dtype = "bfloat16"
    c.resnet.stem = "imagenet"
    c.resnet.zero_init_last = True

    c.method.name = "supcon"
    c.method.probe = True
    c.supcon.hidden = 2048  # not used by one layer
    c.supcon.out = 128
    c.supcon.layers = 1
    c.supcon.norm = False
    c.supcon.temperature = 0.1
    c.supcon.base_temperature = 1.0  # the loss is times temperature
    c.supcon.mean = "outside"
    c.supcon.bn = "joint"
    c.supcon.bn_groups = 1

    c.optimizer.name = "lars"
    c.optimizer.lr = 0.4
    c.optimizer.lr_scaling = "linear"
    c.optimizer.warmup_epochs = 12.0
    c.optimizer.warmup_start = 0.0
    c.optimizer.schedule = "cosine"
    c.optimizer.final = 0.0
    c.optimizer.weight_decay = 1e-3
    c.optimizer.exclude = ("bias", "scale")
    c.optimizer.accumulate = 1
    c.lars.momentum = 0.9
    c.lars.nesterov = False
    c.lars.eta = 1e-3
    c.lars.lr_inside = True
    c.lars.clip = False
    return c
