import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from byol_jax.data.opening import open_source
from byol_jax.data.source import Decoding, Shard, Source

RNG = np.random.default_rng(0)


def save(path, side=6, seed=0):
    """An image file of random pixels; one seed, one content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(path, format="PNG" if path.suffix == ".x" else None)


def test_arrays_need_no_tensorflow(tmp_path):
    """Fails if opening digits or npz, or their evaluation import TensorFlow."""
    np.savez(tmp_path / "a.npz", images=RNG.integers(0, 256, (50, 4, 4, 3), np.uint8))
    code = f"""
import sys
from byol_jax.data import opening, pipeline
from byol_jax.views.spec import EvalSpec
for name, where, side, c in (("digits", "", 8, 1), ("npz", {str(tmp_path / "a.npz")!r}, 4, 3)):
    s = opening.open_source(name, where)
    assert s.hold_out(0.5)[0].num_examples
    assert len(list(pipeline.eval_batches(s, EvalSpec(side, side, (0.5,) * c, (1.0,) * c),
                                          batch_size=10)))
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


def test_digits():
    """Fails if the split, the scale or the labels change."""
    train, test = open_source("digits"), open_source("digits", split="test")
    assert (train.num_examples, test.num_examples, train.channels) == (1297, 500, 1)
    data = load_digits()
    last = np.random.RandomState(0).permutation(1797)[-1]
    np.testing.assert_array_equal(test.images[-1, ..., 0], np.rint(data.images[last] * 255 / 16))
    assert test.labels[-1] == data.target[last]
    assert test.images.max() == 255
    assert not set(train.rows) & set(test.rows)
    assert test.describe(499) == f"digits test, example {last}"
    assert train.labels.dtype == np.int32


def test_take_and_hold_out():
    """Fails if labels, images and names part ways, or the parts overlap."""
    source = open_source("digits")
    some = source.take(np.array([5, 3])).take(np.array([1]))
    np.testing.assert_array_equal(some.images[0], source.images[3])
    assert (some.num_examples, some.labels[0]) == (1, source.labels[3])
    assert some.describe(0) == source.describe(3)
    rest, held = source.hold_out(0.1, seed=4)
    assert held.num_examples == 130
    assert sorted([*rest.rows, *held.rows]) == sorted(source.rows)
    assert set(held.rows) == set(source.hold_out(0.1, seed=4)[1].rows)
    assert set(held.rows) != set(source.hold_out(0.1, seed=5)[1].rows)
    with pytest.raises(ValueError, match=r"Holding out 0.0001 of the 1,297 examples"):
        source.hold_out(0.0001)


def test_streams_hold_out_shards():
    """Fails if a stream is cut inside a shard, or its examples are picked."""
    shards = tuple(Shard(f"s{i}", 10 + i) for i in range(4))
    source = Source("set train", 46, 3, shards=shards)
    assert source.is_stream
    rest, held = source.hold_out(0.25)
    assert (rest.num_examples, held.num_examples, held.shards) == (33, 13, shards[3:])
    assert source.describe(22) == "set train, example 22 (record 1 of s2)"
    assert held.locate(2) == (shards[3], 2)
    with pytest.raises(ValueError, match="read as a stream, so its examples cannot be selected"):
        source.take(np.array([0]))
    with pytest.raises(ValueError, match="1 shard of"):
        Source("set", 10, 3, shards=shards[:1]).hold_out(0.1)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"split": "val"}, "split is 'val'; expected 'train' or 'test'"),
        ({"channels": 4}, "channels is 4; expected 1 or 3"),
    ],
)
def test_bad_arguments(kwargs, message):
    """Fails if an argument is not checked before the data is opened."""
    with pytest.raises(ValueError, match=message):
        open_source("digits", **kwargs)


# Arrays.

PIXELS = RNG.integers(0, 256, (200, 4, 4, 3), np.uint8)
LABELS = np.arange(200) % 7


@pytest.mark.parametrize("names", [("images", "labels"), ("x_train", "y_train")])
def test_npz_holds_out_by_content(tmp_path, names):
    """Fails if equal images are parted, or labels lose their images."""
    images = np.concatenate([PIXELS, PIXELS])
    np.savez(tmp_path / "a.npz", **{names[0]: images, names[1]: np.tile(LABELS, 2)[:, None]})
    train, test = (open_source("npz", str(tmp_path / "a.npz"), s) for s in ("train", "test"))
    assert train.num_examples + test.num_examples == 400
    assert 10 < test.num_examples < 80
    assert not {i.tobytes() for i in train.images} & {i.tobytes() for i in test.images}
    np.testing.assert_array_equal(test.labels, np.tile(LABELS, 2)[test.rows])
    np.testing.assert_array_equal(test.images, images[test.rows])
    assert (test.classes, test.channels) == (7, 3)
    other = open_source("npz", str(tmp_path / "a.npz"), "test", seed=1)
    assert set(other.rows) != set(test.rows)


def test_npz_with_parts(tmp_path):
    """Fails if train and test are mixed up, or grey images get no channel."""
    np.savez(
        tmp_path / "a.npz",
        x_train=PIXELS[:9, ..., 0],
        y_train=LABELS[:9],
        x_test=PIXELS[9:12, ..., 0],
        y_test=np.array([0, 9, -1]),
    )
    train, test = (open_source("npz", str(tmp_path / "a.npz"), s) for s in ("train", "test"))
    np.testing.assert_array_equal(train.images, PIXELS[:9, ..., :1])
    np.testing.assert_array_equal(test.labels, [0, 9, -1])
    assert train.classes == test.classes == 10
    np.savez(tmp_path / "b.npz", train_images=PIXELS, test_images=PIXELS[:5])
    unlabelled = open_source("npz", str(tmp_path / "b.npz"))
    assert unlabelled.classes == 0
    assert set(unlabelled.labels) == {-1}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": PIXELS / 255}, "images is float64; expected uint8"),
        ({"images": PIXELS[0, 0]}, r"shape \(4, 3\); expected \[N, H, W\]"),
        ({"images": PIXELS.transpose(0, 3, 1, 2)[:, :, :, :2]}, "C 1 or 3 last"),
        ({"images": PIXELS[:0]}, r"shape \(0, 4, 4, 3\)"),
        ({"images": PIXELS, "labels": LABELS[:5]}, r"\(5,\); expected integers \(200,\)"),
        ({"images": PIXELS, "labels": LABELS / 2}, "labels is float64"),
        ({"images": PIXELS, "labels": LABELS - 3}, "labels contains -3"),
        ({"pictures": PIXELS}, "has the arrays pictures; expected images and labels"),
        ({"images": np.array([{}], object)}, "cannot be read .*of plain arrays"),
        ({"images": PIXELS[:1]}, "has 1 image, too few to hold out a tenth"),
    ],
)
def test_npz_refuses(tmp_path, arrays, message):
    """Fails if such arrays pass, pickles are loaded, or the error is another."""
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        [open_source("npz", str(tmp_path / "a.npz"), split) for split in ("train", "test")]


def test_npz_missing_or_no_npz(tmp_path):
    """Fails if a missing or foreign file gives a traceback of numpy's."""
    with pytest.raises(ValueError, match=r"is not a file; expected data.dir to name a .npz file"):
        open_source("npz", str(tmp_path / "a.npz"))
    (tmp_path / "a.npz").write_bytes(b"not a zip file")
    with pytest.raises(ValueError, match=r"a.npz cannot be read"):
        open_source("npz", str(tmp_path / "a.npz"))
    np.save(tmp_path / "b.npy", PIXELS)
    with pytest.raises(ValueError, match=r"b.npy cannot be read"):
        open_source("npz", str(tmp_path / "b.npy"))


# Folders.


def test_folder_with_classes_and_parts(tmp_path):
    """Fails if labels are not the sorted first folders, or suffixes are case-sensitive."""
    for i, name in enumerate(["b/1.PNG", "b/deep/2.bmp", "a/3.jpeg", "a/.hidden.png", "c/4.webp"]):
        save(tmp_path / "train" / name, seed=i)
    save(tmp_path / "train" / ".cache" / "5.png")
    (tmp_path / "train" / "notes.txt").write_text("not an image")
    save(tmp_path / "val" / "b" / "6.png")
    save(tmp_path / "val" / "c" / "7.png")
    train = open_source("folder", str(tmp_path))
    assert list(train.paths) == ["a/3.jpeg", "b/1.PNG", "b/deep/2.bmp", "c/4.webp"]
    assert train.labels.tolist() == [0, 1, 1, 2]
    assert train.class_names == ("a", "b", "c")
    test = open_source("folder", str(tmp_path), "test")
    assert test.labels.tolist() == [1, 2]
    assert test.classes == 3
    assert test.describe(0) == str(tmp_path / "val" / "b" / "6.png")
    save(tmp_path / "val" / "d" / "8.png")
    with pytest.raises(ValueError, match=r"has the class folder 'd', but .*train does not"):
        open_source("folder", str(tmp_path), "test")


def test_flat_folder_holds_out_a_tenth(tmp_path):
    """Fails if copies of a file are parted, or unlabelled images get labels."""
    for i in range(120):
        save(tmp_path / f"{i}.png", side=2, seed=i % 60)
    train, test = (open_source("folder", str(tmp_path), s) for s in ("train", "test"))
    names = [{int(p.removesuffix(".png")) % 60 for p in s.paths} for s in (train, test)]
    assert not names[0] & names[1]
    assert len(train.paths) + len(test.paths) == 120
    assert 2 <= len(test.paths) <= 30
    assert train.classes == 0
    assert set(train.labels) == {-1}
    assert list(test.paths) == list(open_source("folder", str(tmp_path), "test").paths)


def test_large_files_are_told_apart_by_their_middle(tmp_path):
    """Fails if only the beginning of a large file is looked at, or the whole of it is read."""
    from byol_jax.data.folder import excerpt

    base = bytearray(400_000)
    a, b, c = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    a.write_bytes(base)
    b.write_bytes(base)
    base[130_000] = 1
    c.write_bytes(base)
    assert excerpt(a) == excerpt(b) != excerpt(c)
    assert len(excerpt(a)) < 70_000


def test_one_class_folder_is_unlabelled(tmp_path):
    """Fails if a single folder gives labels."""
    for i in range(3):
        save(tmp_path / "train" / "only" / f"{i}.png", seed=i)
        save(tmp_path / "val" / f"{i}.png", seed=i)
    source = open_source("folder", str(tmp_path))
    assert source.classes == source.labelled == 0
    assert set(source.labels) == {-1}


def test_linked_folders(tmp_path):
    """Fails if links are not followed, or a link back up never ends."""
    save(tmp_path / "real" / "x.png")
    save(tmp_path / "data" / "train" / "y.png")
    save(tmp_path / "data" / "val" / "y.png")
    (tmp_path / "data" / "train" / "link").symlink_to(tmp_path / "real")
    (tmp_path / "data" / "train" / "loop").symlink_to(tmp_path / "data" / "train")
    assert list(open_source("folder", str(tmp_path / "data")).paths) == ["link/x.png", "y.png"]


def test_folder_refuses(tmp_path):
    """Fails if a folder without images passes, or the message does not say what it holds."""
    with pytest.raises(ValueError, match=r"is not a folder; expected data.dir"):
        open_source("folder", str(tmp_path / "missing"))
    with pytest.raises(ValueError, match="is not a folder"):
        open_source("folder", "")
    with pytest.raises(ValueError, match=r"has no images .it has no files"):
        open_source("folder", str(tmp_path))
    (tmp_path / "a.xcf").write_bytes(b"gimp xcf")
    with pytest.raises(ValueError, match=r"it has 1 .xcf.; expected files ending in .jpg"):
        open_source("folder", str(tmp_path))
    save(tmp_path / "only.png")
    with pytest.raises(ValueError, match="has 1 image, too few to hold out a tenth"):
        [open_source("folder", str(tmp_path), split) for split in ("train", "test")]


# tfds.


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A small tfds data set on disk, of fixed and of varying size; its folder and its images."""
    import tensorflow_datasets as tfds

    where = tmp_path_factory.mktemp("tfds")
    pixels = RNG.integers(0, 256, (30, 5, 6, 3), np.uint8)
    for name, shape in (("tiny_fixed", (5, 6, 3)), ("tiny_free", (None, None, 3))):
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=shape),
                "label": tfds.features.ClassLabel(names=["x", "y", "z"]),
            }
        )
        examples = [(i, {"image": p, "label": i % 3}) for i, p in enumerate(pixels)]
        tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version="1.0.0",
            features=features,
            split_datasets={"train": examples[:20], "validation": examples[20:]},
            data_dir=str(where),
            disable_shuffling=True,
        )
    return str(where), pixels


def test_tfds_of_one_size_is_decoded(prepared):
    """Fails if order, labels or the choice of the test split change."""
    where, pixels = prepared
    train, test = (open_source("tiny_fixed", where, s) for s in ("train", "test"))
    np.testing.assert_array_equal(train.images, pixels[:20])
    np.testing.assert_array_equal(test.images, pixels[20:])
    assert train.labels.tolist() == [i % 3 for i in range(20)]
    assert (train.classes, train.class_names, train.intact) == (3, ("x", "y", "z"), None)
    assert test.describe(3).startswith("tiny_fixed validation, example 3 (record 3 of ")
    grey = open_source("tiny_fixed", where, channels=1)
    assert grey.images.shape == (20, 5, 6, 1)
    want = pixels[:20] @ np.array([0.2989, 0.587, 0.114])
    np.testing.assert_allclose(grey.images[..., 0], want, atol=1.5)


@pytest.mark.parametrize(
    ("name", "splits", "want"),
    [
        ("imagenet2012:5.1.0", ["train", "test", "validation"], "validation"),  # no public labels
        ("cifar10", ["train", "test"], "test"),
        ("other", ["train", "test", "validation"], "test"),
        ("other", ["train", "validation"], "validation"),
    ],
)
def test_the_test_part_is_one_with_labels(name, splits, want):
    """Fails if the table of facts is not asked, or a set without a test part has none."""
    from byol_jax.data import records

    assert records._split_names(name, splits, "test")[0] == want
    assert records._split_names(name, splits, "train") == ["train"]


def test_a_tfds_folder_of_another_level_is_named(prepared, monkeypatch):
    """Fails if tfds begins to prepare into it, or the folder that was meant is not named."""
    import tensorflow_datasets as tfds

    def prepares(*args, **kwargs):
        raise AssertionError("tfds was asked to prepare")

    monkeypatch.setattr(tfds, "builder", prepares)
    where = Path(prepared[0])
    for wrong in ("tiny_free", "tiny_free/1.0.0", ".."):
        for name in ("tiny_free", "tiny_free:1.0.0"):
            with pytest.raises(
                ValueError, match=rf"data.dir is .*set data.dir to .*{where.name}\.$"
            ):
                open_source(name, str(where / wrong))
    with pytest.raises(ValueError, match=r"the prepared tiny_free belongs to .*; set data.dir to"):
        open_source("mnist", str(where / "tiny_free" / "1.0.0"))


@pytest.mark.parametrize("in_memory", [True, False])
def test_tfds_takes_the_first_test_part_with_labels(tmp_path, in_memory):
    """Fails if a test part whose labels are all -1 is judged although validation has labels."""
    import tensorflow_datasets as tfds

    from byol_jax.data import records

    image = tfds.features.Image(shape=(None, None, 1))
    features = {"image": image, "label": tfds.features.ClassLabel(num_classes=3)}
    pixels = np.zeros((2, 2, 1), np.uint8)
    parts = {"train": [0, 1], "validation": [2, 0], "test": [-1, -1]}
    for name, names in (("both", parts), ("bare", {k: parts[k] for k in ("train", "test")})):
        tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version="1.0.0",
            features=tfds.features.FeaturesDict(features),
            split_datasets={
                part: [(i, {"image": pixels, "label": k}) for i, k in enumerate(labels)]
                for part, labels in names.items()
            },
            data_dir=str(tmp_path),
            disable_shuffling=True,
        )
        found = records.open_tfds(name, str(tmp_path), "test", Decoding(1), in_memory=in_memory)
        if name == "both":
            assert (found.name, found.notes) == ("both validation", ())
        else:
            assert found.notes == ("no image of bare test has a label",)
            assert (found.classes, found.labelled) == (3, 0 if in_memory else None)


@pytest.mark.parametrize("shape", [(5, 6, 1), (None, None, 1)])
def test_tfds_without_a_test_part_holds_out_a_tenth(tmp_path, shape):
    """Fails if such a set cannot be trained on, or copies of an image are on both sides."""
    import tensorflow_datasets as tfds

    from byol_jax.data import records

    image = tfds.features.Image(shape=shape)
    features = {"image": image, "label": tfds.features.ClassLabel(num_classes=3)}
    pixels = RNG.integers(0, 256, (30, 5, 6, 1), np.uint8)
    pixels = np.concatenate([pixels, pixels])
    tfds.dataset_builders.store_as_tfds_dataset(
        name="alone",
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={"train": [(i, {"image": p, "label": i % 3}) for i, p in enumerate(pixels)]},
        data_dir=str(tmp_path),
        disable_shuffling=True,
    )
    how = {"channels": 1, "seed": 3}
    train, test = (open_source("alone", str(tmp_path), part, **how) for part in ("train", "test"))
    assert (train.name, test.name) == ("alone train", "alone test")
    assert train.notes == test.notes == ("there is no test part: a tenth is held out, by content",)
    assert 0 < test.num_examples < 30
    assert sorted([*train.rows, *test.rows]) == list(range(60))
    assert set(test.rows % 30).isdisjoint(train.rows % 30)
    assert (test.labels == test.rows % 3).all()
    assert test.describe(0).startswith(f"alone test, example {test.rows[0]} (record ")
    other = open_source("alone", str(tmp_path), "test", channels=1, seed=4)
    assert list(other.rows) != list(test.rows)
    with pytest.raises(ValueError, match=r"Holding out 0.1 of the 1 shard of alone train"):
        records.open_tfds("alone", str(tmp_path), "train", Decoding(1), in_memory=False)


def test_the_fingerprint_of_tfds(prepared):
    """Fails if the place is part of it, or the split, the version or the shards are not."""
    from byol_jax.data import records

    where, _ = prepared
    found = [open_source("tiny_free", where, split).fingerprint() for split in ("train", "test")]
    stream = records.open_tfds("tiny_free", where, "train", Decoding(3), in_memory=False)
    assert stream.fingerprint() == found[0] != found[1]
    assert found[0]["classes"] == ["x", "y", "z"]
    assert open_source("tiny_fixed", where).fingerprint()["digest"] != found[0]["digest"]
    parts = ("tiny_free/1.0.0", "train", *(str(s.records) for s in stream.shards))
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part.encode())
    assert found[0]["digest"] == digest.hexdigest()[:16]


def test_tfds_of_many_sizes_stays_encoded(prepared):
    """Fails if encoded images lose their order when some are taken."""
    where, pixels = prepared
    source = open_source("tiny_free", where)
    assert source.images is None
    assert not source.is_stream
    import tensorflow as tf

    some = source.take(np.array([7, 2]))
    np.testing.assert_array_equal(tf.io.decode_png(some.encoded[0]), pixels[7])
    assert some.labels.tolist() == [1, 2]


def test_large_tfds_is_a_stream(prepared):
    """Fails if a set that does not fit is read into memory."""
    from byol_jax.data import records

    source = records.open_tfds("tiny_free", prepared[0], "train", Decoding(3), in_memory=False)
    assert source.is_stream
    assert source.labels is None
    assert sum(s.records for s in source.shards) == source.num_examples == 20


def test_damaged_image_of_one_size_is_marked():
    """Fails if a damaged image stops the set from opening, or moves the images after it."""
    import tensorflow as tf

    from byol_jax.data import records

    pixels = RNG.integers(0, 256, (9, 5, 6, 3), np.uint8)
    encoded = [tf.io.encode_png(p).numpy() for p in pixels]
    encoded[4], encoded[6] = encoded[4][:60], b""
    images, intact = records._decode_all(tf.constant(encoded), (5, 6), Decoding(3))
    good = [i for i in range(9) if i not in (4, 6)]
    np.testing.assert_array_equal(images[good], pixels[good])
    assert np.flatnonzero(~intact).tolist() == [4, 6]
    encoded[4] = encoded[4] + b"0" * 20  # headers are all as promised now: the fast way
    images, intact = records._decode_all(tf.constant(encoded[:6]), (5, 6), Decoding(3))
    assert np.flatnonzero(~intact).tolist() == [4]


def test_tfds_that_is_not_there(prepared, monkeypatch):
    """Fails if a name has no hint, or a failed download leaves its own traceback."""
    import tensorflow_datasets as tfds

    with pytest.raises(ValueError, match="no data set 'cifar_10': did you mean cifar10"):
        open_source("cifar_10", prepared[0])
    with pytest.raises(ValueError, match=r"is not a folder; expected data.dir"):
        open_source("cifar10", prepared[0] + "/missing")

    def fail(self, **kwargs):
        raise ConnectionError("no route to host\nand so on")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(ValueError, match=r"mnist is not prepared under .* no route to host. Prep"):
        open_source("mnist", prepared[0])
