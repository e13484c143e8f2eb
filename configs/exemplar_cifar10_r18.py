"""Exemplars on CIFAR-10 with ResNet-18 on one GPU: the paper's transformations, another network.

    python -m byol_jax.train --config configs/exemplar_cifar10_r18.py --workdir runs/exemplar \\
        [--config.data.dir=/path/to/tensorflow_datasets]

Paper: Dosovitskiy et al. 2014: patches of 32 px of larger images (STL-10), best with about 8,000
classes; published with their own networks: STL-10 72.8, CIFAR-10 (400 labels per class) 75.3. Sizes
and figures are quoted second-hand, not yet compared with the paper.
What differs: the network; patches of 24 px, since CIFAR-10's images have 32; the directions of
contrast; the optimizer and its schedule, which are those of configs/rotation_cifar10_r18.py; each
epoch shows a seed about six times, where the paper draws 100 to 150 copies once.
Hardware, hours and accuracy of this code: not yet run here.
"""

from ml_collections import ConfigDict

from byol_jax.config import default_config


def get_config() -> ConfigDict:
    """The config."""
    c = default_config()
    c.batch_size = 128
    c.epochs = 200
    c.image_size = 32
    c.checkpoint_every = 5000
    c.evaluate_every = 10

    c.data.name = "cifar10"
    c.data.placement = "resident"  # 154 MB
    c.views.placement = "device"
    c.views.recipe = "crop_flip"
    c.views.mean = (0.4914, 0.4822, 0.4465)
    c.views.std = (0.2470, 0.2435, 0.2616)
    c.views.overrides.update(area=(1.0, 1.0), aspect=(1.0, 1.0), flip=0.0)

    c.encoder.name = "resnet18"
    c.encoder.width = 1.0
    c.encoder.padding = "torch"
    c.encoder.dtype = "bfloat16"
    c.resnet.stem = "cifar"
    c.resnet.zero_init_last = False
    c.resnet.project_first = False
    c.resnet.sk_ratio = 0.0

    c.method.name = "exemplar"
    c.method.probe = True
    c.exemplar.seeds = 8000
    c.exemplar.patch = 24
    c.exemplar.shift = 0.2
    c.exemplar.scale = (0.7, 1.4)
    c.exemplar.rotate = 20.0
    c.exemplar.contrast = 2.0
    c.exemplar.power = 4.0
    c.exemplar.hue = 0.1
    c.exemplar.layers = 1
    c.exemplar.bn_groups = 1

    c.optimizer.name = "sgd"
    c.optimizer.lr = 0.1
    c.optimizer.lr_scaling = "none"
    c.optimizer.warmup_epochs = 0.0
    c.optimizer.warmup_start = 0.0
    c.optimizer.schedule = "multistep"
    c.optimizer.milestones = (60.0, 120.0, 160.0)
    c.optimizer.drop = 0.2
    c.optimizer.weight_decay = 5e-4
    c.optimizer.exclude = ()
    c.optimizer.accumulate = 1
    c.sgd.momentum = 0.9
    c.sgd.nesterov = True
    return c
