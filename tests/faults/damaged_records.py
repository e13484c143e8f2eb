"""Damage 1% of real data in each of many ways, in every form, and print the outcome as a table.

    python tests/faults/damaged_records.py --tfds DIR --name cifar10 --images FOLDER

DIR holds a tfds data set of one image size, FOLDER JPEG files. Every row that was not damaged must
come in its place and bit for bit as without damage: in evaluation, in training with views on the
host and on the device, and as resident data.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import damage  # noqa: E402
import tensorflow as tf  # noqa: E402

from byol_jax.data import pipeline  # noqa: E402
from byol_jax.data.records import open_tfds  # noqa: E402
from byol_jax.data.source import Decoding  # noqa: E402

NONE = "nothing"


def row(form, fault, tried, counts, expected, lost, ok):
    """One line of the table; `counts` by way of reading."""
    shown = "/".join(str(n) for n in dict.fromkeys(counts))
    mark = "yes" if ok else "**NO**"
    print(f"| {fault} | {form} | {tried} | {shown} | {expected} | {mark} | {lost} |", flush=True)
    return ok


def judge(form, source, before, size, rows, must):
    """Read a set in which each fault has rows of its own, and print a line for each."""
    after = damage.read(source, size)
    masked = damage.compare(source, before, after, set().union(*rows.values()))
    results = []
    for fault, chosen in rows.items():
        counts = [len(m & chosen) for m in masked.values()]
        ok = all(m & chosen == must[fault] for m in masked.values())
        lost = f"{max(counts)} images" if max(counts) else NONE
        results.append(row(form, fault, len(chosen), counts, len(must[fault]), lost, ok))
    return results


def divided(faults, count, share):
    """Rows for each fault, at random: a share of the whole for each, none for two."""
    each = max(2, round(count * share))
    drawn = iter(random.Random(0).sample(range(count), each * len(faults)))
    return {fault: {next(drawn) for _ in range(each)} for fault in faults}


def folder_rows(folder, size, share):
    """The table's rows for a folder of JPEG files."""
    suffixes = (".jpg", ".jpeg", ".png")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes)
    files = {p.name: p.read_bytes() for p in found}
    names = list(files)
    faults = [*damage.IMAGE_FAULTS, *damage.FILE_FAULTS]
    rows = divided(faults, len(names), share)
    must, spoilt = {}, {}
    for fault, chosen in rows.items():
        kind, spoil = damage.IMAGE_FAULTS.get(fault, (damage.ALWAYS, None))
        for i in chosen:
            old = files[names[i]]
            spoilt[names[i]] = spoil(old) if spoil else damage.FILE_FAULTS[fault]
        must[fault] = _must(kind, chosen, lambda i: spoilt[names[i]])
    with tempfile.TemporaryDirectory() as root:
        good = damage.write_folder(Path(root, "good"), files)
        before = damage.read(good, size)
        source = damage.write_folder(Path(root, "bad"), files | spoilt)
        (Path(root, "bad") / "train" / "zz.jpg").mkdir()  # a folder is no image
        locked = "file: not to be read"
        if _readable(Path(root, "bad", "train", names[min(rows[locked])])):
            must[locked] = _must(damage.ALWAYS, rows[locked], None)  # text: it does not decode
        return judge("folder", source, before, size, rows, must)


def _must(kind, chosen, image):
    if kind == damage.PERHAPS:
        return {i for i in chosen if damage.codec_fails(image(i))}
    return set(chosen) if kind == damage.ALWAYS else set()


def _readable(path):
    try:
        path.read_bytes()
    except OSError:
        return False
    return True


def record_rows(tfds_dir, name, count, share):
    """The table's rows for TFRecord files, read as a stream and into memory."""
    source = open_tfds(name, tfds_dir, "train", Decoding(3), in_memory=False)
    images, labels = [], []
    for shard in source.shards:
        for raw in tf.data.TFRecordDataset(shard.path).take(count - len(images)):
            feature = tf.train.Example.FromString(raw.numpy()).features.feature
            images.append(feature["image"].bytes_list.value[0])
            labels.append(int(feature["label"].int64_list.value[0]))
    shape = tuple(tf.io.decode_image(images[0]).shape)
    good = damage.framed(images, labels)
    faults = [*damage.IMAGE_FAULTS, *damage.RECORD_FAULTS]
    rows = divided(faults, len(images), share)
    must, spoilt = {}, list(good)
    for fault, chosen in rows.items():
        kind, spoil = (damage.IMAGE_FAULTS | damage.RECORD_FAULTS)[fault]
        for i in chosen:
            if fault in damage.RECORD_FAULTS:
                spoilt[i] = spoil(images[i], labels[i])
            else:
                spoilt[i] = damage.framed([spoil(images[i])], [labels[i]])[0]
        must[fault] = _must(kind, chosen, lambda i, s=spoil: s(images[i]))
    forms = {
        "stream": lambda s: s,
        "memory, decoded": lambda s: damage.in_memory(s, shape),
        "memory, encoded": lambda s: damage.in_memory(s, (None, None, 3)),
    }
    results = []
    with tempfile.TemporaryDirectory() as root:
        stream = damage.write_shards(Path(root, "good"), good, source.classes)
        for form, make in forms.items():
            before = damage.read(make(stream), shape[0])
            bad = damage.write_shards(Path(root, form), spoilt, source.classes)
            results += judge(form, make(bad), before, shape[0], rows, must)
        results += _shard_rows(Path(root), good, source.classes, forms)
    return results


def _shard_rows(root, good, classes, forms):
    results = []
    for fault, spoil in damage.SHARD_FAULTS.items():
        bad = damage.write_shards(root / "bad", good, classes)
        path = Path(bad.shards[1].path)
        path.write_bytes(spoil(path.read_bytes()))
        for form, make in forms.items():
            try:
                list(pipeline.eval_batches(make(bad), damage.spec.EvalSpec(32, 32), batch_size=50))
                said = "no error"
            except ValueError as e:
                said = str(e)
            ok = str(path) in said and "\n" not in said
            lost = "all: an error names the shard" if ok else said
            results.append(row(form, fault, 1, ["error"], "error", lost, ok))
        shutil.rmtree(root / "bad")
    return results


def main() -> int:
    """The command line: 1 if anything was not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tfds", default="", help="tfds data_dir")
    parser.add_argument("--name", default="cifar10")
    parser.add_argument("--records", type=int, default=2000, help="the first of the train split")
    parser.add_argument("--images", default="", help="folder of JPEG files")
    parser.add_argument("--size", type=int, default=64, help="px of the views of the folder")
    parser.add_argument("--share", type=float, default=0.01)
    args = parser.parse_args()
    started, results = time.monotonic(), []
    print("| fault | form | damaged | counted | expected | named, order kept | lost |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    if args.images:
        results += folder_rows(Path(args.images), args.size, args.share)
    if args.tfds:
        results += record_rows(args.tfds, args.name, args.records, args.share)
    wrong = len(results) - sum(results)
    print(f"\n{len(results)} rows, {wrong} wrong, {time.monotonic() - started:.0f} s")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
