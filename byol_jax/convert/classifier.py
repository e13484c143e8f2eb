"""Classifiers: an export of an encoder, and beside it the linear layer that was trained on it.

The folder is one that `load.read_encoder` reads too. `classifier.safetensors` has the linear layer,
and, if it is on the first layer of a projector, that layer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import traverse_util
from jax import Array

from byol_jax.convert.info import EncoderInfo, flatten
from byol_jax.convert.load import read_encoder
from byol_jax.convert.native import save_encoder
from byol_jax.core import Encoder, Features, Tree
from byol_jax.models import DTYPES, heads
from byol_jax.models.network import extended
from byol_jax.untrusted import one_error

FILE = "classifier.safetensors"


class Classifier(NamedTuple):
    """A trained classifier.

    encoder: the network below the linear layer; `info` describes the encoder proper. params, stats:
    its arrays, NumPy. linear: {"kernel": [D, K], "bias": [K]}.
    """

    encoder: Encoder
    params: Tree
    stats: Tree
    linear: dict[str, Any]
    info: EncoderInfo

    @property
    def classes(self) -> int:
        """The number of classes K."""
        return len(self.linear["bias"])


def with_first_layer(encoder: Encoder, params: Tree) -> Encoder:
    """An encoder that goes on through the first layer of a projector, whose parameters are given.

    Args:
      encoder: f.
      params: with "fc1" and perhaps "bn1", as `heads.mlp` names them.
    """
    kernel = params["fc1"]["kernel"]
    layer = heads.first_layer(
        kernel.shape[1],
        norm="bn1" in params,
        bias="bias" in params["fc1"],
        dtype=DTYPES[encoder.config["dtype"]],
        param_dtype=kernel.dtype,
    )
    return extended(encoder, layer)


def with_projector(encoder: Encoder, params: Tree, stats: Tree) -> Encoder:
    """An encoder whose pooled features are its own, followed by their projection.

    Args:
      encoder: f.
      params, stats: of the projector, "fc1", "bn1", "fc2", ..., as `heads.mlp` names them; a norm
        without scale and bias is in the statistics alone.

    Returns:
      The encoder; its parameters and statistics are {"encoder": ..., "head": ...}, and it is for
      inference alone.

    Raises:
      ValueError: it is another kind of projector; a phrase.
    """
    count = sum(name.startswith("fc") for name in params)
    layers, norms = ([f"{kind}{i}" for i in range(1, count + 1)] for kind in ("fc", "bn"))
    if not count or set(params) - {*layers, *norms} or not set(layers) <= set(params):
        raise ValueError(f"it has the parts {', '.join(sorted(params)) or 'none'}")
    last, hidden = params[layers[-1]], params[layers[0]]
    kernels = [params[layer]["kernel"] for layer in layers]
    head = heads.mlp(
        tuple(k.shape[1] for k in kernels),
        norm="bn1" in stats if count > 1 else False,
        norm_last=norms[-1] in stats,
        hidden_bias="bias" in hidden if count > 1 else False,
        last_bias="bias" in last,
        scale_last="scale" in params.get(norms[-1], {}),
        dtype=DTYPES[encoder.config["dtype"]],
        param_dtype=kernels[0].dtype,
    )
    both = extended(encoder, head)

    def apply(params: Tree, stats: Tree, images: Array, train: bool) -> tuple[Features, Tree]:
        found, _ = encoder.apply(params["encoder"], stats["encoder"], images, train)
        z, _ = head.apply(params["head"], stats["head"], found.pooled, train)
        pooled = jnp.concatenate([found.pooled, z.astype(found.pooled.dtype)], -1)
        return Features(pooled, found.maps), stats

    return both._replace(apply=apply, dim=encoder.dim + head.dim)


def save_classifier(
    out: Path, params: Tree, stats: Tree, linear: dict[str, Any], info: EncoderInfo
) -> None:
    """Write a classifier as a folder.

    Args:
      out: the folder to make; it may exist if it is empty.
      params, stats: of the encoder, or of one made by `models.network.extended`; float32.
      linear: {"kernel": [D, K], "bias": [K]}.
      info: of the encoder proper.

    Raises:
      ValueError, OSError: as `native.save_encoder`.
    """
    arrays: dict[str, Any] = {"linear": dict(linear)}
    if set(params) == {"encoder", "head"}:
        arrays |= {"params": params["head"], "stats": stats["head"]}
        params, stats = params["encoder"], stats["encoder"]
    flat = {k: np.ascontiguousarray(v) for k, v in flatten(arrays).items()}
    save_encoder(out, params, stats, info, {FILE: safetensors.numpy.save(flat)})


def read_classifier(path: str | Path) -> Classifier:
    """Read what `save_classifier` wrote.

    Raises:
      ValueError: as `load.read_encoder`, or there is no classifier, or its arrays do not fit.
    """
    encoder, params, stats, info = read_encoder(path)
    file = Path(path).expanduser() / FILE
    if not file.is_file():
        raise ValueError(
            f"{path} is an encoder without a classifier; make one from a run by "
            "python -m byol_jax.evaluate --workdir RUN --protocol finetune --save FOLDER."
        )
    with one_error(f"{file} is damaged ({{}}); make the classifier again."):
        arrays = traverse_util.unflatten_dict(safetensors.numpy.load_file(file), sep="/")
        linear = {k: arrays["linear"][k] for k in ("kernel", "bias")}
        if "params" in arrays:
            head, moved = arrays["params"], arrays.get("stats", {})
            encoder = with_first_layer(encoder, head)
            params, stats = {"encoder": params, "head": head}, {"encoder": stats, "head": moved}
        _check(encoder, params, stats, linear)
    return Classifier(encoder, params, stats, linear, info)


def _check(encoder: Encoder, params: Tree, stats: Tree, linear: dict[str, Any]) -> None:
    """Refuse arrays that are not those of the encoder and of a linear layer on it."""
    image = jax.ShapeDtypeStruct((1, 1, 64, 64, encoder.channels), np.float32)
    parts = jax.eval_shape(encoder.init, jax.random.key(0), image)
    wanted = flatten(dict(zip(("params", "stats"), parts, strict=True)))
    wanted["linear/kernel"] = np.empty((encoder.dim, len(linear["bias"])), np.float32)
    wanted["linear/bias"] = np.empty(len(linear["bias"]), np.float32)
    found = flatten({"params": params, "stats": stats, "linear": linear})
    for name in sorted(wanted.keys() ^ found.keys()):
        raise ValueError(f"{name} is missing or not expected")
    for name, x in found.items():
        if (x.shape, x.dtype) != (wanted[name].shape, np.float32):
            raise ValueError(f"{name} is {x.dtype} {x.shape}, expected {wanted[name].shape}")
        if not np.isfinite(x).all():
            raise ValueError(f"{name} has values that are not finite")
