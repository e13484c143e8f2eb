"""Instance discrimination on CIFAR-10 with ResNet-18 on one GPU: the authors' recipe.

    python -m byol_jax.train --config configs/npid_cifar10_r18.py --workdir runs/npid \\
        [--config.data.dir=/path/to/tensorflow_datasets]

The argument is the number K of negatives: 0, the default, is the full softmax; :4096, :512, :10 and
:1 are the paper's noise-contrastive estimation. Published kNN top-1 (on the 128 dimensions of the
embedding, k 200): 80.8 for the full softmax; 80.4, 78.4, 63.4, 42.5 for these K.
Paper: Wu et al. 2018, section 4.1; zhirongw/lemniscate.pytorch:cifar.py at f7cfe29.
What differs: saturation in HSV and contrast about the mean of each channel (torchvision: grey),
crops resized bicubically (torchvision: bilinearly), kNN of this code on the 512 pooled features.
Hardware, hours and accuracy of this code: not yet run here.
"""

from ml_collections import ConfigDict

from byol_jax.config import default_config


def get_config(negatives: str = "0") -> ConfigDict:
    """The config for a number of negatives.

    Raises:
      ValueError: it is not a number.
    """
    if not negatives.isdigit():
        raise ValueError(f"{negatives!r} is not a number of negatives; give e.g. :4096, or :0.")
    c = default_config()
    c.batch_size = 128
    c.epochs = 200
    c.image_size = 32
    c.checkpoint_every = 5000
    c.evaluate_every = 10

    c.data.name = "cifar10"
    c.data.placement = "resident"  # 154 MB
    c.views.placement = "device"
    c.views.recipe = "npid"
    c.views.mean = (0.4914, 0.4822, 0.4465)
    c.views.std = (0.2023, 0.1994, 0.2010)
    c.views.overrides.flip = 0.0

    c.encoder.name = "resnet18"
    c.encoder.width = 1.0
    c.encoder.padding = "torch"
    c.encoder.dtype = "bfloat16"
    c.resnet.stem = "cifar"
    c.resnet.zero_init_last = False
    c.resnet.project_first = False
    c.resnet.sk_ratio = 0.0

    c.method.name = "npid"
    c.method.probe = True
    c.npid.out = 128
    c.npid.negatives = int(negatives)
    c.npid.temperature = 0.1
    c.npid.momentum = 0.5
    c.npid.bn_groups = 1

    c.optimizer.name = "sgd"
    c.optimizer.lr = 0.03
    c.optimizer.lr_scaling = "none"
    c.optimizer.warmup_epochs = 0.0
    c.optimizer.schedule = "multistep"
    c.optimizer.milestones = (120.0, 160.0)
    c.optimizer.drop = 0.1
    c.optimizer.weight_decay = 5e-4
    c.optimizer.exclude = ()
    c.optimizer.accumulate = 1
    c.sgd.momentum = 0.9
    c.sgd.nesterov = False
    c.eval.knn_k = 200
    c.eval.knn_temperature = 0.1
    return c
