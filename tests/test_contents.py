"""Splits by the content of their images, wherever and under whatever names they are kept."""

import dataclasses
import hashlib
import shutil

import numpy as np
from PIL import Image
from test_multilabel import voc

from byol_jax.data.contents import UNREADABLE, content_of, image_digests, look_at_split
from byol_jax.data.opening import open_source
from byol_jax.data.source import Shard, Source


def split_sha256(rows):
    """Of (part, class, digest of the image), as docs/evaluation.md says."""
    least = {}
    for _, name, image in rows:
        least[name] = min(image, least.get(name, image))
    lines = sorted(f"{part}\t{least[name]}\t{image}\n" for part, name, image in rows)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def arrays(n, seed):
    random = np.random.RandomState(seed)
    return random.randint(0, 256, (n, 4, 6, 3)).astype(np.uint8), np.arange(n) % 3


def test_a_split_is_the_same_in_any_form_and_under_any_name(tmp_path):
    """Fails if names, the order of classes or the form of lossless images matter, or if an image
    that moves, changes or has another class does not.
    """
    parts = {"train": arrays(9, 0), "test": arrays(6, 1)}
    rows = [
        (part, y, hashlib.sha256(b"4x6\n" + x.tobytes()).hexdigest())
        for part, (images, labels) in parts.items()
        for x, y in zip(images, labels, strict=True)
    ]
    expected = split_sha256(rows)
    (x, y), (test_x, test_y) = parts.values()
    np.savez(tmp_path / "x.npz", x_train=x, y_train=y, x_test=test_x, y_test=test_y)
    for part, (images, labels) in parts.items():
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = tmp_path / "files" / part / "zyx"[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{100 - i}.png")

    def split(name, place):
        return look_at_split(*(open_source(name, str(place), part) for part in ("train", "test")))

    assert split("npz", tmp_path / "x.npz").sha256 == expected
    assert split("folder", tmp_path / "files").sha256 == expected
    moved = tmp_path / "files/train/z/100.png"
    shutil.move(moved, tmp_path / "files/train/x/100.png")
    assert split("folder", tmp_path / "files").sha256 != expected
    shutil.move(tmp_path / "files/train/x/100.png", tmp_path / "files/test/z/1.png")
    assert split("folder", tmp_path / "files").sha256 != expected


def test_files_are_told_by_their_bytes_and_copies_are_named(tmp_path):
    """Fails if a JPEG is decoded for its digest, a copy in another part or class is passed over,
    images that cannot be read are copies of each other, or a change of a file is not seen.
    """
    random = np.random.RandomState(0)
    rows = []
    for part, count in (("train", 6), ("test", 4)):
        for i in range(count):
            file = tmp_path / part / "ab"[i % 2] / f"{i}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.randint(0, 256, (8, 8, 3)).astype(np.uint8)).save(file)
    shutil.copy(tmp_path / "train/b/3.jpg", tmp_path / "test/a/0.jpg")
    shutil.copy(tmp_path / "train/a/2.jpg", tmp_path / "train/b/7.jpg")
    for part in ("train", "test"):
        for file in sorted((tmp_path / part).glob("*/*")):
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            rows.append((part, file.parent.name, digest))
    sources = [open_source("folder", str(tmp_path), part) for part in ("train", "test")]
    found = look_at_split(*sources)
    assert found.sha256 == split_sha256(rows)
    assert found[1:] == (1, (("b/3.jpg", "a/0.jpg"),), 0, 1, 0)
    assert found.warning() == "1 test image also in the training part: a/0.jpg = b/3.jpg"
    before = content_of(sources[1])
    image = (tmp_path / "test/a/2.jpg").read_bytes()
    (tmp_path / "test/a/2.jpg").write_bytes(image[:-1] + b"?")  # under the same name and size
    assert content_of(sources[1]) != before
    (tmp_path / "test/a/2.jpg").write_bytes(image)
    assert content_of(sources[1]) == before
    for name in ("test/a/0.jpg", "test/b/1.jpg"):
        (tmp_path / name).unlink()
    (tmp_path / "train/a/0.jpg").unlink()
    assert image_digests(sources[1]).count(UNREADABLE) == 2
    assert look_at_split(*sources)[1:] == (0, (), 0, 1, 0)


def test_a_stream_is_told_by_its_files(tmp_path):
    """Fails if one of them is not read, or a file that is not there ends the evaluation."""
    for name in "ab":
        (tmp_path / name).write_bytes(name.encode() * 9)
    shards = tuple(Shard(str(tmp_path / name), 3) for name in "ab")
    source = Source("x", 6, 3, 2, shards=shards)
    before = content_of(source)
    assert image_digests(source) is None
    assert content_of(dataclasses.replace(source, shards=shards[:1])) != before
    (tmp_path / "b").write_bytes(b"c" * 9)
    assert content_of(source) not in ("", before)
    (tmp_path / "b").unlink()
    assert content_of(source) == ""


def test_a_split_of_images_with_several_labels(tmp_path):
    """Fails if difficult objects are not told from others, or a copy in the validation part is
    passed over.
    """
    marks = voc(tmp_path)
    shutil.copy(tmp_path / "JPEGImages/010.jpg", tmp_path / "JPEGImages/002.jpg")
    lines = []
    for i, (rose, sun) in enumerate(marks):
        names = [n + "?" * int(m < 0) for n, m in (("rose", rose), ("sun", sun)) if m]
        digest = hashlib.sha256((tmp_path / f"JPEGImages/{i:03}.jpg").read_bytes()).hexdigest()
        lines.append(f"{'train' if i < 12 else 'test'}\t{','.join(names)}\t{digest}\n")
    found = look_at_split(*(open_source("voc", str(tmp_path), part) for part in ("train", "test")))
    assert found.sha256 == hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()
    assert found[1:] == (0, (), 1, 1, 0)
    assert found.warning() == "1 validation image also in the rest"
