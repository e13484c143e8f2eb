import io
import re
import shutil
import struct
import zlib
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_sample_images

from byol_jax.data import decode, order, pipeline, records, stream
from byol_jax.data.opening import open_source
from byol_jax.data.pipeline import eval_batches, train_batches
from byol_jax.data.rows import substitute, why_damaged
from byol_jax.data.source import Decoding, Shard, Source
from byol_jax.views import host, recipes
from byol_jax.views.spec import EvalSpec

RNG = np.random.default_rng(0)
FLOWER = np.asarray(Image.fromarray(load_sample_images().images[1]).resize((90, 64)))
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
OFF = PLAIN | dict.fromkeys(("grey", "blur", "solarize"), 0.0)


def encode(pixels, kind="JPEG", mode="RGB", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


def translucent():
    """RGBA pixels of all opacities."""
    fade = np.linspace(0, 255, FLOWER.shape[1]).astype(np.uint8)
    return np.dstack([FLOWER, np.broadcast_to(fade, FLOWER.shape[:2])])


def animated(kind, pixels=FLOWER):
    """A file of two images, the second one upside down."""
    file = io.BytesIO()
    more = [Image.fromarray(np.ascontiguousarray(pixels[::-1]))]
    Image.fromarray(pixels).save(file, kind, save_all=True, append_images=more)
    return file.getvalue()


def pixel_bomb(side=20_000):
    """A PNG whose header promises side x side pixels."""

    def piece(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = piece(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + header + piece(b"IDAT", zlib.compress(b"\0")) + piece(b"IEND", b"")
    )


def folder(root, files):
    for name, data in files.items():
        for part in ("train", "val"):
            (root / part).mkdir(parents=True, exist_ok=True)
            (root / part / name).write_bytes(data)
    return open_source("folder", str(root))


def photos(n):
    """Encoded images of which any part decodes to the same pixels as the whole."""
    pixels = [np.roll(FLOWER, 7 * i, 1)[: 40 + i, : 50 + 2 * i] for i in range(n)]
    kinds = [{"kind": "PNG"}, {"kind": "JPEG", "subsampling": 0}]
    return {f"{i:02}.jpg": encode(p, **kinds[i % 2]) for i, p in enumerate(pixels)}


def shards_of(root, counts):
    """A stream of shards with so many records; the label of a record is its index modulo 100."""
    shards, index = [], 0
    for k, count in enumerate(counts):
        path = str(root / f"shard{k}")
        with tf.io.TFRecordWriter(path) as writer:
            for _ in range(count):
                image = encode(np.full((4, 5, 3), index % 256, np.uint8), "PNG")
                features = {
                    "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
                    "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[index % 100])),
                }
                example = tf.train.Example(features=tf.train.Features(feature=features))
                writer.write(example.SerializeToString())
                index += 1
        shards.append(Shard(path, count))
    return Source("shards train", index, 3, classes=100, shards=tuple(shards))


def equal(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


# The contract, for every kind of source.


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    files = folder(root / "folder", photos(21))
    encoded = tf.constant([Path(root, "folder", "train", p).read_bytes() for p in files.paths])
    labels = np.arange(21, dtype=np.int32)
    return {
        "arrays": open_source("digits").take(np.arange(50)),
        "folder": files,
        "encoded": Source("enc", 21, 3, classes=21, labels=labels, encoded=encoded),
        "stream": shards_of(root, [9, 3, 7, 5, 8]),
    }


def recipe_for(source):
    """Two sizes, few operations: tracing is what takes the time. All draw from the same numbers."""
    if source.channels == 1:
        return recipes.digits(8) | {"local": recipes.digits(5)["views"][:1]}
    local = recipes.crop_flip(7, jitter=0.0, area=(0.1, 0.4))["views"]
    return recipes.crop_flip(12, jitter=0.5, brightness=0.3, contrast=0.0) | {"local": local}


@pytest.mark.parametrize("kind", ["arrays", "folder", "encoded", "stream"])
def test_batches_resume_anywhere(sources, kind, monkeypatch):
    """Fails if a resumed run skips, repeats or reseeds anything, in or across epochs, in any group.

    Nor may the number of threads count. Seen with the position left out of `first`, and with the
    epoch left out of the draws.
    """
    monkeypatch.setattr(order, "WINDOW", 6)
    source = sources[kind]
    recipe = recipe_for(source)
    steps = pipeline.steps_per_epoch(source, 4)
    run = {"batch_size": 4, "seed": 3}
    whole = list(islice(train_batches(source, recipe, threads=2, **run), 2 * steps + 2))
    kinds = {"index": np.int32, "label": np.int32, "mask": np.float32}
    for batch in whole:
        for name, specs in recipe.items():
            size = specs[0].size
            assert batch[name].shape == (4, len(specs), size, size, source.channels)
        assert {k: v.dtype for k, v in batch.items()} == dict.fromkeys(recipe, np.float32) | kinds
        assert batch["mask"].all()
    for epoch in range(2):
        index = np.concatenate([b["index"] for b in whole[epoch * steps : (epoch + 1) * steps]])
        assert len(set(index)) == 4 * steps
        assert index.max() < source.num_examples
    # In the middle of an epoch, on both sides of its end, and from the second one into the third.
    resumed = ((1, 0), (steps - 1, 2), (steps, 2), (steps + 2, 2), (2 * steps - 1, 1))
    for done, threads in resumed if kind == "stream" else resumed[1::3]:
        again = train_batches(source, recipe, position=4 * done, threads=threads, **run)
        for batch in whole[done : done + 3]:
            equal(next(again), batch)
    if kind != "encoded":  # its order is the folder's
        # The order is that of views made on the device, which are quicker to trace.
        other = next(train_batches(source, recipe, on_device=True, **{**run, "seed": 4}))
        assert set(other["index"]) != set(whole[0]["index"])


def test_views_are_those_of_the_host(sources):
    """Fails if crops, draws or specs of views or groups are mixed up, or labels go to other rows.

    Seen with every group drawing from the first view's numbers on, and with `u[0]` for all views.
    """
    for kind in ("arrays", "folder", "encoded"):
        source = sources[kind]
        recipe = recipe_for(source)
        if kind == "folder":
            recipe = recipes.byol(12, blur=0.5, solarize=0.5) | {"local": recipe["local"]}
        specs = [spec for group in recipe.values() for spec in group]
        batches = train_batches(source, recipe, batch_size=10, seed=3)
        for epoch in (0, 0, 1) if source.num_examples < 30 else (0,):
            batch = next(batches)
            some = [whole_image(source, index) for index in batch["index"]]
            u = np.stack([host.uniforms(3, epoch, i, len(specs)) for i in batch["index"]])
            made = [batch[name][:, i] for name in recipe for i in range(len(recipe[name]))]
            for v, (views, spec) in enumerate(zip(made, specs, strict=True)):
                want = host.augment(crops_of(some, spec, u[:, v]), spec, tf.constant(u[:, v]))
                np.testing.assert_allclose(views, want, atol=1e-5)
            if source.labels is not None:
                np.testing.assert_array_equal(batch["label"], source.labels[batch["index"]])


def crops_of(images, spec, u):
    """The crops of images of many sizes, one by one."""
    if spec.affine:
        return tf.concat(
            [host.crop_affine(x[None], spec, u[i : i + 1]) for i, x in enumerate(images)], 0
        )
    windows = [host.crop_window(spec, u[i], *x.shape[:2]) for i, x in enumerate(images)]
    pairs = zip(images, windows, strict=True)
    return tf.stack([host.crop_resize(x, window, spec.size) for x, window in pairs])


def whole_image(source, index):
    if source.images is not None:
        return tf.constant(source.images[index])
    data = source.encoded[int(index)] if source.encoded is not None else None
    if data is None:
        data = tf.io.read_file(source.describe(index))
    return decode.decode_image(data, Decoding(3))


@pytest.mark.parametrize("kind", ["arrays", "folder"])
def test_processes_share_the_global_batch(sources, kind):
    """Fails if the examples or the views of a global batch depend on the processes."""
    source = sources[kind]
    recipe, run = recipe_for(source), {"batch_size": 8, "seed": 1}
    whole = list(islice(train_batches(source, recipe, **run), 4))
    parts = [
        islice(train_batches(source, recipe, process_index=p, process_count=2, **run), 4)
        for p in (0, 1)
    ]
    for batch, a, b in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(np.concatenate([a["index"], b["index"]]), batch["index"])
        for name in recipe:
            both = np.concatenate([a[name], b[name]])
            np.testing.assert_allclose(both, batch[name], atol=1e-5)


# Streams.


def test_stream_is_the_order_and_names_its_records(tmp_path, monkeypatch):
    """Fails if a record gets another's index, or windows, groups or shards another order."""
    monkeypatch.setattr(order, "WINDOW", 10)
    monkeypatch.setattr(order, "GROUP", 3)
    counts = [4, 9, 1, 6, 8, 3, 7]
    source = shards_of(tmp_path, counts)
    offsets = np.cumsum([0, *counts])
    view = recipes.crop_flip(4, area=(1.0, 1.0), **PLAIN)
    for p, count in ((0, 1), (1, 2)):
        run = {"process_index": p, "process_count": count, "seed": 2, "batch_size": 2 * count}
        steps = pipeline.steps_per_epoch(source, 2 * count, count)
        batches = list(islice(train_batches(source, view, **run), 2 * steps))
        got = [np.concatenate([b[key] for b in batches]) for key in ("index", "label")]
        want = []
        for epoch in (0, 1):
            read = []
            for pieces in order.stream_groups(2, epoch, counts, p, count):
                turns = range(max(counts))
                read += [offsets[s] + i for i in turns for s, _, n in pieces if i < n]
            shuffled = []
            for w in range(0, len(read), 10):
                window = np.array(read[w : w + 10])
                turn = order.window_permutation(2, epoch, w // 10, len(window), p)
                shuffled += window[turn].tolist()
            want += shuffled[: steps * 2]
        np.testing.assert_array_equal(got[0], want)
        np.testing.assert_array_equal(got[1], got[0] % 100)
        # The record itself, not only its number.
        pixels = np.concatenate([b["views"][:, 0, 1, 1, 0] for b in batches])
        np.testing.assert_allclose(pixels * 255, got[0], atol=1e-3)
    assert source.describe(5) == f"shards train, example 5 (record 1 of {tmp_path}/shard1)"
    assert records.read_record(source, 5) == encode(np.full((4, 5, 3), 5, np.uint8), "PNG")


def test_corrupt_shard_is_named(tmp_path):
    """Fails if a shard that cannot be read ends the data in silence, or with TensorFlow's error."""
    source = shards_of(tmp_path, [6, 6])
    data = bytearray((tmp_path / "shard1").read_bytes())
    data[1] ^= 255  # of the first length: the records that follow cannot be found
    (tmp_path / "shard1").write_bytes(data)
    with pytest.raises(ValueError, match=r"shards train cannot be read: .*/shard1 is cut or corru"):
        list(islice(train_batches(source, recipes.crop_flip(4), batch_size=4, seed=0), 6))
    with pytest.raises(ValueError, match="cannot be read"):
        list(eval_batches(source, EvalSpec(4, 4), batch_size=4))


# Decoding.

GOOD = {
    "jpeg": encode(FLOWER, subsampling=2),
    "progressive": encode(FLOWER, progressive=True),
    "grey jpeg": encode(FLOWER, mode="L"),
    "cmyk": encode(FLOWER, mode="CMYK"),
    "png": encode(FLOWER, "PNG"),
    "palette": encode(FLOWER, "PNG", "P"),
    "alpha": encode(FLOWER, "PNG", "RGBA"),
    "grey alpha": encode(FLOWER, "PNG", "LA"),
    "bmp": encode(FLOWER, "BMP"),
    "bmp alpha": encode(FLOWER, "BMP", "RGBA"),
    "bmp grey": encode(FLOWER, "BMP", "L"),
    "bmp palette": encode(FLOWER, "BMP", "P"),
    "gif": encode(FLOWER, "GIF", "P"),
    "gif animated": animated("GIF"),
    "tiff": encode(FLOWER, "TIFF"),
    "tiff packed": encode(FLOWER, "TIFF", compression="tiff_lzw"),
    "tiff alpha": encode(FLOWER, "TIFF", "RGBA"),
    "tiff grey": encode(FLOWER, "TIFF", "L"),
    "tiff bilevel": encode(FLOWER, "TIFF", "1"),
    "tiff pages": animated("TIFF"),
    "pgm": encode(FLOWER, "PPM", "L"),
    "jpeg 2000": encode(FLOWER, "JPEG2000"),
    "avif": encode(FLOWER, "AVIF"),
    "avif alpha": encode(translucent(), "AVIF", "RGBA"),
    "1x1": encode(FLOWER[:1, :1], "PNG"),
    "1x1 jpeg": encode(FLOWER[:1, :1]),
}
WEBP = {
    "webp": encode(FLOWER, "WEBP"),
    "webp lossless": encode(FLOWER, "WEBP", lossless=True),
    "webp alpha": encode(translucent(), "WEBP", "RGBA"),
    "webp lossless alpha": encode(translucent(), "WEBP", "RGBA", lossless=True),
    "webp animated": animated("WEBP"),
    "webp animated alpha": animated("WEBP", translucent()),
}
BAD = {
    "empty": (b"", "empty file"),
    "text": (b"hello, this is no image", "does not decode: not an image of a format that is read"),
    "cut gif": (encode(FLOWER, "GIF", "P")[:800], "does not decode: "),
    "cut tiff": (encode(FLOWER, "TIFF")[:800], "does not decode: "),
    "cut jpeg": (encode(FLOWER)[:500], "does not decode"),
    "cut header": (encode(FLOWER)[:20], "does not decode"),
    "cut png": (encode(FLOWER, "PNG")[:500], "does not decode"),
    "bomb": (pixel_bomb(), "20000x20000 px, more than 89478485"),
}


@pytest.mark.parametrize("name", [*GOOD, *WEBP])
def test_image_decodes_as_pillow_decodes_it(name):
    """Fails if the sizes, the channels or the box of this format are misread."""
    data = (GOOD | WEBP)[name]
    want = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    try:
        got = decode.decode_image(tf.constant(data), Decoding(3)).numpy()
    except tf.errors.InvalidArgumentError:
        if name in WEBP and tuple(map(int, tf.__version__.split(".")[:2])) < (2, 20):
            pytest.skip(f"TensorFlow {tf.__version__} does not read WebP")
        raise
    np.testing.assert_allclose(got, want, atol=1)
    assert [int(n) for n in decode.dimensions(tf.constant(data))] == list(want.shape[:2])
    if want.shape[0] > 1:
        image = decode.open_image(tf.constant(data), Decoding(3))
        box = decode.decode_box(image, (16, 10, 31, 40), Decoding(3))
        np.testing.assert_array_equal(box[1:-1, 1:-1], got[17:46, 11:49])
        np.testing.assert_allclose(box, got[16:47, 10:50].astype(int), atol=8)
    if name != "cmyk":
        grey = decode.decode_image(tf.constant(data), Decoding(1)).numpy()
        np.testing.assert_allclose(grey[..., 0], got @ [0.299, 0.587, 0.114], atol=10)


def test_sixteen_bits():
    """Fails if the low byte is kept."""
    deep = (RNG.integers(0, 256, (5, 6)) * 256 + 7).astype(np.uint16)
    data = io.BytesIO()
    Image.fromarray(deep).save(data, "PNG")
    got = decode.decode_image(tf.constant(data.getvalue()), Decoding(1))[..., 0]
    np.testing.assert_array_equal(got, deep // 256)


@pytest.mark.parametrize("name", BAD)
def test_bad_image_is_explained(name):
    """Fails if the reason is another, or a bomb is decoded to find it."""
    data, reason = BAD[name]
    assert re.match(reason, stream.what_is_wrong(data, Decoding(3)))
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
        decode.decode_image(tf.constant(data), Decoding(3))
    if name == "bomb":  # its header alone must do
        with pytest.raises(tf.errors.InvalidArgumentError, match="more than 89478485 pixels"):
            decode.dimensions(tf.constant(data))


def test_damaged_rows_keep_their_place(tmp_path):
    """Fails if a damaged image moves others, counts, or lends its index to the substitute.

    The substitute is the same good row in every group; seen with "views" alone substituted.
    """
    good = photos(12)
    bad = {f"{i:02}.jpg": data for i, (data, _) in enumerate(BAD.values())}
    whole = folder(tmp_path / "whole", good)
    holed = folder(tmp_path / "holed", good | dict(islice(bad.items(), 1, None, 3)))
    broken = [1, 4, 7]
    recipe = recipe_for(whole)
    a = islice(train_batches(whole, recipe, batch_size=6, seed=0), 5)
    b = list(islice(train_batches(holed, recipe, batch_size=6, seed=0), 5))
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x["index"], y["index"])
        np.testing.assert_array_equal(y["mask"] == 0, np.isin(y["index"], broken))
        for row in range(6):
            source = row
            while y["mask"][source] == 0:
                source = (source - 1) % 6
            for name in recipe:
                np.testing.assert_array_equal(y[name][row], x[name][source])
    resumed = train_batches(holed, recipe, batch_size=6, seed=0, position=18)
    equal(next(resumed), b[3])
    equal(next(resumed), b[4])
    assert why_damaged(holed, 1).startswith("does not decode")
    Path(holed.describe(7)).unlink()
    assert why_damaged(holed, 7) == "cannot be read: No such file or directory"


def test_substitute_takes_the_label_too(tmp_path):
    """Fails if a substituted row keeps the label of the damaged image, or takes the next row's."""
    rows = np.arange(5)
    batch = {
        "views": rows[:, None] * 1.0,
        "local": rows[:, None] * 2.0,
        "index": rows + 10,
        "label": rows + 20,
        "mask": np.array([0, 1, 0, 0, 1.0]),
    }
    got = substitute(open_source("digits"), batch)
    assert got["views"][:, 0].tolist() == [4, 1, 1, 1, 4]
    assert got["local"][:, 0].tolist() == [8, 2, 2, 2, 8]
    assert got["label"].tolist() == [24, 21, 21, 21, 24]
    assert got["index"].tolist() == [10, 11, 12, 13, 14]


def test_batch_without_a_good_image_stops(tmp_path):
    """Fails if a batch of nothing is trained on."""
    source = folder(tmp_path, {f"{i}.png": pixel_bomb() for i in range(4)})
    with pytest.raises(ValueError, match=r"None of the 4 images .*png: 20000x20000 px, more than"):
        next(train_batches(source, recipes.crop_flip(8), batch_size=4, seed=0))


# Evaluation.


def test_arrays_are_evaluated_in_order():
    """Fails if the NumPy way differs from TensorFlow's, or the last batch is cut."""
    source = open_source("digits", split="test").take(np.arange(25))
    view = EvalSpec(8, 8, (0.3,), (0.4,))
    batches = list(eval_batches(source, view, batch_size=10))
    assert [b["mask"].sum() for b in batches] == [10, 10, 5]
    joined = {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}
    assert joined["index"].tolist() == [*range(25), *[-1] * 5]
    assert joined["label"].tolist() == [*source.labels, *[-1] * 5]
    assert joined["views"].shape == (30, 1, 8, 8, 1)
    for i in range(25):
        want = host.eval_view(tf.constant(source.images[i]), view)
        np.testing.assert_allclose(joined["views"][i, 0], want, atol=1e-5)


def test_every_source_is_evaluated(sources, tmp_path):
    """Fails if a source's evaluation loses its order, its labels or its damaged rows."""
    found = {}
    for kind, source in sources.items():
        view = EvalSpec(10, 12, (0.3,) * source.channels, (0.4,) * source.channels)
        batches = found[kind] = list(eval_batches(source, view, batch_size=6))
        index = np.concatenate([b["index"] for b in batches])
        n = source.num_examples
        assert index[:n].tolist() == list(range(n)), kind
        assert sum(b["mask"].sum() for b in batches) == n
        assert all(b["views"].shape == (6, 1, 10, 10, source.channels) for b in batches)
        if kind == "stream":
            assert np.concatenate([b["label"] for b in batches])[:n].tolist() == list(range(n))
    source = sources["folder"]
    want = host.eval_view(whole_image(source, 20), view)
    np.testing.assert_allclose(found["folder"][3]["views"][2, 0], want, atol=1e-5)
    shutil.copytree(source.root, tmp_path / "train")
    shutil.copytree(source.root, tmp_path / "val")
    (tmp_path / "train" / "08.jpg").write_bytes(b"")
    holed = list(eval_batches(open_source("folder", str(tmp_path)), EvalSpec(10, 12), batch_size=6))
    assert [b["mask"].tolist() for b in holed[:2]] == [[1.0] * 6, [1, 1, 0, 1, 1, 1]]
    assert np.concatenate([b["index"] for b in holed])[:21].tolist() == list(range(21))


@pytest.mark.parametrize("kind", ["arrays", "scaled", "folder", "stream"])
def test_processes_share_an_evaluation(sources, kind):
    """Fails if an example is read twice or by nobody, or a process has fewer batches than others.

    Of the last batch the last process may have no row at all.
    """
    source = sources["arrays" if kind == "scaled" else kind]
    shape = (0.5,) * source.channels
    size = 8 if kind == "arrays" else 6
    batch_size = {"arrays": 16, "scaled": 24, "folder": 8, "stream": 28}[kind]
    evaluate = partial(eval_batches, source, EvalSpec(size, size, shape, shape))
    whole = list(evaluate(batch_size=batch_size))
    for count in (2, 4):
        shares = [
            list(evaluate(batch_size=batch_size, process_index=p, process_count=count))
            for p in range(count)
        ]
        assert {len(s) for s in shares} == {len(whole)}
        for k, batch in enumerate(whole):
            equal({name: np.concatenate([s[k][name] for s in shares]) for name in batch}, batch)


def test_marked_arrays_are_damaged_rows():
    """Fails if `intact` is dropped in training or evaluation."""
    intact = np.arange(20) % 5 != 0
    images = RNG.integers(0, 256, (20, 8, 8, 3), np.uint8)
    source = Source("marked", 20, 3, images=images, intact=intact)
    batch = next(train_batches(source, recipes.crop_flip(8), batch_size=20, seed=0))
    np.testing.assert_array_equal(batch["mask"] == 1, intact[batch["index"]])
    assert set(batch["label"]) == {-1}
    for resize in (8, 9):
        (batch,) = eval_batches(source, EvalSpec(8, resize), batch_size=20)
        np.testing.assert_array_equal(batch["mask"] == 1, intact)


# What is refused, before anything is read.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 51}, r"batch_size is 51, more than the 50 examples of digits train"),
        ({"batch_size": 0}, r"batch_size is 0 .* expected a positive multiple"),
        ({"batch_size": 9, "process_count": 2}, r"batch_size is 9 with 2 processes"),
        ({"position": 5}, r"position is 5; expected a multiple of the batch size 10"),
        ({"process_index": 1}, r"process_index is 1; expected 0 to 0"),
        ({"recipe": {}}, r"The recipe has the view groups none; expected 'views' first"),
        ({"recipe": recipes.byol(8)}, r"views have 3 channels and digits train has 1; .* 1 values"),
    ],
)
def test_bad_arguments_are_refused_at_once(sources, change, message):
    """Fails if the error comes with the first batch only, or not at all."""
    arguments = {"recipe": recipes.digits(8), "batch_size": 10, "seed": 0} | change
    for on_device in (False, True):
        with pytest.raises(ValueError, match=message):
            train_batches(sources["arrays"], on_device=on_device, **arguments)


def test_eval_and_streams_refuse(sources):
    """Fails if evaluation takes other channels, or a process may be left without records."""
    with pytest.raises(ValueError, match="views have 3 channels"):
        eval_batches(sources["arrays"], EvalSpec(8, 8), batch_size=10)
    with pytest.raises(ValueError, match="batch_size is 0"):
        eval_batches(sources["folder"], EvalSpec(8, 8), batch_size=0)
    with pytest.raises(ValueError, match=r"5 shards of 3 to 9 records, too few for 8 processes"):
        pipeline.steps_per_epoch(sources["stream"], 8, 8)


# Views on the device: what the host still does.


@pytest.mark.parametrize("kind", ["folder", "stream"])
def test_cuts_for_the_device_are_the_hosts_crops(sources, kind):
    """Fails if the cut differs from what the host's own views begin with, or is not rounded."""
    plain = recipes.multi_crop(12, small=7, count=2, flip=0.0, jitter=0.0, **OFF)
    run = {"batch_size": 4, "seed": 3, "threads": 2}
    ours = list(islice(train_batches(sources[kind], plain, on_device=True, **run), 7))
    theirs = list(islice(train_batches(sources[kind], plain, **run), 7))
    for cut, made in zip(ours, theirs, strict=True):
        assert cut.keys() == made.keys()
        for name in plain:
            assert cut[name].dtype == np.uint8
            np.testing.assert_allclose(cut[name] / 255, made[name], rtol=0, atol=0.5 / 255 + 1e-6)
        for key in ("index", "label", "mask"):
            np.testing.assert_array_equal(cut[key], made[key])


def test_the_windows_of_all_sizes_come_from_one_decode(monkeypatch):
    """Fails if a group decodes the image again, or the box lacks a part of a window.

    Seen with one call of `decode_box` per group, with a box of the large views only, and with crops
    taken at their place in the whole image.
    """
    boxes, decode_box = [], decode.decode_box

    def counted(image, box, how):
        boxes.append([int(n) for n in box])
        return decode_box(image, box, how)

    monkeypatch.setattr(decode, "decode_box", counted)
    data = tf.constant(encode(FLOWER, "PNG"))
    recipe = recipes.multi_crop(20, small=9, count=4, area=(0.05, 0.15))
    u = host.uniforms(0, 0, 2, 6)  # no window at the top or left; on all sides a small one is last
    crops = decode.decode_crops(data, recipe, u, Decoding(3))
    specs = recipe["views"] + recipe["local"]
    windows = [host.crop_window(s, u[i], 64, 90) for i, s in enumerate(specs)]
    edges = np.array([(y, x, y + h, x + w) for y, x, h, w in windows])
    (top, left), (bottom, right) = edges[:, :2].min(0), edges[:, 2:].max(0)
    large = [*edges[:2, :2].min(0), *edges[:2, 2:].max(0)]
    assert 0 < top < large[0]
    assert 0 < left < large[1]
    assert bottom > large[2]
    assert right > large[3]
    assert boxes == [[top, left, bottom - top, right - left]]
    made = [crop for name in ("views", "local") for crop in crops[name]]
    for crop, window, spec in zip(made, windows, specs, strict=True):
        want = host.crop_resize(tf.constant(FLOWER), window, spec.size)
        np.testing.assert_allclose(crop, want, atol=1e-5)


def test_whole_images_for_the_device(sources):
    """Fails if images in memory are cut, or come in another order than the views of the host."""
    digits = sources["arrays"]
    run = {"batch_size": 5, "seed": 3, "position": 35}
    ours = train_batches(digits, recipe_for(digits), on_device=True, **run)
    theirs = train_batches(digits, recipe_for(digits), **run)
    rows = pipeline.row_batches(digits, **run)
    for whole, made, row in islice(zip(ours, theirs, rows, strict=False), 22):
        assert set(whole) == {"image", "index", "label", "mask"}
        np.testing.assert_array_equal(whole["image"], digits.images[whole["index"]])
        assert whole["image"].dtype == np.uint8
        np.testing.assert_array_equal(row["row"], whole["index"])
        for key in ("index", "label", "mask"):
            np.testing.assert_array_equal(whole[key], made[key])
            np.testing.assert_array_equal(row[key], made[key])
            assert whole[key].dtype == row[key].dtype == made[key].dtype


def test_rows_of_damaged_images_are_read_elsewhere():
    """Fails if the row of an image that did not decode is its own, or it counts."""
    intact = np.arange(20) % 5 != 0
    images = RNG.integers(0, 256, (20, 8, 8, 3), np.uint8)
    source = Source("marked", 20, 3, images=images, intact=intact)
    run = {"batch_size": 10, "seed": 0}
    whole = train_batches(source, recipes.crop_flip(8), on_device=True, **run)
    for batch, found in islice(zip(pipeline.row_batches(source, **run), whole, strict=False), 3):
        bad = ~intact[batch["index"]]
        np.testing.assert_array_equal(batch["mask"] == 0, bad)
        np.testing.assert_array_equal(batch["row"] != batch["index"], bad)
        assert intact[batch["row"]].all()
        np.testing.assert_array_equal(found["image"], images[batch["row"]])


def test_a_damaged_image_is_cut_by_nobody(tmp_path):
    """Fails if the row of an image that does not decode holds anything but a good one's views."""
    source = folder(tmp_path, {**photos(7), "03.jpg": b"no image"})
    recipe = recipe_for(source)
    bad = next(i for i, p in enumerate(source.paths) if "03" in str(p))
    for batch in islice(train_batches(source, recipe, batch_size=7, seed=0, on_device=True), 2):
        assert batch["index"][batch["mask"] == 0].tolist() == [bad]
        for name in recipe:
            assert batch[name].any((1, 2, 3, 4)).all()


@pytest.mark.parametrize("kind", ["folder", "encoded", "stream"])
def test_everything_decoded(sources, kind):
    """Fails if an image or label is missing, moved, or differs from the evaluation's."""
    source = sources[kind]
    ours = pipeline.decode_all(source, 10)
    assert not ours.is_stream
    assert ours.images.shape == (source.num_examples, 10, 10, 3)
    assert ours.intact.all()
    spec10 = EvalSpec(10, 10, **PLAIN)
    for batch in eval_batches(source, spec10, batch_size=4):
        real = batch["index"] >= 0
        index = batch["index"][real]
        np.testing.assert_array_equal(ours.labels[index], batch["label"][real])
        np.testing.assert_allclose(
            ours.images[index] / 255, batch["views"][real, 0], rtol=0, atol=0.5 / 255 + 1e-6
        )
    assert pipeline.decode_all(ours, 99) is ours
    assert ours.describe(3) == source.describe(3)
