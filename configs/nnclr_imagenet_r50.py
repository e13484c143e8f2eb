"""NNCLR on ImageNet with ResNet-50, after the paper.

    python -m byol_jax.train --config configs/nnclr_imagenet_r50.py --workdir runs/nnclr

The argument is the number of epochs.
Paper: Dwibedi et al. 2021, section 4.1; published linear top-1: 75.4 at 1000 epochs, batch 4096
(75.6 with multi-crop). The authors published no code, and these numbers have not been compared with
the paper's text a second time.
Hardware, hours and accuracy of this code: not yet run here.
"""

from ml_collections import ConfigDict

from byol_jax.config import default_config


def get_config(epochs: str = "1000") -> ConfigDict:
    """The config for a number of epochs; the published one is 1000.

    Raises:
      ValueError: it is not a number.
    """
    if not epochs.isdigit() or int(epochs) < 1:
        raise ValueError(f"{epochs!r} is not a number of epochs; give e.g. :200.")
    c = default_config()
    c.batch_size = 4096
    c.epochs = int(epochs)
    c.image_size = 224

    c.data.name = "imagenet2012"
    c.views.recipe = "byol"

    c.encoder.name = "resnet50"
    c.encoder.width = 1.0
    c.encoder.padding = "torch"
    c.encoder.dtype = "bfloat16"
    c.resnet.stem = "imagenet"
    c.resnet.zero_init_last = False

    c.method.name = "nnclr"
    c.method.probe = True
    c.nnclr.hidden = 2048
    c.nnclr.out = 256
    c.nnclr.predictor_hidden = 4096
    c.nnclr.queue = 98304
    c.nnclr.temperature = 0.1
    c.nnclr.bn = "per_view"
    c.nnclr.bn_groups = 1

    c.optimizer.name = "lars"
    c.optimizer.lr = 0.3
    c.optimizer.lr_scaling = "linear"
    c.optimizer.warmup_epochs = 10.0
    c.optimizer.warmup_start = 0.0
    c.optimizer.schedule = "cosine"
    c.optimizer.final = 0.0
    c.optimizer.weight_decay = 1e-6
    c.optimizer.exclude = ("bias", "scale")
    c.optimizer.accumulate = 1
    c.lars.momentum = 0.9
    c.lars.nesterov = False
    c.lars.eta = 1e-3
    c.lars.lr_inside = False
    c.lars.clip = False
    return c
