"""Every method on CIFAR-10 on a laptop: a tiny encoder, minutes to half an hour on two CPU cores.

    python -m byol_jax.train --config configs/cifar10_cpu.py --workdir runs/cifar_cpu \\
        [--config.data.dir=/path/to/tensorflow_datasets]
    python -m byol_jax.train --config configs/cifar10_cpu.py:moco --workdir runs/cifar_moco

The argument is the method. All have the same encoder, views (instance discrimination and pretext
tasks take one) and 300,000 images, which is six epochs: SGD (DINO, Barlow Twins and exemplars:
AdamW), small heads, mild colours, fast targets and short queues for an encoder that sees few
images. BYOL, at batch 64, and SimSiam learn faster with ten times the learning rate for the
predictor, BYOL also with a constant tau. BYOL, VICReg, SwAV, NPID and inpainting have been run
whole, the others that compare views for two epochs, where only siamese is not above an untrained
encoder by kNN; pretext tasks for one. NPID, which has one view, needs twelve (--config.epochs=12).
Exemplars are the first 2,000 images; train on those alone: --config.data.ids_file=FILE, with the
numbers 0 to 1999, one per line, and --config.epochs=48.
Hardware, time and accuracy: docs/results.md.
"""

from typing import Any

from ml_collections import ConfigDict

from byol_jax.config import default_config

HEAD = {"hidden": 512, "out": 128}
FAST = {"tau": 0.96, "tau_schedule": "cosine"}

METHODS: dict[str, dict[str, Any]] = {
    "byol": {**HEAD, "tau": 0.99, "tau_schedule": "constant"},
    "siamese": HEAD,
    "simclr": {**HEAD, "temperature": 0.2},
    "supcon": {**HEAD, "temperature": 0.2},
    "barlow": {"hidden": 512, "out": 512, "layers": 2, "scale": 0.1},
    "vicreg": {"hidden": 512, "out": 512, "layers": 2},
    "moco": {**HEAD, "queue": 4096, "tau": 0.99, "temperature": 0.2, "bn_groups": 4},
    "mocov3": {**HEAD, **FAST, "temperature": 0.2},
    "simsiam": {"hidden": 512, "out": 512, "layers": 2, "predictor_hidden": 128},
    "nnclr": {**HEAD, "predictor_hidden": 512, "queue": 4096, "temperature": 0.2},
    "swav": {**HEAD, "prototypes": 300},
    "dino": {**HEAD, "prototypes": 1024, "tau": 0.98, "tau_schedule": "cosine"},
    "npid": {"out": 128, "negatives": 0, "temperature": 0.1},
    "rotation": {"turns": 4, "every": True, "layers": 1},
    # One of 8 px out of each cell of 10 px.
    "relative": {"pairs": 8, "tile": 8, "jitter": 2, "layers": 2, "hidden": 256},
    # All permutations of 2x2 tiles of 12 px; 3 x 3 would be too small to see anything.
    "jigsaw": {"permutations": 24, "grid": 2, "tile": 12, "jitter": 3, "shift": 1, "out": 128},
    # A hole of 12 x 12 px in a square of 16 x 16.
    "inpainting": {"size": 0.5, "band": 2, "bottleneck": 512, "width": 128},
    "colorization": {"sample": 4, "images": 10_000, "neighbours": 5, "sigma": 5.0, "width": 128},
    # 8,000 classes with colours changed as published are not learnt in 744 steps.
    "exemplar": {"seeds": 2000, "patch": 24, "layers": 1, "contrast": 1.5, "power": 2.0},
    "several": {"tasks": "relative,colorization", "turns": (1,)},
}
# At batch 256, where it is not 0.4.
# At 0.4 inpainting forgets what it learnt in the warm-up.
LR = {
    **{"barlow": 4e-3, "vicreg": 0.04, "dino": 2e-3},
    **{"npid": 0.05, "inpainting": 0.08, "exemplar": 4e-3},
}


def get_config(method: str = "byol") -> ConfigDict:
    """The config of a method.

    Raises:
      ValueError: there is none for it.
    """
    if method not in METHODS:
        raise ValueError(f"{method!r} has no recipe here; give one of {', '.join(METHODS)}.")
    c = default_config()
    c.batch_size = 64 if method == "byol" else 128
    c.epochs = 6
    c.image_size = 32
    c.log_every = 50
    c.checkpoint_every = 500
    c.evaluate_every = 2

    c.data.name = "cifar10"
    c.views.recipe = "cifar"
    c.views.overrides.area = (0.2, 1.0)
    c.views.overrides.brightness = 0.25
    c.views.overrides.contrast = 0.25
    c.views.overrides.saturation = 0.25
    c.views.overrides.hue = 0.04
    c.views.overrides.grey = 0.1
    c.views.overrides.solarize = 0.0

    c.encoder.name = "tiny"
    c.encoder.width = 0.5
    c.encoder.dtype = "float32"

    c.method.name = method
    c[method].update(METHODS[method])

    c.optimizer.name = "sgd"
    c.optimizer.lr = LR.get(method, 0.4)
    c.optimizer.lr_scaling = "linear"
    c.optimizer.weight_decay = 5e-4
    c.optimizer.warmup_epochs = 0.5
    c.sgd.momentum = 0.9
    if method in ("barlow", "exemplar"):  # exemplars do not learn with SGD, at 0.4 nor at 0.05
        c.optimizer.name = "adamw"
        c.optimizer.weight_decay = 0.01
    if method in ("byol", "simsiam"):
        c.optimizer.lr_factors = (("predictor", 10.0),)
    if method == "npid":  # one view, drawn as the two of the others
        c.views.recipe = "npid"
        c.views.overrides.update(flip=0.5)
    if method == "exemplar":  # seeds of whole images, which its task distorts itself
        c.views.recipe = "crop_flip"
        c.views.overrides.update(area=(1.0, 1.0), aspect=(1.0, 1.0), flip=0.0)
    if method == "several":
        c.relative.update(METHODS["relative"])
        c.colorization.update(METHODS["colorization"])
    if method in ("relative", "jigsaw", "several"):
        c.method.probe = False  # it would learn from tiles
    if method in ("rotation", "relative", "jigsaw", "inpainting"):
        c.views.recipe = "crop_flip"
        c.views.overrides.area = (0.6, 1.0)  # a turn, a place or a hole is of most of an image
    if method in ("colorization", "several"):  # the colours are what is asked for
        c.encoder.input = "lightness"
        c.views.recipe = "crop_flip"
    if c.views.recipe == "crop_flip":
        c.views.overrides.update(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, grey=0.0)
    if method == "dino":  # with SGD, or a faster teacher, it collapses to equal outputs
        c.optimizer.name = "adamw"
        c.optimizer.hold = ("last_layer",)
        c.optimizer.hold_steps = 100
        c.optimizer.weight_decay = 0.04
        c.optimizer.clip_tensor = 3.0
    return c
