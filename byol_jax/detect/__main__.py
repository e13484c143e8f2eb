"""Judge an exported ResNet by detection: torchvision's Faster R-CNN, beside an untrained encoder.

python -m byol_jax.detect --encoder EXPORT --data DIR[,DIR2] --out FOLDER [--steps N ...]

It needs torch and torchvision: pip install "byol_jax[detect]". docs/evaluation.md has the options.
"""

from __future__ import annotations

import jax
from absl import flags

from byol_jax import cli
from byol_jax.detect.model import NORMS, Network
from byol_jax.detect.protocol import INITS, Asked, detect, table
from byol_jax.detect.training import Training


def _sides(text: list[str]) -> tuple[int, ...]:
    try:
        return tuple(int(s) for s in text)
    except ValueError as e:
        raise ValueError(f"--sides is {','.join(text)!r}; expected px as 480,800.") from e


def main() -> int:
    """The command line."""
    # JAX reads the export and draws untrained weights; the accelerator is torch's.
    jax.config.update("jax_platforms", "cpu")
    f = flags.FLAGS
    network = Network(f.bn, f.freeze, _sides(f.sides), f.longest, f.anchor, f.rois, f.proposals)
    training = Training(f.steps, f.batch, f.lr, f.warmup, f.decay, f.seed, f.save_every, f.device)
    result = detect(
        Asked(
            *(f.encoder, tuple(f.data), f.out, f.init, f.test_share, f.split_seed),
            f.max_damaged,
            network,
            training,
        )
    )
    print(table(result))
    return 0


if __name__ == "__main__":
    flags.DEFINE_string("encoder", "", "folder of an export, orbax or timm, of a ResNet")
    flags.DEFINE_list("data", [], "folder of a data set; of further ones the training part")
    flags.DEFINE_string("out", "", "folder of the result")
    flags.DEFINE_string("init", "both", f"the backbone starts from: {', '.join(INITS)}")
    flags.DEFINE_string("bn", "sync", f"batch norms of the backbone: {', '.join(NORMS)}")
    flags.DEFINE_integer("freeze", 0, "parts of the backbone that are not trained, 0 to 5")
    flags.DEFINE_integer("steps", 24_000, "of training")
    flags.DEFINE_integer("batch", 16, "images per step")
    flags.DEFINE_float("lr", 0.02, "learning rate, for this batch")
    flags.DEFINE_integer("warmup", 100, "steps over which the rate rises")
    flags.DEFINE_float("decay", 1e-4, "of the weights")
    flags.DEFINE_list(
        "sides", [str(s) for s in range(480, 801, 32)], "px of the shorter side; the last for tests"
    )
    flags.DEFINE_integer("longest", 1333, "px at most of the longer side")
    flags.DEFINE_integer("anchor", 32, "px of the side of the smallest anchors")
    flags.DEFINE_integer("rois", 512, "boxes per training image that the head learns from")
    flags.DEFINE_integer("proposals", 1000, "boxes per test image that the head judges")
    flags.DEFINE_float("test_share", 0.2, "held out, where there are no lists")
    flags.DEFINE_integer("split_seed", 0, "which images are held out")
    flags.DEFINE_float("max_damaged", 0.02, "share of images that may be unreadable")
    flags.DEFINE_integer("seed", 0, "of new layers, order, flips and samples")
    flags.DEFINE_integer("save_every", 500, "steps from one saved state to the next")
    flags.DEFINE_string("device", "auto", "auto, cpu, cuda, ...")
    flags.DEFINE_bool("debug", False, "show tracebacks")
    cli.run(main)
