"""Damaged images and records are counted and named, and every other row stays as it was."""

import re
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

sys.path.insert(0, str(Path(__file__).parent / "faults"))

import damage
import mutate

from byol_jax.data import stream, tfrecord
from byol_jax.data.rows import why_damaged
from byol_jax.data.source import MAX_BYTES, Decoding, Source

SIDE = 12
FAULTS = [*damage.IMAGE_FAULTS, *damage.RECORD_FAULTS]


def digits(count):
    """(images, labels): enlarged scans as PNG and JPEG in turn, of three channels."""
    images = []
    for i, scan in enumerate(load_digits().images[:count]):
        pixels = np.kron(scan * 15, np.ones((2, 2)))[2:14, 2:14, None].repeat(3, 2)
        encode = tf.io.encode_png if i % 2 else tf.io.encode_jpeg
        images.append(encode(pixels.astype(np.uint8)).numpy())
    return images, load_digits().target[:count].tolist()


@pytest.fixture(scope="module")
def spoilt():
    """Good and spoilt records, which rows must not count, and which were chosen."""
    images, labels = digits(60)
    good = damage.framed(images, labels)
    bad, must = list(good), set()
    for at, fault in enumerate(damage.IMAGE_FAULTS):
        row = 2 * at + 1  # a PNG: its checksums tell any damage
        kind, spoil = damage.IMAGE_FAULTS[fault]
        bad[row] = damage.framed([spoil(images[row])], [labels[row]])[0]
        must |= {row} if kind != damage.NEVER else set()
    for at, fault in enumerate(damage.RECORD_FAULTS):
        row = 40 + at
        kind, spoil = damage.RECORD_FAULTS[fault]
        bad[row] = spoil(images[row], labels[row])
        must |= {row} if kind != damage.NEVER else set()
    chosen = {2 * i + 1 for i in range(len(damage.IMAGE_FAULTS))}
    return good, bad, must, chosen | {40 + i for i in range(len(damage.RECORD_FAULTS))}


FORMS = {
    "stream": lambda stream: stream,
    "decoded": lambda stream: damage.in_memory(stream, (SIDE, SIDE, 3)),
    "encoded": lambda stream: damage.in_memory(stream, (None, None, 3)),
}


@pytest.mark.parametrize("form", FORMS)
def test_damaged_records_keep_their_place(spoilt, form, tmp_path):
    """Fails if a damaged record ends the data, is not counted or named, or moves another.

    Seen with `ignore_errors` left out of `tfrecord.reader`, with `take(1)` after it left out, and
    with the label's check left out of `parse`.
    """
    good, bad, must, chosen = spoilt
    read = partial(damage.read, size=SIDE, batch=20)
    before = read(FORMS[form](damage.write_shards(tmp_path / "a", good, 10)))
    source = FORMS[form](damage.write_shards(tmp_path / "b", bad, 10))
    masked = damage.compare(source, before, read(source), chosen)
    for way, rows in masked.items():
        assert rows == must, way
    where = f"set train, example 40 (record 10 of {tmp_path}/b/set-train.tfrecord-00001-of-00002)"
    assert source.describe(40) == where
    reasons = [why_damaged(source, 40 + i) for i in range(7)]
    assert reasons == [
        "the record is corrupt: its checksum is wrong",
        "the record is corrupt: its checksum is wrong",
        "the record is not a tf.train.Example",
        "the record has no images under 'image', expected one",
        "the record has no images under 'image', expected one",
        "its label is 1000000000000, expected 0 to 9",
        "the record has no images under 'image', expected one",
    ]


def test_damaged_files_keep_their_place(tmp_path):
    """Fails if a file that is none is opened (a pipe never ends), counted wrongly or unnamed.

    Seen with the check of plain files, and with that of sizes, left out of `untrusted.size_of`.
    """
    images, _ = digits(40)
    files = {f"{i:02}.jpg": data for i, data in enumerate(images)}
    bad, must, chosen = dict(files), set(), set()
    for at, (kind, spoil) in enumerate(damage.IMAGE_FAULTS.values()):
        row = 2 * at + 1
        bad[f"{row:02}.jpg"] = spoil(images[row])
        chosen.add(row)
        must |= {row} if kind != damage.NEVER else set()
    names = [n for n in damage.FILE_FAULTS if "not to be read" not in n]  # root reads everything
    for at, fault in enumerate(names):
        bad[f"{2 * at:02}.jpg"] = damage.FILE_FAULTS[fault]
    links = {2 * i for i in range(len(names))}
    read = partial(damage.read, size=SIDE, batch=20)
    before = read(damage.write_folder(tmp_path / "a", files))
    source = damage.write_folder(tmp_path / "b", bad)
    (tmp_path / "b" / "train" / "zz.jpg").mkdir()  # a folder is no image
    masked = damage.compare(source, before, read(source), chosen | links)
    for way, rows in masked.items():
        assert rows == must | links, way
    reasons = [why_damaged(source, 2 * i) for i in range(len(names))]
    assert reasons[0] == "cannot be read: No such file or directory"
    assert reasons[2:4] == ["cannot be read: it is not a plain file"] * 2
    assert reasons[4] == f"it has {2**42:,} bytes, more than {MAX_BYTES:,}"
    assert source.describe(4) == str(tmp_path / "b" / "train" / "04.jpg")


@pytest.mark.parametrize("fault", damage.SHARD_FAULTS)
def test_a_shard_without_its_lengths_is_named(fault, tmp_path):
    """Fails if records are lost in silence, or TensorFlow takes 2^60 bytes (the process dies).

    Seen with `check` left out of the fast reader, and without the comparison of the counts.
    """
    images, labels = digits(12)
    stream = damage.write_shards(tmp_path / "a", damage.framed(images, labels), 10)
    path = Path(stream.shards[1].path)
    path.write_bytes(damage.SHARD_FAULTS[fault](path.read_bytes()))
    with pytest.raises(ValueError, match=f"set train cannot be read: {path} .*Restore") as e:
        damage.in_memory(stream, (None, None, 3))
    assert "\n" not in str(e.value)


def test_a_record_that_is_too_large_is_one_damaged_record(tmp_path, monkeypatch):
    """Fails if it is read, or takes the records after it along; seen with the check left out."""
    images, labels = digits(9)
    monkeypatch.setattr(tfrecord, "MAX_BYTES", 2000)
    records = damage.framed(images, labels)
    records[4] = damage.framed([images[4] + bytes(3000)], [4])[0]  # it would decode
    source = damage.in_memory(damage.write_shards(tmp_path / "a", records, 10, 1), (None, None, 3))
    assert source.encoded.numpy().tolist() == [*images[:4], b"", *images[5:]]
    reason = why_damaged(source, 4)
    assert re.fullmatch(r"a record of 3,\d{3} bytes, more than 2,000", reason)


def test_offsets_are_those_of_the_records(tmp_path):
    """Fails if an offset is wrong: against the lengths of what was written."""
    records = [mutate.frame(bytes(n)) for n in (0, 5, 1, 300)]
    shard = damage.write_shards(tmp_path / "a", records, 0, 1).shards[0]
    ends = np.cumsum([0, 16, 21, 17, 316])
    np.testing.assert_array_equal(tfrecord.record_offsets(shard), ends)
    assert Source("x", 4, 3, shards=(shard,)).is_stream


def test_a_png_of_a_few_bytes_is_named():
    """Fails if TensorFlow's message, which quotes the image, is taken for text (found by fuzz)."""
    reason = stream.what_is_wrong(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rI", Decoding(3))
    assert reason == "does not decode: no valid image"
    assert stream.what_is_wrong(b"junk", Decoding(3)) == "does not decode: too short"
