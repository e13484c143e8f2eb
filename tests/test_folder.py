"""Which files and folders of a user's images are read, as what, and what is said of the rest."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from byol_jax import run_lock
from byol_jax.data import formats, pipeline
from byol_jax.data.opening import open_source
from byol_jax.data.rows import why_damaged
from byol_jax.views.spec import EvalSpec

SEEDS = iter(range(10_000))


def save(*names):
    """An image file of its own content under each of these names."""
    for name in names:
        os.makedirs(os.path.dirname(name), exist_ok=True)
        pixels = np.random.default_rng(next(SEEDS)).integers(0, 256, (6, 6, 3), np.uint8)
        with open(name, "wb") as file:
            Image.fromarray(pixels).save(file, "PNG")


def both(root):
    return [open_source("folder", str(root), split) for split in ("train", "test")]


def notes(source):
    return " | ".join(source.notes)


# Parts.


def classes(root, part, names="ab"):
    save(*(f"{root}/{part}/{name}/{i}.png" for name in names for i in range(3)))


def test_the_test_part_is_the_first_with_labels(tmp_path):
    """Fails if a flat test/ is taken although val/ is labelled (ImageNet's own layout)."""
    classes(tmp_path, "train")
    classes(tmp_path, "val", "a")
    save(*(f"{tmp_path}/test/{i}.png" for i in range(5)))
    train, test = both(tmp_path)
    assert (train.labelled, test.labelled, test.num_examples) == (6, 3, 3)
    assert test.root == f"{tmp_path}/val"
    assert "test part: 3 images in 2 classes" in notes(test)
    assert "test/ without labels and not read" in notes(test)


@pytest.mark.parametrize("layout", ["flat", "one folder"])
def test_no_test_part_has_labels(tmp_path, layout):
    """Fails if the classes are lost, a label is made up, or nothing is said."""
    classes(tmp_path, "train")
    inner = "" if layout == "flat" else "all/"
    save(*(f"{tmp_path}/{part}/{inner}{i}.png" for part in ("val", "test") for i in range(2)))
    test = open_source("folder", str(tmp_path), "test")
    assert (test.classes, test.labelled, test.root) == (2, 0, f"{tmp_path}/test")
    assert "no image of test/, val/ has a label" in notes(test)


def test_unlabelled_training_takes_the_first_test_part(tmp_path):
    """Fails if labels of the test part are numbered without classes of the training part."""
    save(*(f"{tmp_path}/train/{i}.png" for i in range(3)))
    classes(tmp_path, "test")
    train, test = both(tmp_path)
    assert (train.classes, train.labelled, test.classes, test.labelled) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("train", "test"), [("Train", "VAL"), ("TRAIN", "valid"), ("train", "Validation")]
)
def test_parts_are_found_in_any_case(tmp_path, train, test):
    """Fails if a folder of another case, or valid/, is read as a class."""
    classes(tmp_path, train)
    classes(tmp_path, test)
    sources = both(tmp_path)
    assert [s.root for s in sources] == [f"{tmp_path}/{train}", f"{tmp_path}/{test}"]
    assert f"training part: 6 images in 2 classes from {tmp_path}/{train}" in notes(sources[0])


def test_a_class_that_is_called_train(tmp_path):
    """Fails if it is taken for the training part, so that all other classes vanish."""
    for name in ("train", "bus", "car"):
        save(*(f"{tmp_path}/{name}/{i}.png" for i in range(30)))
    train, test = both(tmp_path)
    assert train.class_names == test.class_names == ("bus", "car", "train")
    assert train.num_examples + test.num_examples == 90
    assert "train/ is taken as a class, beside bus/, car/" in notes(train)
    save(f"{tmp_path}/train/inner/x.png")  # with folders of its own it is the training part
    assert open_source("folder", str(tmp_path)).root == f"{tmp_path}/train"


def test_what_is_beside_the_training_part_is_said(tmp_path):
    """Fails if folders and images that are not read vanish without a word."""
    classes(tmp_path, "train")
    classes(tmp_path, "val")
    save(f"{tmp_path}/unlabeled/1.png", f"{tmp_path}/2.png", f"{tmp_path}/.hidden/3.png")
    classes(tmp_path, "test")
    os.mkdir(tmp_path / "valid")
    train, test = both(tmp_path)
    assert "beside train/, not read: unlabeled/ and 1 image" in notes(train)
    assert "no image that is read: valid/" in notes(train)
    assert "val/ not read" in notes(test)
    assert "hidden" not in notes(train)


# Files.


def test_one_stray_image_leaves_the_labels(tmp_path):
    """Fails if an image beside the class folders turns all labels off, or is not said."""
    classes(tmp_path, "train")
    classes(tmp_path, "val")
    save(f"{tmp_path}/train/stray.png")
    train = open_source("folder", str(tmp_path))
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1, -1]
    assert list(train.paths)[-1] == "stray.png"
    assert "7 images (6 of them labelled) in 2 classes" in notes(train)
    assert "1 image beside the class folders is without a label: stray.png" in notes(train)


def test_other_formats_are_counted_and_emptied_classes_named(tmp_path, monkeypatch):
    """Fails if files are left out in silence, or a class vanishes with them."""
    monkeypatch.setattr(formats, "suffixes", lambda: (".png",))
    classes(tmp_path, "train")
    for i in range(3):
        save(f"{tmp_path}/train/c/{i}.heic", f"{tmp_path}/train/a/{i}.PSD")
    save(f"{tmp_path}/train/d/x.psd", f"{tmp_path}/train/d/LICENSE")
    train = open_source("folder", str(tmp_path))
    assert train.class_names == ("a", "b")
    said = notes(train)
    assert "left out 8 files of other formats (4 .psd, 3 .heic, 1 without a suffix)" in said
    assert ".heic: pip install 'byol_jax[formats]'" in said
    assert "c/, d/ have no image that is read: no class" in said


def test_the_folder_of_a_run_is_left_out(tmp_path):
    """Fails if views.png becomes a class, so that the resume finds other data."""
    for name in "ab":
        save(*(f"{tmp_path}/{name}/{i}.png" for i in range(60)))
    before = both(tmp_path)
    for name, file in (("run1", "metrics.jsonl"), ("a/run2", "checkpoints/1/meta.json")):
        save(f"{tmp_path}/{name}/views.png")
        os.makedirs(os.path.dirname(f"{tmp_path}/{name}/{file}"), exist_ok=True)
        for written in ("config.json", file):
            with open(f"{tmp_path}/{name}/{written}", "w") as out:
                out.write("{}")
    with run_lock.only_one(tmp_path / "run3"):  # the run that opens these data for the first time
        after = both(tmp_path)
    assert [s.fingerprint() for s in after] == [s.fingerprint() for s in before]
    assert "left out a/run2/, run1/, run3/: the folders of training runs" in notes(after[0])
    assert "other formats" not in notes(after[0])
    assert "no class" not in notes(after[0])


def test_names_of_any_bytes(tmp_path):
    """Fails if a name that is not UTF-8 cannot be read, or breaks a log, JSON or a line.

    Seen with the paths given to TensorFlow as text.
    """
    root = os.fsencode(tmp_path)
    for part in (b"train", b"val"):
        save(*(root + b"/" + part + name for name in (b"/\xe4gg/\xff.png", b"/b\nc/\xc3\xa9.png")))
    source = open_source("folder", str(tmp_path))
    assert source.class_names == ("b\\nc", "\\xe4gg")
    assert source.describe(1).endswith("/train/\\xe4gg/\\xff.png")
    for text in (json.dumps(source.fingerprint()), *source.notes, source.describe(0)):
        assert len(text.encode("utf-8").splitlines()) == 1
    view = EvalSpec(6, 6, (0.0,) * 3, (1.0,) * 3)
    batch = next(pipeline.eval_batches(source, view, batch_size=2))
    assert batch["mask"].all()
    assert "decodes now" in why_damaged(source, 1)
    os.truncate(root + b"/train/\xe4gg/\xff.png", 0)
    assert why_damaged(source, 1) == "empty file"
    os.remove(root + b"/train/\xe4gg/\xff.png")
    assert why_damaged(source, 1) == "cannot be read: No such file or directory"


# Fingerprints.


def test_the_fingerprint_of_a_folder(tmp_path):
    """Fails if the place is part of it, or a renamed class, an image more or less is not."""
    for root in ("one", "two"):
        classes(tmp_path / root, "train")
        classes(tmp_path / root, "val")

    def of(root):
        return open_source("folder", str(tmp_path / root)).fingerprint()

    first = of("one")
    assert first == of("two")
    assert (first["examples"], first["classes"]) == (6, ["a", "b"])
    assert json.loads(json.dumps(first)) == first
    (tmp_path / "two" / "train" / "a" / "0.png").rename(tmp_path / "two" / "train" / "a" / "9.png")
    assert of("two")["digest"] != first["digest"]
    (tmp_path / "one" / "train" / "b").rename(tmp_path / "one" / "train" / "c")
    assert of("one")["classes"] == ["a", "c"]
    save(f"{tmp_path}/one/train/a/new.png")
    assert of("one")["examples"] == 7


def test_the_fingerprint_of_arrays(tmp_path):
    """Fails if other pixels or labels under the same names are taken for the same data."""
    images = np.random.default_rng(0).integers(0, 256, (60, 4, 4, 3), np.uint8)
    labels = np.arange(60) % 3

    def of(images, labels, name="a.npz", save=np.savez):
        save(tmp_path / name, images=images, labels=labels)
        return open_source("npz", str(tmp_path / name)).fingerprint()

    first = of(images, labels)
    assert first["classes"] == ["0", "1", "2"]
    assert of(images, labels, "b.npz", np.savez_compressed) == first
    assert of(images, labels[::-1].copy())["digest"] != first["digest"]
    images[3, 2, 1, 0] ^= 1
    assert of(images, labels)["digest"] != first["digest"]


def test_the_fingerprint_of_digits():
    """Fails if it changes between two starts, or is the same for both parts."""
    found = [open_source("digits", split=s).fingerprint() for s in ("train", "train", "test")]
    assert found[0] == found[1] != found[2]
    assert found[0]["classes"] == list("0123456789")
    assert len(str(found[0]["digest"])) == 16


def test_npz_takes_the_first_test_arrays_with_labels(tmp_path):
    """Fails if x_test without labels is judged although x_val has them."""
    images = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3), np.uint8)
    parts = {"x_train": images, "y_train": np.arange(12) % 3, "x_test": images[:5]}
    np.savez(tmp_path / "a.npz", **parts)
    test = open_source("npz", str(tmp_path / "a.npz"), "test")
    assert (test.num_examples, test.classes, test.labelled) == (5, 3, 0)
    assert "no image of x_test has a label" in notes(test)
    np.savez(tmp_path / "a.npz", **parts, x_val=images[:4], y_val=[0, 1, 2, 0])
    test = open_source("npz", str(tmp_path / "a.npz"), "test")
    assert (test.num_examples, test.labelled) == (4, 4)
