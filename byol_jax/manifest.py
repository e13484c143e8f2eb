"""The SHA-256 of every file of a folder, stored in it, so that damage by storage is noticed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path

from byol_jax.untrusted import is_inside, link_out, read_json

MANIFEST_FILE = "manifest.json"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, leave_out: Collection[str] = ()) -> None:
    """Write the manifest of all files in a folder; call it last.

    Args:
      folder: complete except for the manifest.
      leave_out: names of files directly in it that will still change.
    """
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST_FILE)
    sums = {p.relative_to(folder).as_posix(): file_sha256(p) for p in files}
    sums = {name: value for name, value in sums.items() if name not in leave_out}
    # No newline at the end, so that a file cut by a single byte is not valid JSON.
    (folder / MANIFEST_FILE).write_text(json.dumps(sums, indent=2))


def what_is_wrong(folder: Path) -> str:
    """Compare every file with the manifest.

    Returns:
      A phrase that names the first file that is missing, differs or is outside the folder; "" if
      all is well.
    """
    try:
        sums = read_json(folder / MANIFEST_FILE)
    except FileNotFoundError:
        return f"{MANIFEST_FILE} is missing"
    except (OSError, ValueError) as e:  # unreadable, not UTF-8, or not the JSON we write
        return f"{MANIFEST_FILE} is damaged ({e})"
    if not isinstance(sums, dict) or not sums:
        return f"{MANIFEST_FILE} is damaged: expected the checksums of some files"
    link = link_out(folder)
    if link:
        return f"{link} is a link that leads out of the folder"
    for name, expected in sums.items():
        if not is_inside(folder, name):
            return f"{name[:200]} is missing"
        try:
            found = file_sha256(folder / name)
        except OSError as e:
            return f"{name} cannot be read ({e.strerror or e})"
        if found != expected:
            return f"{name} is damaged: its SHA-256 is not the one in {MANIFEST_FILE}"
    return ""
