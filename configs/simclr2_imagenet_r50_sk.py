"""SimCLR v2 on ImageNet with ResNet-50, selective kernels and a projector of three layers.

    python -m byol_jax.train --config configs/simclr2_imagenet_r50_sk.py --workdir runs/simclr2_sk

Paper: Chen et al. 2020 (Big Self-Supervised Models); google-research/simclr:README.md publishes,
for this network of 35 M parameters, 74.6 linear top-1 after 800 epochs at batch 4096, and 64.5 and
72.1 when fine-tuned, from the first layer of the projector on, with 1% and 10% of the labels. The
fine-tuned classifier teaches a student, itself or a smaller network, on all images without labels:

    python -m byol_jax.evaluate --workdir runs/simclr2_sk --protocol finetune --save runs/teacher \\
        --config.eval.finetune_from=head1 --config.eval.label_fraction=0.1
    python -m byol_jax.train --config configs/distill_imagenet_r50.py --workdir runs/student \\
        --config.distill.teacher=runs/teacher

The paper's memory of negatives, which adds about 1% at most, is left out.
Hardware, hours and accuracy of this code: not yet run here.
"""

from ml_collections import ConfigDict

from byol_jax.config import default_config


def get_config(epochs: str = "800") -> ConfigDict:
    """The config for a number of epochs; the published one is 800.

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
    c.views.recipe = "simclr"

    c.encoder.name = "resnet50"
    c.encoder.width = 1.0
    c.encoder.padding = "torch"  # the original pads by the kernel alone, as torch does
    c.encoder.dtype = "bfloat16"
    c.resnet.stem = "imagenet"
    c.resnet.zero_init_last = True
    c.resnet.sk_ratio = 0.0625

    c.method.name = "simclr"
    c.method.probe = True
    c.simclr.hidden = 2048
    c.simclr.out = 128
    c.simclr.layers = 3
    c.simclr.norm = True
    c.simclr.loss = "nt_xent"
    c.simclr.temperature = 0.1
    c.simclr.bn = "joint"
    c.simclr.bn_groups = 1

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
