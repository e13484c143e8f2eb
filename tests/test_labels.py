"""Few labels: lists of images, and equal draws."""

import numpy as np
import pytest
from conftest import mini_encoder
from test_results import pictures, tiny

from byol_jax.config import resolve
from byol_jax.data.labels import balanced, named_in
from byol_jax.data.opening import open_source
from byol_jax.data.source import Shard, Source
from byol_jax.experiment import trained
from byol_jax.experiment.build import open_data
from byol_jax.experiment.evaluation import EvalData
from byol_jax.run_folder import RunEncoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("labels")
    pictures(found, {"train/a": 5, "train/b": 4, "test/a": 1, "test/b": 1})
    (found / "train/b/00.png").rename(found / "train/b/only.png")
    return found


def listed(folder, *lines):
    (folder / "ids.txt").write_text("\n".join(lines))
    return str(folder / "ids.txt")


def test_a_list_names_the_training_images(folder):
    """Fails if another image is taken, the test part is cut too, or a label goes astray."""
    config = tiny(folder)
    config.data.ids_file = listed(folder, "b/03.png", "", "only", "a/01", "a/00.png")
    config = resolve(config)
    train, test = (open_data(config, part) for part in ("train", "test"))
    assert train.paths.tolist() == ["a/00.png", "a/01.png", "b/03.png", "b/only.png"]
    assert train.labels.tolist() == [0, 0, 1, 1]
    assert (train.classes, test.num_examples) == (2, 2)
    whole = open_source("folder", str(folder))
    assert train.digest != whole.digest
    assert "the 4 examples of" in train.notes[-1]
    digits = open_source("digits")
    few = named_in(digits, listed(folder, "1296", "7"))
    np.testing.assert_array_equal(few.images, digits.images[[7, 1296]])


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        (("a/77",), "names 'a/77', which is no image of .* such as 'a/00.png'"),
        (("a/01", "02"), "names '02', which is several images of"),
        (("a/01", "a/01.png"), r"names 'a/01.png' twice \(as 'a/01' too\)"),
        (("", " "), "is empty; expected one example per line"),
    ],
)
def test_a_wrong_list_is_refused(folder, lines, match):
    """Fails if a name is passed over, or taken for one of several images."""
    with pytest.raises(ValueError, match=match):
        named_in(open_source("folder", str(folder)), listed(folder, *lines))


def test_no_list_and_streams_are_refused(folder):
    """Fails if a missing file is taken for an empty list, or a stream is read in full."""
    with pytest.raises(ValueError, match=r"gone.txt cannot be read \(.*No such file"):
        named_in(open_source("folder", str(folder)), str(folder / "gone.txt"))
    stream = Source("imagenet2012 train", 9, 3, classes=3, shards=(Shard("x", 9),))
    with pytest.raises(ValueError, match="imagenet2012 train is read as a stream"):
        named_in(stream, str(folder / "ids.txt"))
    with pytest.raises(ValueError, match="needs the labels of all images"):
        balanced(stream, 0.1, 0)


def labelled(counts):
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    images = np.zeros((len(labels), 1, 1, 1), np.uint8)
    return Source("some", len(labels), 1, classes=len(counts), labels=labels, images=images)


def test_a_small_draw_is_part_of_a_larger_one():
    """Fails if classes are drawn unequally, or 1% is not inside 10%."""
    source = labelled([500, 300, 197, 3])
    rows = {}
    for share in (0.01, 0.1, 0.5):
        for seed in (0, 1):
            part = balanced(source, share, seed)
            each = round(share * 250)
            found = np.bincount(part.labels, minlength=4).tolist()
            assert found == [min(each, n) for n in (500, 300, 197, 3)]
            rows[share, seed] = set(part.rows.tolist())
        assert rows[share, 0] != rows[share, 1]
    assert rows[0.01, 0] < rows[0.1, 0] < rows[0.5, 0]
    drawn = [set(source.hold_out(share, 3)[1].rows.tolist()) for share in (0.01, 0.1)]
    assert drawn[0] < drawn[1]
    with pytest.raises(ValueError, match="less than one image for each of its 4 classes"):
        balanced(source, 0.001, 0)


def test_fine_tuning_takes_the_draw_that_is_asked_for(monkeypatch):
    """Fails if `eval.label_balance` is ignored, or taken without being asked for."""
    config, source = tiny("", "digits"), labelled([40, 10])
    config.eval.label_fraction = 0.2
    seen = []
    monkeypatch.setattr(
        trained, "train_classifiers", lambda run, data, train, frozen: seen.append(train) or {}
    )
    data = EvalData(config, source, source, None, None, None, ())
    for balance in (True, False):
        config.eval.label_balance = balance
        trained.run_finetune(RunEncoder(config, mini_encoder(), {}, {}, None, {}), data)
    assert np.bincount(seen[0].labels).tolist() == [5, 5]
    assert seen[1].num_examples == 10
    assert np.bincount(seen[1].labels).tolist() != [5, 5]
