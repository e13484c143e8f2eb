"""Distillation on ImageNet into ResNet-50: the third stage of SimCLR v2.

    python -m byol_jax.train --config configs/distill_imagenet_r50.py --workdir runs/student \\
        --config.distill.teacher=runs/teacher

The teacher is a fine-tuned classifier, saved by evaluate --protocol finetune --save (see
simclr2_imagenet_r50_sk.py); no label is used. `resnet.sk_ratio=0.0625` gives the student the
teacher's selective kernels: self-distillation.
Paper: Chen et al. 2020 (Big Self-Supervised Models), section 3: schedule, weight decay and batch as
in pre-training, 400 epochs, crops and flips only; the temperature is that of the authors' notebook
(google-research/simclr:colabs/distillation_self_training.ipynb), which is all of this stage that
they published. A ResNet-50 taught by a ResNet-152 (3x, selective kernels) has 73.9 and 77.5 top-1
with 1% and 10% of the labels.
Hardware, hours and accuracy of this code: not yet run here.
"""

from ml_collections import ConfigDict

from byol_jax.config import default_config


def get_config(epochs: str = "400") -> ConfigDict:
    """The config for a number of epochs; the published one is 400.

    Raises:
      ValueError: it is not a number.
    """
    if not epochs.isdigit() or int(epochs) < 1:
        raise ValueError(f"{epochs!r} is not a number of epochs; give e.g. :100.")
    c = default_config()
    c.batch_size = 4096
    c.epochs = int(epochs)
    c.image_size = 224

    c.data.name = "imagenet2012"
    c.views.recipe = "crop_flip"
    c.views.mean = (0.0, 0.0, 0.0)  # as SimCLR: pixels in 0..1
    c.views.std = (1.0, 1.0, 1.0)

    c.encoder.name = "resnet50"
    c.encoder.width = 1.0
    c.encoder.padding = "torch"
    c.encoder.dtype = "bfloat16"
    c.resnet.stem = "imagenet"
    c.resnet.zero_init_last = True
    c.resnet.sk_ratio = 0.0

    c.method.name = "distill"
    c.distill.temperature = 1.0
    c.distill.alpha = 1.0
    c.distill.bn_groups = 1

    c.optimizer.name = "lars"
    c.optimizer.lr = 0.1
    c.optimizer.lr_scaling = "sqrt"
    c.optimizer.warmup_epochs = 0.05 * c.epochs  # 5% of the run
    c.optimizer.warmup_start = 0.0
    c.optimizer.schedule = "cosine"
    c.optimizer.final = 0.0
    c.optimizer.weight_decay = 1e-4
    c.optimizer.exclude = ("bias", "scale")
    c.optimizer.accumulate = 1
    c.lars.momentum = 0.9
    c.lars.nesterov = False
    c.lars.eta = 1e-3
    c.lars.lr_inside = True
    c.lars.clip = False
    return c
