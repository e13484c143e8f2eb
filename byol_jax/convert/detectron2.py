"""ResNets for detectron2: torchvision's numbers under detectron2's names.

An export is a folder: `model.pkl` for MODEL.WEIGHTS, `detectron2.yaml` with the settings that
belong to these weights, `encoder.json` that describes the encoder, and a model card. The pickle is
only ever written here; nothing but detectron2 reads it.

Reference: facebookresearch/moco:detection/convert-pretrain-to-detectron2.py for the file,
facebookresearch/detectron2:detectron2/modeling/backbone/resnet.py for names, blocks and strides.
"""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from byol_jax.convert.card import detectron2_card
from byol_jax.convert.files import write_folder
from byol_jax.convert.info import EncoderInfo, build_encoder
from byol_jax.convert.timm import TORCHVISION, to_state_dict
from byol_jax.core import Tree
from byol_jax.manifest import file_sha256
from byol_jax.writing import to_json

FORMAT, VERSION = "byol_jax weights for detectron2", 1
WEIGHTS_FILE, SETTINGS_FILE = "model.pkl", "detectron2.yaml"
INFO_FILE, CARD_FILE = "encoder.json", "README.md"
DEPTHS = {name: int(name.removeprefix("resnet")) for name in TORCHVISION}
"""detectron2's ResNets: basic blocks up to 34 layers, bottlenecks from 50."""

# NumPy 2 names its modules otherwise in pickles than the NumPy that old detectron2 runs with; this
# name is known to both.
_NEW_NAME, _NAME = b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"


def detectron2_name(name: str) -> str:
    """torchvision's name of an array of a ResNet as detectron2's: layer1.0.bn2.bias ->
    res2.0.conv2.norm.bias, conv1.weight -> stem.conv1.weight.
    """
    parts = name.split(".")
    if parts[0].startswith("layer"):
        parts[0] = f"res{int(parts[0].removeprefix('layer')) + 1}"
    else:
        parts.insert(0, "stem")
    out = ".".join(parts).replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.bn")
    for i in (1, 2, 3):
        out = out.replace(f".bn{i}.", f".conv{i}.norm.")
    return out.replace("shortcut.bn.", "shortcut.norm.")


def to_detectron2(params: Tree, stats: Tree, config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Rename and transpose an encoder for detectron2.

    Args:
      params: the encoder's parameters, float32.
      stats: its batch-norm statistics, float32.
      config: arguments of `models.make_encoder`.

    Returns:
      {detectron2's name: array}, kernels [out, in, H, W], with torch's counters of batches.

    Raises:
      ValueError: detectron2 does not have exactly this network (says why), or the arrays are not
        the encoder's.
    """
    _require(config)
    state = to_state_dict(params, stats, config)
    return {detectron2_name(name): array for name, array in state.items()}


def _require(config: dict[str, Any]) -> None:
    """Refuse an encoder that detectron2's ResNet is not."""
    name = build_encoder(config).config["name"]
    if name not in DEPTHS:
        raise ValueError(
            f"Encoder {name!r} has no exact form in detectron2, whose backbone is one of "
            f"{', '.join(DEPTHS)}. Export it with --format orbax."
        )


def save_detectron2(out: Path, params: Tree, stats: Tree, info: EncoderInfo) -> None:
    """Write a ResNet as a folder for detectron2.

    Args:
      out: the folder to make; it may exist if it is empty.
      params: the encoder's parameters, float32.
      stats: its batch-norm statistics, float32.
      info: its description, and how its images were normalised.

    Raises:
      ValueError: `out` is not empty, detectron2 does not have exactly this network (says why), or
        the arrays do not match the encoder's.
      OSError: what was written reads back differently; nothing is left behind.
    """
    model = to_detectron2(params, stats, info.encoder)
    encoder = build_encoder(info.encoder)
    info = dataclasses.replace(info, encoder=encoder.config)
    content = pickled({"model": model, "__author__": "byol_jax", "matching_heuristics": True})

    def fill(folder: Path) -> None:
        weights = folder / WEIGHTS_FILE
        weights.write_bytes(content)
        if weights.read_bytes() != content:
            raise OSError(f"What was written to {weights} reads back differently: a faulty disk?")
        described = {
            "format": FORMAT,
            "version": VERSION,
            "info": dataclasses.asdict(info),
            "sha256": file_sha256(weights),
        }
        (folder / INFO_FILE).write_text(to_json(described, 2) + "\n")
        (folder / SETTINGS_FILE).write_text(settings(info))
        (folder / CARD_FILE).write_text(detectron2_card(info, encoder.dim))

    write_folder(out, fill)


def pickled(value: dict[str, Any]) -> bytes:
    """Arrays in a dict as a pickle that Python 3 reads with NumPy 1 and 2."""
    # Protocol 3: bytes as they are, and names as plain lines that can be replaced.
    content = pickle.dumps(value, protocol=3)
    if content.count(_NEW_NAME) > 1:  # the bytes of a weight, a chance of 1e-50
        raise OSError("The weights cannot be told from a name in the pickle; export again.")
    return content.replace(_NEW_NAME, _NAME)


def settings(info: EncoderInfo) -> str:
    """The part of detectron2's config that belongs to the weights, as YAML.

    Args:
      info: the encoder's description; mean and std are for pixels in 0..1, detectron2's for 0..255.
    """
    depth = DEPTHS[info.encoder["name"]]
    mean, std = ([round(255 * v, 6) for v in values] for values in (info.mean, info.std))
    # Theirs are 256 by default; blocks without bottleneck begin with the stem's 64 channels.
    basic = "    RES2_OUT_CHANNELS: 64\n" if depth < 50 else ""
    return (
        "VERSION: 2\n"
        "MODEL:\n"
        f"  PIXEL_MEAN: {mean}\n"
        f"  PIXEL_STD: {std}\n"
        "  RESNETS:\n"
        f"    DEPTH: {depth}\n"
        f"{basic}"
        "    STRIDE_IN_1X1: False\n"
        "INPUT:\n"
        "  FORMAT: RGB\n"
    )
