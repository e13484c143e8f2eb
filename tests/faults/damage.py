"""Ways to damage images and records, sets of them in every form, and what reading them gives."""

import io
import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import mutate
import numpy as np
import tensorflow as tf
from PIL import Image

from byol_jax.data import pipeline, records, tfrecord
from byol_jax.data.opening import open_source
from byol_jax.data.rows import why_damaged
from byol_jax.data.source import Shard, Source
from byol_jax.views import recipes, spec

ALWAYS, PERHAPS, NEVER = "always", "where the codec can tell", "no damage"


def _again(data: bytes, kind: str, mode: str, **options) -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(data)).convert(mode).save(file, kind, **options)
    return file.getvalue()


def _sixteen_bits(data: bytes) -> bytes:
    grey = np.asarray(Image.open(io.BytesIO(data)).convert("L")).astype(np.uint16) * 257
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "PNG")
    return file.getvalue()


def _animated(data: bytes) -> bytes:
    frame = Image.open(io.BytesIO(data)).convert("P")
    file = io.BytesIO()
    frame.save(file, "GIF", save_all=True, append_images=[frame.rotate(90)])
    return file.getvalue()


def bomb(side: int = 20_000) -> bytes:
    """A PNG of a few bytes that promises side x side pixels."""
    out = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    for name, body in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")):
        out += struct.pack(">I", len(body)) + name + body
        out += struct.pack(">I", zlib.crc32(name + body))
    return out


def _flipped(data: bytes, first: int, last: int, bits: int) -> bytes:
    draw, out = random.Random(len(data)), bytearray(data)
    for _ in range(bits):
        out[draw.randrange(first, last)] ^= 1 << draw.randrange(8)
    return bytes(out)


IMAGE_FAULTS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "empty": (ALWAYS, lambda d: b""),
    "head cut off": (ALWAYS, lambda d: d[40:]),
    "tail cut off": (PERHAPS, lambda d: d[: len(d) // 2]),
    "bits flipped in the header": (PERHAPS, lambda d: _flipped(d, 0, 24, 4)),
    "bits flipped in the middle": (PERHAPS, lambda d: _flipped(d, len(d) // 3, len(d) // 2, 20)),
    "text in place of the image": (ALWAYS, lambda d: b"<html>404 not found</html>" * 20),
    "another format's first bytes": (
        ALWAYS,
        lambda d: (b"\xff\xd8\xff\xe0" if d[:1] == b"\x89" else b"\x89PNG") + d[4:],
    ),
    "pixel bomb (20000x20000 px)": (ALWAYS, lambda d: bomb()),
    "a quarter of zeros": (
        PERHAPS,
        lambda d: d[: len(d) // 3] + bytes(len(d) // 4) + d[len(d) // 3 + len(d) // 4 :],
    ),
    "GIF": (NEVER, lambda d: _again(d, "GIF", "P")),
    "animated GIF": (NEVER, _animated),
    "WAV file": (ALWAYS, lambda d: b"RIFF" + struct.pack("<I", len(d)) + b"WAVEfmt " + d[16:]),
    "grey": (NEVER, lambda d: _again(d, "PNG", "L")),
    "CMYK": (NEVER, lambda d: _again(d, "JPEG", "CMYK")),
    "alpha": (NEVER, lambda d: _again(d, "PNG", "RGBA")),
    "16 bits": (NEVER, _sixteen_bits),
    "garbage after the end": (NEVER, lambda d: d + b"\0garbage" * 30),
}


def _example(image: bytes | None, label: int, **more: bytes) -> bytes:
    def of_bytes(value):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    features = {name: of_bytes(value) for name, value in more.items()}
    if image is not None:
        features["image"] = of_bytes(image)
    features["label"] = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString()


def _bad_sum(image: bytes, label: int) -> bytes:
    out = bytearray(mutate.frame(_example(image, label)))
    out[len(out) // 2] ^= 16
    return bytes(out)


def _bad_length_sum(image: bytes, label: int) -> bytes:
    out = bytearray(mutate.frame(_example(image, label)))
    out[9] ^= 1
    return bytes(out)


RECORD_FAULTS: dict[str, tuple[str, Callable[[bytes, int], bytes]]] = {
    "record: checksum of the data wrong": (ALWAYS, _bad_sum),
    "record: checksum of the length wrong": (ALWAYS, _bad_length_sum),
    "record: no tf.train.Example": (ALWAYS, lambda i, k: mutate.frame(b"\xffgarbage" * 9)),
    "record: no image in it": (ALWAYS, lambda i, k: mutate.frame(_example(None, k))),
    "record: image under another name": (
        ALWAYS,
        lambda i, k: mutate.frame(_example(None, k, picture=i)),
    ),
    "record: label out of range": (ALWAYS, lambda i, k: mutate.frame(_example(i, 10**12))),
    "record: nothing in it": (ALWAYS, lambda i, k: mutate.frame(b"")),
    "record: no label (unknown)": (
        NEVER,
        lambda i, k: mutate.frame(_example(i, -1)),
    ),
}
# These leave no way to the records after them: an error that names the shard.
SHARD_FAULTS: dict[str, Callable[[bytes], bytes]] = {
    "shard: cut in the middle": lambda d: d[: len(d) // 2],
    "shard: last byte missing": lambda d: d[:-1],
    "shard: empty": lambda d: b"",
    "shard: a length of 2^60, its checksum right": lambda d: mutate.frame(b"", 2**60)[:12] + d[12:],
    "shard: a length flipped": lambda d: _flipped(d, 0, 8, 1),
    "shard: zeros": lambda d: bytes(len(d)),
    "shard: a record too many": lambda d: d + mutate.frame(b"one more"),
}


def _link_to_nothing(path: Path) -> None:
    path.symlink_to("/nowhere/at/all.jpg")


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**42)


def _locked(path: Path) -> None:
    path.write_bytes(b"x")
    path.chmod(0)


FILE_FAULTS: dict[str, Callable[[Path], None]] = {
    "file: link to nothing": _link_to_nothing,
    "file: link in a circle": lambda p: p.symlink_to(p.name),
    "file: a pipe": os.mkfifo,
    "file: a device without an end": lambda p: p.symlink_to("/dev/zero"),
    "file: 4 TiB (sparse)": _sparse,
    "file: not to be read": _locked,
}


class Seen(NamedTuple):
    """What one way to read a set gave: rows by index, and which of them do not count."""

    order: np.ndarray
    rows: dict[int, tuple[bytes, int]]
    masked: set[int]


WAYS = ("evaluation", "views on the host", "views on the device", "resident")


def read(
    source: Source, size: int, batch: int = 50, ways: tuple[str, ...] = WAYS
) -> dict[str, Seen]:
    """A set through evaluation, training in both placements of views, and as resident data."""
    batch = min(batch, source.num_examples)
    mean, std = (0.0,) * source.channels, (1.0,) * source.channels
    recipe = recipes.crop_flip(size, area=(1.0, 1.0), mean=mean, std=std)
    steps = pipeline.steps_per_epoch(source, batch)

    def epoch(on_device):
        feed = pipeline.train_batches(source, recipe, batch_size=batch, seed=0, on_device=on_device)
        return [next(feed) for _ in range(steps)]

    view = spec.EvalSpec(size, size, mean, std)

    def resident():
        whole = pipeline.decode_all(source, size)
        index = np.arange(whole.num_examples)
        ok = np.ones(len(index), bool) if whole.intact is None else whole.intact
        return [{"views": whole.images, "label": whole.labels, "index": index, "mask": ok}]

    batches = {
        "evaluation": lambda: pipeline.eval_batches(source, view, batch_size=batch),
        "views on the host": lambda: epoch(False),
        "views on the device": lambda: epoch(True),
        "resident": resident,
    }
    return {way: _seen(batches[way]()) for way in ways}


def _seen(batches) -> Seen:
    order, rows, masked = [], {}, set()
    for b in batches:
        views = b["image"] if "image" in b else b["views"]
        for i, view, label, mask in zip(b["index"], views, b["label"], b["mask"], strict=True):
            if i >= 0:
                order.append(int(i))
                rows[int(i)] = (view.tobytes(), int(label))
                masked |= set() if mask else {int(i)}
    return Seen(np.array(order), rows, masked)


def compare(
    source: Source, before: dict[str, Seen], after: dict[str, Seen], chosen: set[int]
) -> dict[str, set[int]]:
    """Check order, every other row bit by bit and the names; returns the masked rows of each way.

    Raises:
      AssertionError: a row moved, changed, or is not named.
    """
    for way, was in before.items():
        now = after[way]
        np.testing.assert_array_equal(now.order, was.order, err_msg=way)
        assert now.masked <= chosen, (way, now.masked - chosen)
        wrong = [i for i in was.rows if i not in chosen and now.rows[i] != was.rows[i]]
        assert not wrong, (way, wrong[:5])
    for index in set().union(*(s.masked for s in after.values())):
        name, why = source.describe(index), why_damaged(source, index)
        assert "decodes now" not in why, (name, why)
        assert why
        assert "\n" not in why
    return {way: s.masked for way, s in after.items()}


def codec_fails(data: bytes) -> bool:
    """Whether TensorFlow's own decoder, of the whole image, gives an error."""
    try:
        tf.io.decode_image(data, 3, expand_animations=False)
    except (tf.errors.OpError, UnicodeDecodeError):
        return True
    return False


# Sets: images and labels into each form.


def write_folder(root: Path, files: dict[str, bytes | Callable[[Path], None]]) -> Source:
    """A folder source of these files, some of which write themselves."""
    for part in ("train", "val"):
        (root / part).mkdir(parents=True)
    Image.new("L", (8, 8)).save(root / "val" / "x.png")
    for name, data in files.items():
        path = root / "train" / name
        if callable(data):
            data(path)
        else:
            path.write_bytes(data)
    return open_source("folder", str(root))


def write_shards(root: Path, framed: list[bytes], classes: int, shards: int = 2) -> Source:
    """A stream source of framed records."""
    root.mkdir(parents=True)
    tfrecord.record_offsets.cache_clear()
    made = []
    for k, part in enumerate(np.array_split(np.arange(len(framed)), shards)):
        path = root / f"set-train.tfrecord-{k:05}-of-{shards:05}"
        path.write_bytes(b"".join(framed[i] for i in part))
        made.append(Shard(str(path), len(part)))
    return Source("set train", len(framed), 3, classes=classes, shards=tuple(made))


def in_memory(stream: Source, shape: tuple[int | None, ...]) -> Source:
    """The stream read at once: decoded where its images have one shape, else encoded."""
    return records._load(stream, shape)[0]


def framed(images: list[bytes], labels: list[int]) -> list[bytes]:
    """Good records."""
    return [mutate.frame(_example(i, k)) for i, k in zip(images, labels, strict=True)]
