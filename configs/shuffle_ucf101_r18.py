"""Shuffle and learn on UCF101 with ResNet-18 on one GPU: the paper's numbers, another network.

    python -m byol_jax.train --config configs/shuffle_ucf101_r18.py --workdir runs/shuffle \\
        --config.data.dir=/path/to/ucf101     # train/CLASS/CLIP.avi and test/CLASS/CLIP.avi

Paper: Misra et al. 2016; imisra/shuffle-tuple at 7c7bbb2, networks/tuple_solver.prototxt and
tuple_train.prototxt: 100,000 steps of 128 triples by SGD, 1e-3, a tenth of it from step 80,000 on;
one linear layer on the features of the three frames. Published: action recognition on UCF101 after
fine-tuning 50.9 (38.6 from scratch, second-hand). A quarter of the triples is in order; the ends
are 40 frames apart (there: up to 60), the others 15 away from them.
What differs: the network (there: CaffeNet with batch norm in its last layers and dropout); windows
are drawn by the differences of frames, not by optical flow; 9,537 clips of the first split in
1,350 epochs, a new triple of a clip in each (there: 900,000 drawn beforehand). Clips of fewer than
86 frames are left out as if they were damaged, up to a tenth.
Hardware, hours and accuracy of this code: not yet run here.
"""

from ml_collections import ConfigDict

from byol_jax.config import default_config


def get_config() -> ConfigDict:
    """The config."""
    c = default_config()
    c.batch_size = 128
    c.epochs = 1350
    c.image_size = 224
    c.checkpoint_every = 5000
    c.eval.task = 1

    c.data.name = "clips"
    c.data.frames = 18
    c.data.stride = 5
    c.data.max_damaged = 0.1
    c.views.recipe = "crop_flip"
    c.views.placement = "device"
    c.views.overrides.update(area=(0.5, 1.0))

    c.encoder.name = "resnet18"
    c.encoder.width = 1.0
    c.encoder.padding = "torch"
    c.encoder.dtype = "bfloat16"
    c.resnet.stem = "imagenet"
    c.resnet.zero_init_last = False
    c.resnet.project_first = False
    c.resnet.sk_ratio = 0.0

    c.method.name = "shuffle"
    c.method.probe = True
    c.shuffle.span = 8
    c.shuffle.apart = 3
    c.shuffle.positive = 0.25
    c.shuffle.deviations = False
    c.shuffle.layers = 1
    c.shuffle.bn = "joint"
    c.shuffle.bn_groups = 1

    c.optimizer.name = "sgd"
    c.optimizer.lr = 1e-3
    c.optimizer.lr_scaling = "none"
    c.optimizer.warmup_epochs = 0.0
    c.optimizer.warmup_start = 0.0
    c.optimizer.schedule = "multistep"
    c.optimizer.milestones = (1080.0,)
    c.optimizer.drop = 0.1
    c.optimizer.weight_decay = 5e-4
    c.optimizer.exclude = ("bias", "scale")
    c.optimizer.accumulate = 1
    c.sgd.momentum = 0.9
    c.sgd.nesterov = False
    return c
