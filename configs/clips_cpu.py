"""Small runs on clips, on two CPU cores: the order of frames, or frames and sound.

    python -m byol_jax.train --config configs/clips_cpu.py:shuffle --workdir runs/shuffle \\
        --config.data.dir=/path/to/clips
    python -m byol_jax.train --config configs/clips_cpu.py:avc --workdir runs/avc \\
        --config.data.dir=/path/to/clips

Put clips of different sources into train/ and test/, best in class folders: the accuracy on clips
that were never seen is logged at the end (eval.task), beside kNN.
Hardware, hours and accuracy: docs/results.md.
"""

from ml_collections import ConfigDict

from byol_jax.config import default_config


def get_config(name: str = "shuffle") -> ConfigDict:
    """The config.

    Args:
      name: "shuffle" or "avc".
    """
    if name not in ("shuffle", "avc"):
        raise ValueError(f"clips_cpu has 'shuffle' and 'avc', not {name!r}.")
    c = default_config()
    c.batch_size = 32
    c.epochs = 20
    c.image_size = 48
    c.log_every = 10
    c.checkpoint_every = 200

    c.data.name = "clips"
    c.views.recipe = "crop_flip"
    c.views.placement = "host"
    c.views.mean = (0.5, 0.5, 0.5)
    c.views.std = (0.25, 0.25, 0.25)
    c.views.overrides.update(area=(0.5, 1.0))

    c.encoder.name = "tiny"
    c.encoder.width = 0.5
    c.encoder.dtype = "float32"

    c.method.name = name
    c.method.probe = False
    c.eval.task = 4
    if name == "shuffle":
        c.data.frames, c.data.stride = 20, 1  # clips of fewer frames are left out
        c.shuffle.span, c.shuffle.apart = 4, 6
        c.shuffle.positive = 0.25
        c.shuffle.deviations = True  # without, a few hundred steps of real clips teach nothing
        c.shuffle.layers, c.shuffle.hidden = 2, 128
    else:
        c.data.frames, c.data.sound, c.data.rate = 0, 1.0, 8000
        c.avc.fft, c.avc.window, c.avc.hop, c.avc.dynamic = 256, 256, 128, 80.0
        c.avc.positive = 0.5
        c.avc.layers, c.avc.hidden = 2, 128

    c.optimizer.name = "adamw"
    c.optimizer.lr = 3e-3
    c.optimizer.lr_scaling = "none"
    c.optimizer.warmup_epochs = 1.0
    c.optimizer.schedule = "cosine"
    c.optimizer.weight_decay = 1e-4
    c.optimizer.accumulate = 1
    return c
