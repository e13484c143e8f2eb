"""Rotation on CIFAR-10 with ResNet-18 on one GPU: the paper's numbers, another network.

    python -m byol_jax.train --config configs/rotation_cifar10_r18.py --workdir runs/rotation \\
        [--config.data.dir=/path/to/tensorflow_datasets]

Paper: Gidaris et al. 2018, section 4.1; gidariss/FeatureLearningRotNet at edafaba: each image in
all four rotations, batch 128, SGD for 200 epochs. Published with their network of four blocks
(top-1 of a classifier of three layers on block 2): 89.06 with 4 rotations, 87.46 with 2; on blocks
1, 3, 4: 85.07, 86.21, 61.73.
What differs: the network; shifts of at most 4 px are of fractions of a pixel (theirs: a crop of the
padded image); the probe is linear, on the last stage.
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
    c.views.overrides.update(area=(1.0, 1.0), aspect=(1.0, 1.0), shift=0.125)

    c.encoder.name = "resnet18"
    c.encoder.width = 1.0
    c.encoder.padding = "torch"
    c.encoder.dtype = "bfloat16"
    c.resnet.stem = "cifar"
    c.resnet.zero_init_last = False
    c.resnet.project_first = False
    c.resnet.sk_ratio = 0.0

    c.method.name = "rotation"
    c.method.probe = True
    c.rotation.turns = 4
    c.rotation.every = True
    c.rotation.layers = 1
    c.rotation.bn = "joint"
    c.rotation.bn_groups = 1

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
