"""ResNets and vision transformers for timm (and torchvision), and back: the same numbers under
other names.

A timm export is a folder with config.json, model.safetensors and README.md, as read by
`timm.create_model("local-dir:PATH", pretrained=True)` and model hubs. Under `byol_jax`, config.json
also has what `load.load_encoder` needs, and the SHA-256 of the weights. Of timm's own folders those
of vision transformers are read too.

Reference: torchvision:models/resnet.py, timm:models/resnet.py and models/vision_transformer.py for
names, order and padding.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from flax import traverse_util

from byol_jax.convert import timm_vit
from byol_jax.convert.card import model_card
from byol_jax.convert.files import read_json, same_bits, write_folder
from byol_jax.convert.info import (
    USUAL_CROP,
    EncoderInfo,
    build_encoder,
    check_arrays,
    expected_shapes,
    info_from_json,
)
from byol_jax.core import Encoder, Tree
from byol_jax.manifest import file_sha256
from byol_jax.models.vit import SIZES
from byol_jax.untrusted import one_error, size_of

VERSION = 1
CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"
TORCHVISION = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
COUNTER = "num_batches_tracked"  # torch's count of training batches; inference ignores it
EXACT_IN_FLOAT32 = ("float32", "float16", "bfloat16")


def require_exact(config: Mapping[str, Any]) -> Encoder:
    """Build the encoder, if timm and torchvision have exactly this network.

    Args:
      config: arguments of `models.make_encoder`.

    Raises:
      ValueError: they do not; says why.
    """
    encoder = build_encoder(config)
    full = encoder.config
    reason = "" if full["name"] in SIZES else _why_not(full)
    if not reason and full["channels"] != 3:
        reason = f"theirs take 3 channels, not {full['channels']}"
    if not reason and full.get("lightness"):
        reason = (
            "it sees the lightness of images alone, which no layer of theirs computes from colours"
        )
    if not reason and full["dtype"] == "float64":
        reason = "float64 parameters do not fit into float32"
    if reason:
        raise ValueError(
            f"Encoder {full['name']!r} has no exact form in timm or torchvision: {reason}. Export "
            "it with --format orbax."
        )
    return encoder


def _why_not(full: Mapping[str, Any]) -> str:
    """Why timm and torchvision do not have a convolutional encoder, or ""."""
    if full["name"] == "tiny":
        return "they have no such network"
    if full["width"] != 1:
        return (
            f"width {full['width']:g} widens every layer, which their ResNets cannot (wide_resnet "
            "widens only the 3x3 convolutions)"
        )
    if full["sk_ratio"]:
        return (
            "sk_ratio is SimCLR v2's network, with one 3x3 convolution split in two and ResNet-D's "
            "stem; timm's skresnet is another one (export to orbax keeps it)"
        )
    if full["stem"] != "imagenet":
        return f"their stem is always 7x7 with stride 2 and a max-pool, not {full['stem']!r}"
    if full["padding"] != "torch":
        return (
            f"padding {full['padding']!r} shifts every strided layer by a pixel from theirs; "
            "the features would differ"
        )
    if full["project_first"] and full["name"] in ("resnet18", "resnet34"):
        return "their first stage has no projection shortcut (project_first)"
    return ""


def _torch_name(path: tuple[str, ...], config: Mapping[str, Any]) -> str:
    """("layer1_0", "downsample_conv", "kernel") -> "layer1.0.downsample.0.weight"."""
    if config["name"] in SIZES:
        return timm_vit.torch_name(path, config["pool"])
    modules = ".".join(path[:-1]).replace("downsample_conv", "downsample.0")
    modules = modules.replace("downsample_bn", "downsample.1").replace("_", ".")
    return f"{modules}.{LEAVES[path[-1]]}"


def _to_torch(array: np.ndarray, path: tuple[str, ...]) -> np.ndarray:
    """An array in torch's layout: kernels [out, in, ...]; tokens and positions [1, ...]."""
    if path[-1] == "kernel":
        return array.transpose((3, 2, 0, 1) if array.ndim == 4 else (1, 0))
    return array[None] if len(path) == 1 else array


def _from_torch(array: np.ndarray, path: tuple[str, ...]) -> np.ndarray:
    """The inverse of `_to_torch`."""
    if path[-1] == "kernel":
        return array.transpose((2, 3, 1, 0) if array.ndim == 4 else (1, 0))
    return array[0] if len(path) == 1 else array


def to_state_dict(params: Tree, stats: Tree, config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Rename and transpose an encoder for torch.

    Args:
      params: the encoder's parameters, float32, kernels [H, W, in, out] or [in, out].
      stats: its batch-norm statistics, float32.
      config: arguments of `models.make_encoder`.

    Returns:
      The state dict of torchvision's or timm's model without its classifier, C-contiguous, kernels
      [out, in, ...].

    Raises:
      ValueError: torch does not have exactly this network, or the arrays are not the encoder's.
    """
    encoder = require_exact(config)
    check_arrays(encoder, params, stats, "What is to be exported")
    state: dict[str, np.ndarray] = {}
    for tree in (params, stats):
        for path, array in traverse_util.flatten_dict(tree).items():
            name = _torch_name(path, encoder.config)
            # safetensors silently writes wrong values for anything that is not C-contiguous.
            state[name] = np.ascontiguousarray(_to_torch(np.asarray(array), path))
            if path[-1] == "var":
                state[name.replace(LEAVES["var"], COUNTER)] = np.zeros((), np.int64)
    if encoder.config["name"] in SIZES:
        timm_vit.with_positions(state, encoder.config)
    return state


def from_state_dict(
    state: Mapping[str, np.ndarray], config: Mapping[str, Any], *, ignore_head: bool = False
) -> tuple[Tree, Tree]:
    """Parameters and statistics from a state dict; the inverse of `to_state_dict`.

    Args:
      state: arrays under torchvision's or timm's names; `num_batches_tracked` may be absent.
      config: arguments of `models.make_encoder`.
      ignore_head: drop the classifier, `fc.*` or `head.*`; otherwise it is refused as extra.

    Returns:
      (params, stats), NumPy, float32.

    Raises:
      ValueError: torch does not have exactly this network; or lists each missing, extra, misshaped
        key, and each of a type that does not fit into float32.
    """
    encoder = require_exact(config)
    trees = expected_shapes(encoder)
    left = dict(state)
    transformer = encoder.config["name"] in SIZES
    faults = timm_vit.without_positions(left, encoder.config) if transformer else []
    head = "head." if transformer else "fc."
    out: list[Tree] = []
    for tree in trees:
        flat = {}
        for path, want in traverse_util.flatten_dict(tree).items():
            name = _torch_name(path, encoder.config)
            shape = _to_torch(np.broadcast_to(np.float32(0), want.shape), path).shape
            array = left.pop(name, None)
            if path[-1] == "var":
                left.pop(name.replace(LEAVES["var"], COUNTER), None)
            if array is None:
                faults.append(f"missing {name}")
            elif array.shape != shape:
                faults.append(f"{name} has shape {array.shape}, expected {shape}")
            elif array.dtype.name not in EXACT_IN_FLOAT32:
                faults.append(f"{name} is {array.dtype}, expected float32")
            else:
                flat[path] = np.array(_from_torch(array, path), np.float32, order="C")
        out.append(traverse_util.unflatten_dict(flat))
    extra = [k for k in sorted(left) if not (ignore_head and k.startswith(head))]
    faults += [f"extra {name}" for name in extra]
    if faults:
        hint = ""
        if any(k.startswith(head) for k in extra):
            hint = f" A classifier ({head}*) can be left out with ignore_head=True."
        raise ValueError(
            f"These weights do not fit encoder {encoder.config['name']!r}: {'; '.join(faults)}."
            + hint
        )
    return out[0], out[1]


def _crop_pct(info: EncoderInfo) -> float:
    """The fraction from which timm, which rounds down, recovers the shorter side."""
    if not info.resize:
        return USUAL_CROP
    fraction = info.image_size / info.resize
    while math.floor(info.image_size / fraction) < info.resize:
        fraction = math.nextafter(fraction, 0)
    return fraction


def timm_config(info: EncoderInfo, dim: int, sha256: str) -> dict[str, Any]:
    """The content of config.json.

    Args:
      info: the encoder's description, its `encoder` complete.
      dim: features D.
      sha256: of the weights file.
    """
    side = info.image_size
    name = info.encoder["name"]
    transformer, given = name in SIZES, {}
    if transformer:
        name, arguments = timm_vit.model_args(info.encoder)
        given = {"model_args": arguments}
    pretrained = {
        "architecture": name,
        "tag": "byol_jax",
        "custom_load": False,
        "input_size": [len(info.mean), side, side],
        "fixed_input_size": False,
        "interpolation": "bicubic",
        "crop_pct": _crop_pct(info),
        "crop_mode": "center",
        "mean": list(info.mean),
        "std": list(info.std),
        "num_classes": 0,
        "pool_size": None if transformer else [-(-side // 32)] * 2,
        "first_conv": "patch_embed.proj" if transformer else "conv1",
        "classifier": "head" if transformer else "fc",
        "license": "apache-2.0",
    }
    return {
        "architecture": name,
        "num_classes": 0,
        "num_features": dim,
        **given,
        "pretrained_cfg": pretrained,
        "byol_jax": {
            "version": VERSION,
            "info": dataclasses.asdict(info),
            "transform": info.transform,
            "sha256": sha256,
        },
    }


def save_timm(out: Path, params: Tree, stats: Tree, info: EncoderInfo) -> None:
    """Write an encoder as a folder that timm and torchvision can load.

    Args:
      out: the folder to make; it may exist if it is empty.
      params: the encoder's parameters, float32.
      stats: its batch-norm statistics, float32.
      info: its description, and how its images were normalised.

    Raises:
      ValueError: `out` is not empty, timm does not have exactly this network (says why), or the
        arrays do not match the encoder's.
      OSError: what was written reads back differently; nothing is left behind.
    """
    encoder = require_exact(info.encoder)
    info = dataclasses.replace(info, encoder=encoder.config)
    state = to_state_dict(params, stats, info.encoder)

    def fill(folder: Path) -> None:
        weights = folder / WEIGHTS_FILE
        # Not save_file: its files can be read only by their owner.
        weights.write_bytes(safetensors.numpy.save(state, metadata={"format": "pt"}))
        if not same_bits(state, safetensors.numpy.load_file(weights)):
            raise OSError(f"What was written to {weights} reads back differently: a faulty disk?")
        config = timm_config(info, encoder.dim, file_sha256(weights))
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
        (folder / CARD_FILE).write_text(
            model_card(info, encoder.dim, encoder.config["name"] in TORCHVISION)
        )

    write_folder(out, fill)


def read_timm(folder: Path) -> tuple[Encoder, Tree, Tree, EncoderInfo]:
    """Read what `save_timm` wrote, or a vision transformer that timm did; see `load.read_encoder`.

    Raises:
      ValueError: not written by byol_jax and no transformer, another version, damaged, or keys that
        do not fit.
    """
    config, weights = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    described = read_json(config)
    ours = described.get("byol_jax")
    if ours is None and str(described.get("architecture", "")).startswith("vit_"):
        return _read_foreign(folder, described)
    if not isinstance(ours, dict) or ours.get("version") != VERSION:
        raise ValueError(
            f"{config} was not written by this version of byol_jax (no `byol_jax` of version "
            f"{VERSION}), so its normalisation and padding are not known; export again."
        )
    info = info_from_json(ours.get("info"), str(config))
    encoder = require_exact(info.encoder)
    _check_size(weights, encoder)
    if file_sha256(weights) != ours.get("sha256"):
        raise ValueError(
            f"{weights} is damaged: its SHA-256 is not the one in {CONFIG_FILE}; copy or make the "
            "export again."
        )
    with one_error(f"{weights} is damaged ({{}}); make the export again."):
        state = safetensors.numpy.load_file(weights)
    params, stats = from_state_dict(state, info.encoder)
    return encoder, params, stats, info


def _read_foreign(
    folder: Path, described: Mapping[str, Any]
) -> tuple[Encoder, Tree, Tree, EncoderInfo]:
    """Read a vision transformer that timm saved, without its classifier.

    Raises:
      ValueError: it is another network than those here, or damaged.
    """
    weights = folder / WEIGHTS_FILE
    damaged = f"{weights} is damaged ({{}}); copy or download it again."
    with one_error(damaged), safetensors.safe_open(weights, "numpy") as file:
        names = list(file.keys())
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
    try:
        info = timm_vit.foreign_info(described, shapes)
        encoder = require_exact(info.encoder)
    except ValueError as error:
        raise ValueError(f"{folder} cannot be read: {error}") from error
    _check_size(weights, encoder)
    with one_error(damaged):
        state = safetensors.numpy.load_file(weights)
    params, stats = from_state_dict(state, info.encoder, ignore_head=True)
    return encoder, params, stats, dataclasses.replace(info, encoder=encoder.config)


def _check_size(weights: Path, encoder: Encoder) -> None:
    """Refuse a weights file that is larger than any export of the encoder."""
    numbers = sum(math.prod(x.shape) for x in jax.tree.leaves(expected_shapes(encoder)))
    most, size = 8 * numbers + 2**20, size_of(weights)
    if size > most:
        raise ValueError(
            f"{weights} has {size:,} bytes, but its encoder has {numbers:,} numbers (expected at "
            f"most {most:,} bytes); make the export again."
        )
