"""Encoder exports in the project's own form: lossless, checked, rebuilt without the config file.

An export is a folder: `encoder.json` says what the encoder is and how its images were normalised,
`arrays/` holds parameters and batch-norm statistics by orbax, `manifest.json` the SHA-256 of each
file, since orbax keeps no checksum of tensor data. Only JSON and arrays are ever read: no pickle.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from byol_jax.core import Encoder, Tree
from byol_jax.manifest import what_is_wrong, write_manifest
from byol_jax.models import make_encoder
from byol_jax.untrusted import one_error
from byol_jax.untrusted import read_json as read_strict_json

FORMAT, VERSION = "byol_jax encoder", 1
INFO_FILE, ARRAYS_DIR = "encoder.json", "arrays"
MAX_CHANNELS = 1024  # of images; a forged file cannot ask for all memory


@dataclasses.dataclass(frozen=True)
class EncoderInfo:
    """What is needed to rebuild an encoder and to feed it as it was trained.

    encoder: arguments of `models.make_encoder`. image_size: side in px it was trained on. mean,
    std: of each channel, for pixels in 0..1. resize: shorter side in px before the centre crop in
    evaluation; 0 where not known. step: optimizer steps trained. method: its name. source: name of
    the data it was trained on.

    Raises:
      ValueError: a value is out of its range, or mean and std do not fit the channels.
    """

    encoder: dict[str, Any]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int = 0
    step: int = 0
    method: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        # JSON gives lists, NumPy gives its own numbers: both become plain tuples of floats.
        object.__setattr__(self, "mean", tuple(float(v) for v in self.mean))
        object.__setattr__(self, "std", tuple(float(v) for v in self.std))
        channels = self.encoder.get("channels", 3)
        if not len(self.mean) == len(self.std) == channels:
            raise ValueError(
                f"mean {self.mean} and std {self.std} do not fit an encoder of {channels} channels;"
                " give one number a channel."
            )
        if not all(math.isfinite(v) for v in self.mean):
            raise ValueError(f"mean is {self.mean}; expected finite numbers.")
        if not all(math.isfinite(v) and v > 0 for v in self.std):
            raise ValueError(f"std is {self.std}; expected finite numbers above 0.")
        if self.image_size < 1:
            raise ValueError(f"image_size is {self.image_size}; expected a side in px, at least 1.")
        if self.resize and self.resize < self.image_size:
            raise ValueError(
                f"resize is {self.resize}; expected 0 (not known) or at least image_size "
                f"{self.image_size}, which is cropped from it."
            )


def info_from_json(values: Any, where: str) -> EncoderInfo:
    """Turn a parsed JSON object into an `EncoderInfo`; the inverse of `dataclasses.asdict`.

    Args:
      values: what json.loads gave.
      where: the file it came from, for error messages.

    Raises:
      ValueError: not an object, a key is missing or unknown, or a value is out of its range.
    """
    fields = {f.name: f for f in dataclasses.fields(EncoderInfo)}
    if not isinstance(values, dict) or not isinstance(values.get("encoder"), dict):
        raise ValueError(
            f"{where} does not describe an encoder: expected an object with `encoder`."
        )
    unknown = sorted(set(values) - set(fields))
    missing = sorted(
        n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in values
    )
    if unknown or missing:
        raise ValueError(
            f"{where}: the description of the encoder has unknown keys {unknown} and lacks "
            f"{missing}; it comes from another version of byol_jax."
        )
    for name, field in fields.items():
        kind = {"int": int, "str": str}.get(str(field.type))
        if kind and type(values.get(name, kind())) is not kind:
            raise ValueError(
                f"{where}: {name} is {repr(values[name])[:80]}; expected {kind.__name__}."
            )
    try:
        return EncoderInfo(**values)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{where}: a value has the wrong type ({error}).") from error


def build_encoder(config: Mapping[str, Any], where: str = "encoder") -> Encoder:
    """`make_encoder(**config)`, with unknown keys and wrong types as ValueErrors.

    Args:
      config: arguments of `models.make_encoder`, from a file.
      where: the file they came from, for error messages.

    Raises:
      ValueError: a key is unknown, or a value has the wrong type or is out of its range.
    """
    known = inspect.signature(make_encoder).parameters
    unknown = sorted(set(config) - set(known))
    if unknown:
        raise ValueError(
            f"{where}: unknown encoder keys {unknown}; this version of byol_jax knows "
            f"{', '.join(known)}. Load it with the version that wrote it."
        )
    for key, value in config.items():
        kind = type(known[key].default)
        allowed = (int, float) if kind is float else (kind,)
        if type(value) not in allowed:
            raise ValueError(
                f"{where}: encoder.{key} is {repr(value)[:80]}; expected a {kind.__name__}."
            )
    if not 1 <= config.get("channels", 3) <= MAX_CHANNELS:
        raise ValueError(
            f"{where}: encoder.channels is {config['channels']}; expected 1 to {MAX_CHANNELS}."
        )
    return make_encoder(**config)


def check_arrays(encoder: Encoder, params: Tree, stats: Tree, where: str) -> None:
    """Refuse arrays that are not exactly the encoder's, by name, shape and type.

    Args:
      encoder: says which arrays are expected (by `jax.eval_shape` of its init).
      params: nested dicts of arrays, host or device.
      stats: batch-norm statistics, likewise.
      where: what is being checked, for error messages.

    Raises:
      ValueError: lists up to 40 missing, extra, misshapen, non-float32 and non-finite arrays.
    """
    have = _flatten({"params": params, "stats": stats})
    faults = _misfits(encoder, have)
    for name, array in sorted(have.items()):
        if array.dtype == np.float32 and not np.isfinite(np.asarray(array)).all():
            faults.append(f"{name} has values that are not finite")
    _refuse(encoder, faults, where)


def _misfits(encoder: Encoder, have: Mapping[str, Any]) -> list[str]:
    """What differs by name, shape or type between an encoder's arrays and those of a flat dict."""
    want = _flatten(dict(zip(("params", "stats"), expected_shapes(encoder), strict=True)))
    faults = [f"missing {name}" for name in sorted(want.keys() - have.keys())]
    faults += [f"extra {name}" for name in sorted(have.keys() - want.keys())]
    for name in sorted(want.keys() & have.keys()):
        array = have[name]
        if array.shape != want[name].shape:
            faults.append(f"{name} has shape {array.shape}, expected {want[name].shape}")
        elif array.dtype != np.float32:
            faults.append(f"{name} is {array.dtype}, expected float32")
    return faults


def expected_shapes(encoder: Encoder) -> tuple[Tree, Tree]:
    """Shapes and types of an encoder's parameters and statistics."""
    image = jax.ShapeDtypeStruct((1, 1, 64, 64, encoder.channels), jnp.float32)
    return jax.eval_shape(encoder.init, jax.random.key(0), image)


def _refuse(encoder: Encoder, faults: list[str], where: str) -> None:
    if faults:
        shown = faults[:40] + ([f"and {len(faults) - 40} more"] if len(faults) > 40 else [])
        raise ValueError(
            f"{where} does not fit encoder {encoder.config['name']!r}: {'; '.join(shown)}."
        )


def _flatten(tree: Tree) -> dict[str, Any]:
    return traverse_util.flatten_dict(tree, sep="/")


def same_bits(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two flat dicts hold the same arrays bit for bit, types and shapes included."""

    def same(x: np.ndarray, y: np.ndarray) -> bool:
        return x.shape == y.shape and x.dtype == y.dtype and x.tobytes() == y.tobytes()

    return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)


def write_folder(out: Path, fill: Callable[[Path], None]) -> None:
    """Make the folder `out` in one piece: `fill` a temporary sibling, then rename it.

    Args:
      out: the folder to make; it may exist, empty.
      fill: writes the files into the folder it is given; what it raises leaves nothing behind.

    Raises:
      ValueError: `out` is a file or holds something: nothing is ever overwritten.
    """
    out = Path(out).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(
            f"{out} exists already, and nothing is overwritten; name another folder or remove it."
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    # A sibling, so that the rename stays on one file system and is atomic.
    temporary = out.parent / f".{out.name}.{uuid.uuid4().hex[:8]}.tmp"
    temporary.mkdir()
    try:
        fill(temporary)
        os.replace(temporary, out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def save_encoder(out: Path, params: Tree, stats: Tree, info: EncoderInfo) -> None:
    """Write an encoder alone, with all that is needed to rebuild it, as a folder.

    Args:
      out: the folder to make; it may exist, empty.
      params: the encoder's parameters, float32.
      stats: its batch-norm statistics, float32.
      info: what it is and how its images were normalised.

    Raises:
      ValueError: `out` holds something, or the arrays are not the encoder's (all are listed).
      OSError: what was written reads back differently; nothing is left behind.
    """
    encoder = build_encoder(info.encoder)
    check_arrays(encoder, params, stats, "What is to be exported")
    # The full description: a later change of a default must not change an old export.
    info = dataclasses.replace(info, encoder=encoder.config)
    host = jax.tree.map(np.asarray, {"params": params, "stats": stats})

    def fill(folder: Path) -> None:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder / ARRAYS_DIR, host)
            checkpointer.wait_until_finished()
        if not same_bits(_flatten(host), _flatten(_read_arrays(folder, encoder))):
            raise OSError(f"What was written to {folder} reads back differently: a faulty disk?")
        described = {"format": FORMAT, "version": VERSION, "info": dataclasses.asdict(info)}
        (folder / INFO_FILE).write_text(json.dumps(described, indent=2) + "\n")
        write_manifest(folder)

    write_folder(out, fill)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
      ValueError: the file is missing or holds something else.
    """
    try:
        values = read_strict_json(path)
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing; the export is incomplete, make it again.") from error
    except (OSError, ValueError) as error:  # unreadable, not UTF-8, or not the JSON we write
        raise ValueError(f"{path} is damaged ({error}); make the export again.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is damaged: expected a JSON object; make the export again.")
    return values


def _read_arrays(folder: Path, encoder: Encoder) -> dict[str, Any]:
    """The arrays of an export, read only if they are declared as the encoder's.

    Raises:
      ValueError: they are not, or orbax cannot read them.
    """
    path = (folder / ARRAYS_DIR).absolute()
    damaged = f"{path} cannot be read ({{}}); make the export again."
    with one_error(damaged), ocp.StandardCheckpointer() as checkpointer:
        declared = checkpointer.metadata(path).item_metadata.tree
        have = _flatten(declared if isinstance(declared, dict) else {})
        faults = _misfits(encoder, have)
        faults += [f"{name} is in chunks of {c}" for name, c in _large_chunks(have)]
    # Memory is taken for whatever shape and chunks a file declares.
    _refuse(encoder, faults, str(path))
    with one_error(damaged), ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path)


def _large_chunks(arrays: Mapping[str, Any]) -> list[tuple[str, Any]]:
    chunks = {name: getattr(a.storage, "chunk_shape", None) for name, a in arrays.items()}
    return [(n, c) for n, c in chunks.items() if c and math.prod(c) > math.prod(arrays[n].shape)]


def _check_files(folder: Path) -> None:
    """Compare every file with the manifest: orbax would restore damaged numbers in silence."""
    wrong = what_is_wrong(folder)
    if wrong:
        raise ValueError(f"{folder}: {wrong}; copy or make the export again.")


def read_native(folder: Path) -> tuple[Encoder, Tree, Tree, EncoderInfo]:
    """Read what `save_encoder` wrote; see `load.read_encoder`."""
    where = str(folder / INFO_FILE)
    described = read_json(folder / INFO_FILE)
    if described.get("format") != FORMAT:
        raise ValueError(f"{where} is not an encoder written by byol_jax (`format` is missing).")
    if described.get("version") != VERSION:
        raise ValueError(
            f"{where} has format version {described.get('version')!r}; this byol_jax reads "
            f"{VERSION}. Load it with the version that wrote it, or export again."
        )
    _check_files(folder)
    info = info_from_json(described.get("info"), where)
    encoder = build_encoder(info.encoder, where)
    arrays = _read_arrays(folder, encoder)
    params, stats = arrays.get("params", {}), arrays.get("stats", {})
    check_arrays(encoder, params, stats, str(folder / ARRAYS_DIR))
    return encoder, params, stats, info
