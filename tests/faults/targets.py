"""What the fuzz run feeds with damaged input: each target prepares good files, then spoils copies.

A target is (prepare, case): `prepare(folder)` gives what all cases share; `case(shared, folder,
draw)` spoils one input and lets the project read it. It returns how many inputs that were, or
raises what the project raised; a wrong result in silence is an AssertionError.
"""

import dataclasses
import io
import json
import random
import shutil
from pathlib import Path

import mutate
import numpy as np
from command_line import overrides, prepare_overrides

IMAGES_A_CASE = 96


def _good_images():
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photo = Image.fromarray(load_sample_images().images[1]).resize((60, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    moving = {"save_all": True, "append_images": [photo.rotate(180)]}
    kinds = [
        ("JPEG", "RGB", {"exif": exif}),
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("PNG", "RGB", {}),
        ("PNG", "P", {}),
        ("PNG", "LA", {}),
        ("PNG", "I;16", {}),
        ("BMP", "RGB", {}),
        ("BMP", "L", {}),
        ("WEBP", "RGB", {}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("GIF", "P", {}),
        ("GIF", "P", moving),
        ("WEBP", "RGBA", moving),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("TIFF", "RGBA", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", "I;16", {}),
        ("TIFF", "CMYK", moving),
        ("TIFF", "1", {"compression": "group4"}),
        ("PPM", "I;16", {}),
        ("JPEG2000", "RGB", {}),
        ("AVIF", "RGB", {}),
    ]
    found = []
    for kind, mode, options in kinds:
        file = io.BytesIO()
        (photo.convert("L") if mode == "I;16" else photo).convert(mode).save(file, kind, **options)
        found.append(file.getvalue())
    return found


def prepare_images(folder):
    """Encoded images, and the views of the one that is never spoilt."""
    images = _good_images()
    (folder / "train").mkdir(parents=True)
    (folder / "val").mkdir()
    (folder / "val" / "x.png").write_bytes(images[4])
    shared = {"images": images}
    shared["good"] = _read_images(folder, [images[4]] * 2, batch=2)[0]
    return shared


def _read_images(folder, files, batch, **options):
    """The rows that evaluation and training give of the first file, and which rows count."""
    from byol_jax.data.opening import open_source
    from byol_jax.data.pipeline import eval_batches, train_batches
    from byol_jax.data.rows import why_damaged
    from byol_jax.views import recipes, spec

    shutil.rmtree(folder / "train")
    (folder / "train").mkdir()
    for i, data in enumerate(files):
        (folder / "train" / f"{i:03}.jpg").write_bytes(data)
    source = open_source("folder", str(folder), **options)
    recipe = recipes.crop_flip(8, jitter=0.0, flip=0.0, brightness=0.0, contrast=0.0)
    train = next(train_batches(source, recipe, batch_size=batch, seed=0))
    assert sorted(train["index"]) == list(range(batch)), "rows are missing"
    seen = list(eval_batches(source, spec.EvalSpec(8, 8), batch_size=batch))
    evaluated = {k: np.concatenate([b[k] for b in seen]) for k in seen[0]}
    assert evaluated["index"].tolist() == list(range(batch)), "rows are missing"
    for rows in (train, evaluated):
        assert np.isfinite(rows["views"]).all()
        for index in rows["index"][rows["mask"] == 0].tolist():
            reason = why_damaged(source, index)
            assert reason
            assert "\n" not in reason, reason
    assert train["mask"][train["index"] == 0] == 1, "a good image does not count"
    return evaluated["views"][0], evaluated["mask"]


def images(shared, folder, draw):
    """Spoilt image files beside a good one: through a folder source to both kinds of batch."""
    files = [shared["images"][4]]
    for _ in range(IMAGES_A_CASE):
        data, other = draw.choice(shared["images"]), draw.choice(shared["images"])
        files.append(mutate.mutate_image(draw, data, other))
    options = {"orient": draw.random() < 0.5, "bits": draw.choice([0, 12])}
    first, mask = _read_images(folder, files, len(files), **options)
    assert mask[0] == 1
    np.testing.assert_array_equal(first, shared["good"])
    return IMAGES_A_CASE


def prepare_records(folder):
    """Serialised examples."""
    import tensorflow as tf

    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for i, image in enumerate(_good_images()[4:7] * 12):
        features = {
            "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
            "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[i])),
        }
        example = tf.train.Example(features=tf.train.Features(feature=features))
        records.append(example.SerializeToString())
    return records


def records(shared, folder, draw):
    """A spoilt shard beside a good one, read as a stream and at once."""
    from byol_jax.data import pipeline, records, rows, tfrecord
    from byol_jax.data.source import Shard, Source
    from byol_jax.views import recipes, spec

    tfrecord.record_offsets.cache_clear()
    paths = [folder / "good", folder / "spoilt"]
    paths[0].write_bytes(b"".join(map(mutate.frame, shared)))
    spoilt = list(map(mutate.frame, shared))
    torn = draw.random() < 0.4  # lengths too: then one is enough to end the file
    chosen = draw.sample(range(len(spoilt)), 1 if torn else 24)
    for at in chosen:
        if torn and draw.random() < 0.5:
            spoilt[at] = mutate.frame(shared[at], draw.choice(mutate.EXTREMES))
        elif torn:
            spoilt[at] = mutate.mutate(draw, spoilt[at])
        elif draw.random() < 0.3:
            head, body = spoilt[at][:12], mutate.mutate(draw, spoilt[at][12:])
            spoilt[at] = head + body.ljust(len(spoilt[at]) - 12, b"x")[: len(spoilt[at]) - 12]
        else:
            spoilt[at] = mutate.frame(mutate.mutate(draw, shared[at], shared[at - 1]))
    data = b"".join(spoilt)
    paths[1].write_bytes(data[: draw.randrange(len(data))] if draw.random() < 0.1 else data)
    shards = tuple(Shard(str(p), len(shared)) for p in paths)
    n = 2 * len(shared)
    source = Source("fuzz train", n, 3, classes=len(shared), shards=shards)
    loaded, _ = records._load(source, (None, None, 3))
    batches = list(pipeline.eval_batches(source, spec.EvalSpec(8, 8), batch_size=n))
    assert len(batches) == 1
    assert batches[0]["index"].tolist() == list(range(n))
    assert batches[0]["mask"][: len(shared)].all(), "good records do not count"
    assert batches[0]["label"][: len(shared)].tolist() == list(range(len(shared)))
    assert loaded.labels.tolist() == batches[0]["label"].tolist()
    for index in np.flatnonzero(batches[0]["mask"] == 0).tolist():
        assert "\n" not in rows.why_damaged(source, index)
    if draw.random() < 0.2:  # to trace it takes a while
        next(pipeline.train_batches(source, recipes.crop_flip(8), batch_size=n, seed=0))
    return len(chosen)


def prepare_npz(folder):
    """Members of an archive: their header's text and their bytes."""
    folder.mkdir(parents=True, exist_ok=True)

    def member(kind, shape, body):
        header = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}\n"
        return header.encode(), body

    pixels = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), np.uint8)
    return {
        "images.npy": member("|u1", pixels.shape, pixels.tobytes()),
        "labels.npy": member("<i8", (20,), np.arange(20).tobytes()),
    }


def npz(shared, folder, draw):
    """A spoilt .npz file."""
    from byol_jax.data.opening import open_source

    path = folder / "x.npz"
    path.write_bytes(mutate.npz(draw, shared))
    open_source("npz", str(path))
    return 1


def _small_encoder():
    import jax

    from byol_jax.models import make_encoder

    encoder = make_encoder("tiny", width=0.25, channels=1)
    image = jax.ShapeDtypeStruct((1, 1, 8, 8, 1), np.float32)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), image)
    random_ = np.random.default_rng(0)
    trees = jax.tree.map(lambda x: random_.random(x.shape).astype(np.float32) + 0.5, shapes)
    return encoder, *trees


def prepare_config(folder):
    """The JSON of a config, beside checkpoints."""
    from byol_jax.config import default_config
    from byol_jax.config_file import save_config

    folder.mkdir(parents=True, exist_ok=True)
    save_config(default_config(), folder / "config.json")
    return (folder / "config.json").read_text()


def config(shared, folder, draw):
    """A spoilt config.json of a run."""
    from byol_jax.config import flatten, resolve
    from byol_jax.config_file import load_config, save_config
    from byol_jax.experiment.methods import build_encoder
    from byol_jax.experiment.views import build_views

    text = mutate.mutate_json(draw, shared)
    if draw.random() < 0.2:
        text = mutate.mutate(draw, shared.encode())
    (folder / "config.json").write_bytes(text)
    loaded = resolve(load_config(folder / "config.json"))
    build_views(loaded, 3)
    build_encoder(loaded, 3)
    save_config(loaded, folder / "again.json")
    assert flatten(resolve(load_config(folder / "again.json"))) == flatten(loaded)
    return 1


def prepare_checkpoint(folder):
    """A run folder with a small checkpoint, and an export of the same encoder."""
    from byol_jax.checkpoint import Checkpoints
    from byol_jax.convert.info import EncoderInfo
    from byol_jax.convert.native import save_encoder
    from byol_jax.core import TrainState
    from byol_jax.run_folder import read_run

    encoder, params, stats = _small_encoder()
    info = EncoderInfo(encoder.config, 8, (0.3,), (0.4,), method="byol")
    prepare_config(folder / "run")
    saved = Checkpoints(folder / "run")
    extra = {"stats": {"encoder": stats}}
    state = TrainState(np.int32(1), np.int32(8), {"encoder": params}, extra, ())
    location = {"params": "params/encoder/", "stats": "extra/stats/encoder/"}
    meta = {"encoder": dataclasses.asdict(info), "location": location, "damaged": []}
    saved.save(1, state, meta)
    saved.wait()
    saved.close()
    save_encoder(folder / "export", params, stats, info)
    return {"folder": folder, "arrays": _leaves(read_run(folder / "run"))}


def _leaves(run):
    import jax

    return [np.asarray(x) for x in jax.tree.leaves((run.params, run.stats))]


def checkpoint(shared, folder, draw):
    """Spoilt files of a run or an export; half of the time their manifest is made to agree."""
    from byol_jax.convert.load import read_encoder
    from byol_jax.manifest import write_manifest
    from byol_jax.run_folder import read_run

    kind = draw.choice(("run", "export"))
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(shared["folder"] / kind, work)
    root = work / "checkpoints" / "1" if kind == "run" else work
    files = sorted(p for p in root.rglob("*") if p.is_file())
    described = [
        p for p in files if p.suffix == ".json" or "METADATA" in p.name or "meta" in p.name
    ]
    path = draw.choice(described if draw.random() < 0.6 else files)
    _spoil(path, draw, files)
    forged = draw.random() < 0.5
    if forged and path.name != "manifest.json":
        (root / "manifest.json").unlink(missing_ok=True)
        write_manifest(root)
    if kind == "run":
        got = _leaves(read_run(work))
    else:
        _, params, stats, _ = read_encoder(work)
        import jax

        got = [np.asarray(x) for x in jax.tree.leaves((params, stats))]
    if not forged:
        assert len(got) == len(shared["arrays"]), "another tree in silence"
        for a, b in zip(got, shared["arrays"], strict=True):
            np.testing.assert_array_equal(a, b)
    return 1


def _spoil(path, draw, files):
    """Change, remove, or replace one file."""
    kind = draw.randrange(12)
    if kind == 0:
        path.unlink()
    elif kind == 1:
        path.unlink()
        path.symlink_to(draw.choice(("/etc/passwd", "../../..", path.name, "/dev/zero")))
    elif kind == 2:
        path.unlink()
        path.mkdir()
    else:
        data = path.read_bytes()
        try:
            json.loads(data)
            data = mutate.mutate_json(draw, data.decode())
        except ValueError:
            data = mutate.mutate(draw, data, draw.choice(files).read_bytes())
        path.write_bytes(data)


def prepare_safetensors(folder):
    """A timm export of a small ResNet."""
    import jax

    from byol_jax.convert.info import EncoderInfo
    from byol_jax.convert.timm import save_timm
    from byol_jax.models import make_encoder

    encoder = make_encoder("resnet18")
    image = jax.ShapeDtypeStruct((1, 1, 64, 64, 3), np.float32)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), image)
    trees = jax.tree.map(lambda x: np.full(x.shape, 0.5, np.float32), shapes)
    info = EncoderInfo(encoder.config, 32, (0.5,) * 3, (0.2,) * 3, method="byol")
    save_timm(folder / "timm", *trees, info)
    return {
        "config": (folder / "timm" / "config.json").read_text(),
        "weights": (folder / "timm" / "model.safetensors").read_bytes(),
    }


def safetensors(shared, folder, draw):
    """Spoilt weights whose sum is made to agree, or a spoilt config.json."""
    import hashlib

    from byol_jax.convert.load import read_encoder

    work = folder / "timm"
    text, weights = shared["config"].encode(), shared["weights"]
    if draw.random() < 0.7:
        weights = mutate.safetensors(draw, weights)
        values = json.loads(text)
        values["byol_jax"]["sha256"] = hashlib.sha256(weights).hexdigest()
        text = json.dumps(values).encode()
    else:
        text = mutate.mutate_json(draw, shared["config"])
    (work / "config.json").write_bytes(text)
    (work / "model.safetensors").write_bytes(weights)
    read_encoder(work)
    return 1


TARGETS = {
    "images": (prepare_images, images),
    "records": (prepare_records, records),
    "npz": (prepare_npz, npz),
    "config": (prepare_config, config),
    "checkpoint": (prepare_checkpoint, checkpoint),
    "safetensors": (prepare_safetensors, safetensors),
    "overrides": (prepare_overrides, overrides),
}


def run_case(target: str, shared, folder: Path, seed: int, number: int) -> int:
    """One case, a function of its seed and number; returns how many inputs it was."""
    return TARGETS[target][1](shared, folder, random.Random(f"{target} {seed} {number}"))
