"""SimSiam on ImageNet with ResNet-50, the paper's recipe.

    python -m byol_jax.train --config configs/simsiam_imagenet_r50.py --workdir runs/simsiam

The argument is the number of epochs.
Paper: Chen and He 2021; facebookresearch/simsiam:main_simsiam.py (--fix-pred-lr). Published linear
top-1: 68.1 at 100 epochs, batch 512 (8 V100); 71.3 at 800 epochs. No warm-up; all parameters decay;
the predictor's rate is constant. What differs: its learning rate falls once per epoch, ours at each
step.
Hardware, hours and accuracy of this code: not yet run here.
"""

from ml_collections import ConfigDict

from byol_jax.config import default_config


def get_config(epochs: str = "100") -> ConfigDict:
    """The config for a number of epochs; published are 100, 200, 400 and 800.

    Raises:
      ValueError: it is not a number.
    """
    if not epochs.isdigit() or int(epochs) < 1:
        raise ValueError(f"{epochs!r} is not a number of epochs; give e.g. :200.")
    c = default_config()
    c.batch_size = 512
    c.epochs = int(epochs)
    c.image_size = 224

    c.data.name = "imagenet2012"
    c.views.recipe = "moco_v2"

    c.encoder.name = "resnet50"
    c.encoder.width = 1.0
    c.encoder.padding = "torch"
    c.encoder.dtype = "bfloat16"
    c.resnet.stem = "imagenet"
    c.resnet.zero_init_last = True

    c.method.name = "simsiam"
    c.method.probe = True
    c.simsiam.hidden = 2048
    c.simsiam.out = 2048
    c.simsiam.layers = 3
    c.simsiam.predictor_hidden = 512
    c.simsiam.bn = "per_view"
    c.simsiam.bn_groups = 1

    c.optimizer.name = "sgd"
    c.optimizer.lr = 0.05
    c.optimizer.lr_scaling = "linear"
    c.optimizer.lr_fixed = ("predictor",)
    c.optimizer.warmup_epochs = 0.0
    c.optimizer.warmup_start = 0.0
    c.optimizer.schedule = "cosine"
    c.optimizer.final = 0.0
    c.optimizer.weight_decay = 1e-4
    c.optimizer.exclude = ()
    c.optimizer.accumulate = 1
    c.sgd.momentum = 0.9
    c.sgd.nesterov = False
    return c
