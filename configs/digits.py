"""Every method on scikit-learn's handwritten digits; BYOL is the demo. Nothing is downloaded.

    python -m byol_jax.train --config configs/digits.py --workdir runs/digits
    python -m byol_jax.train --config configs/digits.py:moco --workdir runs/digits_moco

The argument is the method. Views, optimizer and heads suit 1,297 scans of 8x8 pixels: one affine
crop with rotation, brightness and contrast; SGD; small heads; fast targets and short queues.
Hardware, time and accuracy: docs/results.md.
"""

from typing import Any

from ml_collections import ConfigDict

from byol_jax.config import default_config

HEAD = {"hidden": 256, "out": 64}
FAST = {"tau": 0.9, "tau_schedule": "cosine"}

METHODS: dict[str, dict[str, Any]] = {
    "byol": {**HEAD, **FAST},
    "siamese": HEAD,
    "simclr": {**HEAD, "temperature": 0.2},
    "supcon": {**HEAD, "temperature": 0.2},
    "barlow": {"hidden": 256, "out": 256, "layers": 2, "scale": 0.02},
    "vicreg": {"hidden": 256, "out": 256, "layers": 2},
    "moco": {**HEAD, "queue": 1024, "tau": 0.99, "temperature": 0.2, "bn_groups": 4},
    "mocov3": {**HEAD, **FAST, "temperature": 0.2},
    "simsiam": {"hidden": 256, "out": 256, "layers": 2, "predictor_hidden": 64},
    "nnclr": {**HEAD, "predictor_hidden": 256, "queue": 1024, "temperature": 0.2},
    "swav": {**HEAD, "prototypes": 60},
    "dino": {**HEAD, "prototypes": 256, "tau": 0.98, "tau_schedule": "cosine"},
    "npid": {"out": 64, "negatives": 0, "temperature": 0.1},
    "mae": {"dim": 32, "depth": 2, "heads": 4, "mask": 0.5},
    "rotation": {"turns": 4, "every": True, "layers": 1},
    # All permutations of 2x2 tiles of 3 px.
    "jigsaw": {"permutations": 24, "grid": 2, "tile": 3, "jitter": 1, "shift": 0, "out": 64},
    # Tiles of 3 px out of cells of 4 px: scans of 12 px.
    "relative": {"pairs": 8, "tile": 3, "jitter": 1, "layers": 2, "hidden": 64},
    "inpainting": {"size": 0.5, "band": 0, "bottleneck": 64, "width": 64},  # a hole of 4 x 4 px
}
# At batch 256, where it is not BYOL's.
LR = {"vicreg": 0.02, "dino": 4e-3, "mae": 4e-3}


def get_config(method: str = "byol") -> ConfigDict:
    """The config of a method.

    Raises:
      ValueError: there is none for it.
    """
    if method not in METHODS:
        raise ValueError(f"{method!r} has no recipe for digits; give one of {', '.join(METHODS)}.")
    c = default_config()
    c.batch_size = 128
    c.epochs = 60
    c.image_size = 8
    c.log_every = 20
    c.checkpoint_every = 100
    c.evaluate_every = 20

    c.data.name = "digits"
    c.data.placement = "resident"
    c.data.steps_per_dispatch = 20
    c.views.placement = "device"
    c.views.recipe = "digits"

    c.encoder.name = "tiny"
    c.encoder.dtype = "float32"

    c.method.name = method
    c[method].update(METHODS[method])

    c.optimizer.name = "sgd"
    c.optimizer.lr = LR.get(method, 0.2)
    c.optimizer.lr_scaling = "linear"
    c.optimizer.warmup_epochs = 10.0
    c.optimizer.weight_decay = 5e-4
    c.sgd.momentum = 0.9
    # One view, drawn as the two of the others.
    if method in ("npid", "mae", "rotation", "jigsaw", "relative", "inpainting"):
        c.views.recipe = "npid"
        c.views.overrides.update(
            area=(0.35, 1.0), flip=0.0, rotate=17.0, saturation=0.0, hue=0.0, grey=0.0
        )
    if method == "relative":
        c.image_size = 12
    if method == "dino":  # with SGD, or a faster teacher, it collapses to equal outputs
        c.optimizer.name = "adamw"
        c.optimizer.hold = ("last_layer",)
        c.optimizer.hold_epochs = 1.0
        c.optimizer.weight_decay = 0.04
        c.optimizer.clip_tensor = 3.0
    if method == "mae":  # a transformer of 16 patches
        c.encoder.name = "vit_tiny"
        c.vit.update(dim=64, depth=4, heads=4, patch=2, pool="mean")
        c.optimizer.name = "adamw"
        c.optimizer.weight_decay = 0.05
        c.adamw.b2 = 0.95
    return c
