"""What `timm.py` needs to know of vision transformers: names, positions, and timm's own files.

timm's position embeddings may have rows for the class token and the registers, which are a part of
these tokens here; fixed positions are a table there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from byol_jax.convert.info import EncoderInfo
from byol_jax.models.patches import sincos
from byol_jax.models.vit import SIZES, TOKENS

POSITIONS = "pos_embed"
# Sizes of patches, px, that timm has an architecture for at 224 px. All else is an argument of it.
KNOWN = {
    "vit_tiny": (16,),
    "vit_small": (16, 8, 32),
    "vit_base": (16, 8, 32),
    "vit_large": (16, 14, 32),
    "vit_huge": (14,),
}
CLOSE = 1e-5
"""Largest difference between a table in a file and the fixed positions that it stands for."""


def torch_name(path: tuple[str, ...], pool: str) -> str:
    """("blocks_0", "attn", "qkv", "kernel") -> "blocks.0.attn.qkv.weight"."""
    *modules, leaf = path
    if not modules:
        return leaf  # a token, or the positions
    names = {"patch_embed": "patch_embed.proj", "norm": "fc_norm" if pool == "mean" else "norm"}
    modules[0] = names.get(modules[0], modules[0].replace("_", "."))
    if modules[-1] in ("ls1", "ls2"):
        return ".".join([*modules, "gamma"])
    return ".".join([*modules, "bias" if leaf == "bias" else "weight"])


def model_args(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """(timm's architecture, its arguments) for an encoder.

    Args:
      config: complete, of an `Encoder`.
    """
    name, patch = config["name"], config["patch"]
    patches = KNOWN[name]
    arguments = {
        "img_size": config["image_size"],
        "patch_size": patch,
        "embed_dim": config["dim"],
        "depth": config["depth"],
        "num_heads": config["heads"],
        "class_token": config["class_token"],
        "reg_tokens": config["registers"],
        "global_pool": "token" if config["pool"] == "token" else "avg",
        "fc_norm": config["pool"] == "mean",
        "dynamic_img_size": True,  # images of any size, as here
    }
    if config["layer_scale"]:
        arguments["init_values"] = config["layer_scale"]
    return f"{name}_patch{patch if patch in patches else patches[0]}_224", arguments


def with_positions(state: dict[str, np.ndarray], config: Mapping[str, Any]) -> None:
    """Give an exported state dict timm's position embeddings, with rows for the other tokens."""
    side = config["image_size"] // config["patch"]
    if config["positions"] == "sincos":
        state[POSITIONS] = sincos(config["dim"], (side, side)).astype(np.float32)[None]
    prefix = config["class_token"] + config["registers"]
    state[POSITIONS] = np.pad(state[POSITIONS], ((0, 0), (prefix, 0), (0, 0)))


def without_positions(state: dict[str, np.ndarray], config: Mapping[str, Any]) -> list[str]:
    """Undo `with_positions`: add the rows of the other tokens to these, drop fixed positions.

    Args:
      state: of timm; changed in place.
      config: complete, of an `Encoder`.

    Returns:
      What is wrong with the positions.
    """
    side, dim = config["image_size"] // config["patch"], config["dim"]
    prefix = config["class_token"] + config["registers"]
    table = state.get(POSITIONS)
    if table is None:
        return [f"missing {POSITIONS}"]
    lengths = (side * side, side * side + prefix)
    if table.shape not in [(1, length, dim) for length in lengths]:
        return [f"{POSITIONS} has shape {table.shape}, expected (1, {lengths[1]}, {dim})"]
    table = table.astype(np.float32)
    rows, table = table[:, : -side * side], table[:, -side * side :]
    start = 0
    for name in TOKENS:
        token = state.get(name)
        if rows.size and token is not None and token.ndim == 3:
            own = rows[:, start : start + token.shape[1]]
            start += token.shape[1]
            if own.any():
                state[name] = token.astype(np.float32) + own
    state[POSITIONS] = table
    if config["positions"] == "sincos":
        del state[POSITIONS]
        if np.abs(table[0] - sincos(dim, (side, side))).max() > CLOSE:
            return [f"{POSITIONS} is not the table of vit.positions 'sincos'; set it to 'learned'"]
    return []


def foreign_info(described: Mapping[str, Any], shapes: Mapping[str, Any]) -> EncoderInfo:
    """The description of a transformer in a folder that timm wrote.

    Args:
      described: config.json.
      shapes: of the arrays in model.safetensors.

    Raises:
      ValueError: it is none of ViT tiny to huge, or not a plain one.
    """
    architecture = described.get("architecture")
    size = "_".join(str(architecture).split("_")[:2])
    if size not in SIZES:
        raise ValueError(
            f"timm's architecture {str(architecture)[:80]!r} is not known here; expected "
            f"{', '.join(SIZES)}, with a patch."
        )
    cfg, given = (described.get(k) or {} for k in ("pretrained_cfg", "model_args"))
    if not isinstance(cfg, dict) or not isinstance(given, dict):
        raise ValueError("pretrained_cfg and model_args are not JSON objects.")
    projection, table = (shapes.get(k, ()) for k in ("patch_embed.proj.weight", POSITIONS))
    if len(projection) != 4 or len(table) != 3 or projection[2] != projection[3]:
        raise ValueError(
            "there is no square patch projection or no position embedding of three axes; only "
            "transformers with absolute positions are read."
        )
    dim, channels, patch, _ = projection
    tokens = [(shapes.get(name, ()) or (0, 0))[1] for name in TOKENS]
    side = math.isqrt(table[1])
    side = side if side * side == table[1] else math.isqrt(max(table[1] - sum(tokens), 0))
    pool = "token"
    if "avg" in (described.get("global_pool"), given.get("global_pool")):
        pool = "mean" if "fc_norm.weight" in shapes else "normed_mean"
    depth = sum(name.startswith("blocks.") and name.endswith("norm1.weight") for name in shapes)
    encoder = {
        "name": size,
        "image_size": side * patch,
        "patch": patch,
        "dim": dim,
        "depth": depth,
        "heads": given.get("num_heads", SIZES[size][2]),
        "pool": pool,
        "class_token": bool(tokens[0]),
        "registers": tokens[1],
        "positions": "learned",
        # Any value: the factors are in the file.
        "layer_scale": 1.0 if "blocks.0.ls1.gamma" in shapes else 0.0,
        "maps": min(4, max(depth, 1)),
        "channels": channels,
    }
    crop = cfg.get("crop_pct")
    known = isinstance(crop, int | float) and 0 < crop <= 1
    try:
        return EncoderInfo(
            encoder,
            side * patch,
            tuple(cfg.get("mean", ())),
            tuple(cfg.get("std", ())),
            resize=math.floor(side * patch / crop) if known else 0,
            antialias=True,
        )
    except TypeError as error:
        raise ValueError(f"mean and std are not lists of numbers ({error}).") from error
