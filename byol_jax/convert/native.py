"""Encoder exports in the project's own form: lossless, checked, rebuilt without the config file.

An export is a folder: `encoder.json` describes the encoder and how its images were normalised,
`arrays/` has parameters and batch-norm statistics, written by orbax, and `manifest.json` the
SHA-256 of each file, since orbax keeps no checksums of tensor data. Only JSON and arrays are ever
read: no pickle.
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
import orbax.checkpoint as ocp

from byol_jax.convert.files import read_json, same_bits, write_folder
from byol_jax.convert.info import (
    EncoderInfo,
    build_encoder,
    check_arrays,
    flatten,
    info_from_json,
    misfits,
    refuse_misfits,
)
from byol_jax.core import Encoder, Tree
from byol_jax.manifest import what_is_wrong, write_manifest
from byol_jax.untrusted import one_error

FORMAT, VERSION = "byol_jax encoder", 1
INFO_FILE, ARRAYS_DIR = "encoder.json", "arrays"


def save_encoder(
    out: Path,
    params: Tree,
    stats: Tree,
    info: EncoderInfo,
    beside: Mapping[str, bytes] | None = None,
) -> None:
    """Write an encoder, with everything needed to rebuild it, as a folder.

    Args:
      out: the folder to make; it may exist if it is empty.
      params: the encoder's parameters, float32.
      stats: its batch-norm statistics, float32.
      info: its description, and how its images were normalised.
      beside: further files, name -> content.

    Raises:
      ValueError: `out` is not empty, or the arrays do not match the encoder's (all are listed).
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
        if not same_bits(flatten(host), flatten(_read_arrays(folder, encoder))):
            raise OSError(f"What was written to {folder} reads back differently: a faulty disk?")
        described = {
            "format": FORMAT,
            "version": VERSION,
            "info": dataclasses.asdict(info),
            "transform": info.transform,
        }
        (folder / INFO_FILE).write_text(json.dumps(described, indent=2) + "\n")
        for name, content in (beside or {}).items():
            (folder / name).write_bytes(content)
        write_manifest(folder)

    write_folder(out, fill)


def _read_arrays(folder: Path, encoder: Encoder) -> dict[str, Any]:
    """The arrays of an export, read only if they are declared with the encoder's shapes.

    Raises:
      ValueError: they are not, or orbax cannot read them.
    """
    path = (folder / ARRAYS_DIR).absolute()
    damaged = f"{path} cannot be read ({{}}); make the export again."
    with one_error(damaged), ocp.StandardCheckpointer() as checkpointer:
        declared = checkpointer.metadata(path).item_metadata.tree
        have = flatten(declared if isinstance(declared, dict) else {})
        faults = misfits(encoder, have)
        faults += [f"{name} is in chunks of {c}" for name, c in _large_chunks(have)]
    # Checked first: memory is allocated for whatever shape and chunks a file declares.
    refuse_misfits(encoder, faults, str(path))
    with one_error(damaged), ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path)


def _large_chunks(arrays: Mapping[str, Any]) -> list[tuple[str, Any]]:
    chunks = {name: getattr(a.storage, "chunk_shape", None) for name, a in arrays.items()}
    return [(n, c) for n, c in chunks.items() if c and math.prod(c) > math.prod(arrays[n].shape)]


def _check_files(folder: Path) -> None:
    """Compare every file with the manifest: orbax would silently restore damaged numbers."""
    wrong = what_is_wrong(folder)
    if wrong:
        raise ValueError(f"{folder}: {wrong}; copy or make the export again.")


def read_native(folder: Path) -> tuple[Encoder, Tree, Tree, EncoderInfo]:
    """Read what `save_encoder` wrote; see `load.read_encoder`."""
    where = str(folder / INFO_FILE)
    described = read_json(folder / INFO_FILE)
    if "detectron2" in str(described.get("format")):
        raise ValueError(
            f"{folder} holds weights for detectron2, which nothing else reads; export the run with "
            "--format orbax or timm."
        )
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
