"""Features of frozen encoders, kept in files that are named by all that they depend on.

A file's name is the SHA-256 of the program that computes the features, the encoder's arrays, the
images and labels, how they are cut, the code that reads them, and the devices and libraries.
Whatever of it changes, the name is another one: nothing that is kept can be out of date.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import secrets
import time
import weakref
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

import byol_jax
from byol_jax import log
from byol_jax.core import Tree
from byol_jax.data.arrays import declared_bytes
from byol_jax.data.contents import content_of
from byol_jax.data.source import Source, counted
from byol_jax.evals.features import Extracted
from byol_jax.mesh import batch_sharding
from byol_jax.untrusted import one_error
from byol_jax.views.spec import EvalSpec
from byol_jax.writing import to_json

ABANDONED = 3600  # seconds after which the file of a process that was killed is removed
_LIBRARIES = ("byol_jax", "jax", "jaxlib", "numpy", "pillow", "tensorflow", "tensorflow-cpu")
_READING = ("data", "views", "evals/features.py")  # the code between a file and a batch
_CONTENTS: weakref.WeakKeyDictionary[Source, str] = weakref.WeakKeyDictionary()


class Cache(NamedTuple):
    """Where features are kept: a folder, and how many bytes of them at most."""

    folder: Path
    most: int


def kept(
    cache: Cache,
    outputs: Any,
    weights: Tree,
    source: Source,
    spec: EvalSpec,
    batch_size: int,
    dim: int,
    mesh: Mesh,
    make: Callable[[], Extracted],
) -> Extracted:
    """The features of a source: from a file, or made and then kept.

    Args:
      cache: where.
      outputs: the jitted function (weights, images [B, 1, S, S, C]) -> {"h": [B, 1, D]}.
      weights: of the encoder.
      source: the images.
      spec: how they are cut.
      batch_size: B.
      dim: D.
      mesh: the devices.
      make: computes them.

    Returns:
      Bitwise what `make` returns. What cannot be read or written is made, and said.
    """
    size = 4 * source.num_examples * (dim + 3)
    # Several processes would have to agree on what each of them found.
    if jax.process_count() > 1 or size > cache.most:
        return make()
    contents = _contents(source)
    if not contents:
        return make()
    name = _name(outputs, weights, contents, spec, batch_size, mesh)
    path = cache.folder / f"{name}.npz"
    found = _read(path, source.num_examples, dim)
    if found is None:
        found = make()
        _write(path, found, cache.most)
    else:
        log.say(f"features of {counted(source.num_examples, 'image')} taken from {path.parent}")
    return found


def _contents(source: Source) -> str:
    if source not in _CONTENTS:
        _CONTENTS[source] = content_of(source)
    return _CONTENTS[source]


def _name(
    outputs: Any, weights: Tree, contents: str, spec: EvalSpec, batch_size: int, mesh: Mesh
) -> str:
    """The SHA-256 of all that the features depend on."""
    shape = (batch_size, 1, spec.size, spec.size, len(spec.mean))
    images = jax.ShapeDtypeStruct(shape, np.float32, sharding=batch_sharding(mesh))
    found = hashlib.sha256(outputs.lower(weights, images).as_text().encode())
    for path, leaf in jax.tree_util.tree_flatten_with_path(weights)[0]:
        array = np.asarray(leaf)
        about = f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n"
        found.update(about.encode() + array.tobytes())
    device = mesh.devices.flat[0]
    rest = {
        "contents": contents,
        "spec": [repr(value) for value in vars(spec).values()],
        "devices": [mesh.devices.shape, device.platform, device.device_kind, platform.processor()],
        "backend": device.client.platform_version,
        "options": [
            os.environ.get("XLA_FLAGS"),
            jax.config.values["jax_disable_most_optimizations"],
        ],
        "code": _code(),
        "libraries": _versions(),
    }
    found.update(to_json(rest, sort_keys=True).encode())
    return found.hexdigest()


@functools.cache
def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@functools.cache
def _code() -> str:
    """SHA-256 of the sources that read images and cut them."""
    top = Path(byol_jax.__file__).parent
    found = hashlib.sha256()
    for place in _READING:
        for file in sorted((top / place).rglob("*.py")) if "." not in place else [top / place]:
            found.update(file.read_bytes())
    return found.hexdigest()


_ARRAYS = ("h", "labels", "damaged", "rows")


def _read(path: Path, examples: int, dim: int) -> Extracted | None:
    """What a file holds; None if there is none, or a damaged one, which is said."""
    if not path.is_file():
        return None
    try:
        with (
            one_error("{}"),
            np.load(path, allow_pickle=False) as file,
            zipfile.ZipFile(path) as entries,
        ):
            # A header may declare any size, and NumPy allocates it before it reads.
            if sum(declared_bytes(entries, name) for name in _ARRAYS) > path.stat().st_size:
                raise ValueError("its arrays are larger than it is")
            h, labels, damaged, rows = (file[name] for name in _ARRAYS)
            whole = h.dtype == np.float32 and h.shape == (len(rows), dim)
            if not whole or len(labels) != len(rows) or len(rows) + len(damaged) != examples:
                raise ValueError("its arrays have other shapes")
    except ValueError as e:
        log.say(f"WARNING: {path} cannot be used ({e}); the features are computed again")
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # the oldest is removed first
    return Extracted({"h": h}, labels, damaged, rows)


def _write(path: Path, found: Extracted, most: int) -> None:
    """Keep features, whole or not at all, whoever else writes the same; make room for them."""
    h, labels, damaged, rows = found.outputs["h"], found.labels, found.damaged, found.rows
    size = h.nbytes + labels.nbytes + damaged.nbytes + rows.nbytes
    temporary = path.with_name(f"{path.stem}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _make_room(path.parent, most - size)
        try:
            with temporary.open("wb") as file:
                np.savez(file, h=h, labels=labels, damaged=damaged, rows=rows)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as e:
        log.say(f"WARNING: {path} could not be written ({e.strerror or e}); features are not kept")


def _make_room(folder: Path, most: int) -> None:
    """Remove what was used longest ago, until at most `most` bytes are left."""
    for left in folder.glob("*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED:
                left.unlink()
    files = []
    for file in folder.glob("*.npz"):
        with contextlib.suppress(OSError):  # another process removed it
            files.append((file.stat().st_mtime_ns, file.stat().st_size, file))
    total = sum(size for _, size, _ in files)
    for _, size, file in sorted(files):
        if total <= most:
            break
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)
        total -= size
