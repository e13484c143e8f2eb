"""The transfer sets that are at hand, each by its own figure."""

import json
import shutil

import numpy as np
import pytest
from test_elsewhere import exported
from test_multilabel import voc
from test_results import one_device, pictures  # noqa: F401

from byol_jax.convert.native import save_encoder
from byol_jax.data.facts import TRANSFER
from byol_jax.evaluate import config_for_export, evaluate, table
from byol_jax.experiment import suite
from byol_jax.faults import Diverged

# (train with validation, test, classes, metric), in the order of the papers' tables.
PUBLISHED = {
    "Food-101": (75750, 25250, 101, "top1"),
    "CIFAR-10": (50000, 10000, 10, "top1"),
    "CIFAR-100": (50000, 10000, 100, "top1"),
    "Birdsnap": (47386, 2443, 500, "top1"),
    "SUN397": (19850, 19850, 397, "top1"),
    "Cars": (8144, 8041, 196, "top1"),
    "Aircraft": (6667, 3333, 100, "per_class"),
    "VOC2007": (5011, 4952, 20, "map11"),
    "DTD": (3760, 1880, 47, "top1"),
    "Pets": (3680, 3669, 37, "per_class"),
    "Caltech-101": (3060, 6085, 102, "per_class"),
    "Flowers": (2040, 6149, 102, "per_class"),
}


def test_the_twelve_are_the_published():
    """Fails if a size, a metric or the order changes."""
    found = {f.title: (f.train, f.test, f.classes, f.metric) for f in TRANSFER.values()}
    assert found == PUBLISHED
    assert list(found) == list(PUBLISHED)


@pytest.mark.usefixtures("quick")
def test_sets_at_hand_are_judged_and_others_named(tmp_path, capsys, monkeypatch):
    """Fails if a set has another set's figure or data, what is missing is passed over, an image
    that cannot be read moves the labels of others, or a set that is done is not kept.
    """
    data = tmp_path / "data"
    pictures(data / "flowers102/train", {"a": 6, "b": 6})
    pictures(data / "flowers102/test", {"a": 9, "b": 2}, 1)
    pictures(data / "mine/train", {"x": 5, "y": 5, "z": 5}, 2)
    pictures(data / "mine/test", {"x": 3, "y": 3, "z": 3}, 3)
    shutil.copy(data / "mine/train/y/02.png", data / "mine/test/x/00.png")
    (data / "other/images").mkdir(parents=True)
    voc(data / "voc2007", 24, 16)
    (data / "voc2007/JPEGImages/005.jpg").unlink()
    (data / "voc2007/JPEGImages/026.jpg").write_bytes(b"")
    encoder = {"name": "tiny", "width": 0.25, "channels": 3}
    folder, _ = exported(tmp_path / "export", save_encoder, **encoder)

    def asked(place, name=""):
        config = config_for_export()
        config.data.name, config.data.dir = name, str(place)
        config.eval.penalties, config.eval.validation, config.eval.batch_size = 4, 0.25, 16
        config.eval.pixels, config.data.max_damaged = False, 0.1
        return config

    result = evaluate(None, "suite", asked(data), tmp_path / "out", encoder=folder)
    assert json.loads((tmp_path / "out/suite.json").read_text()) == result
    assert result["summary"] == "2 of 12 sets and 1 other"
    assert result["missing"].keys() == PUBLISHED.keys() - {"Flowers", "VOC2007"}
    said = capsys.readouterr().err
    assert "Flowers has 12 training and 11 test images; published: 2,040 and 6,149" in said
    place = asked(data / "flowers102", "folder")
    alone = evaluate(None, "transfer", place, tmp_path / "out", encoder=folder)
    assert "features of 12 images taken from" in capsys.readouterr().err
    for subject, figures in alone["rows"].items():
        assert result["rows"][subject]["Flowers"] == figures["per_class"]
    assert result["other_splits"] == ["Flowers"]
    split = result["sets"]["Flowers"]["split"]
    assert split["recorded"] == TRANSFER["flowers102"].split != split["sha256"]
    assert (result["sets"]["mine"]["split"]["in_both"], split["in_both"]) == (1, 0)
    assert "mine: 1 test image also in the training part: x/00.png = y/02.png" in said
    mine = result["sets"]["mine"]
    assert (mine["test_images"], result["sets"]["Flowers"]["test_images"]) == (9, 11)
    assert mine["rows"]["simclr"]["top1"] == result["rows"]["simclr"]["mine"]
    row = result["rows"]["simclr"]
    assert row["mean"] == pytest.approx((row["VOC2007"] + row["Flowers"] + row["mine"]) / 3)
    several = result["sets"]["VOC2007"]
    assert [several[k] for k in ("train_images", "test_images")] == [23, 15]
    assert result["damaged"] == 2
    assert several["ap"]["simclr"].keys() == {"rose", "sun"}
    assert row["VOC2007"] == pytest.approx(np.mean(list(several["ap"]["simclr"].values())))
    config = asked(data / "voc2007", "voc")
    config.eval.pixels, config.eval.stage_numbers = True, 72
    by_stage = evaluate(None, "stages", config, tmp_path / "out", encoder=folder)["rows"]
    # The mean of the last maps is the encoder's features.
    assert by_stage["simclr, global mean"]["3"] == pytest.approx(row["VOC2007"], abs=1e-6)
    assert by_stage["simclr"].keys() == by_stage["untrained encoder"].keys() == {"1", "2", "3"}
    assert by_stage["simclr"]["3"] != by_stage["simclr, global mean"]["3"]
    shown = table("suite", result).splitlines()
    assert "Flowers" in shown[0]
    assert shown[-2].startswith("2 of 12 sets and 1 other; left out: Food-101 (not found)")
    assert shown[-1] == "not the recorded split: Flowers"
    kept = []

    def trained(run, data, train, frozen):
        assert (data.train.num_examples, frozen) == (train.num_examples, False)
        kept.append(json.loads((tmp_path / "two/suite.json.part").read_text()))
        n = train.num_examples
        if len(kept) == 2:
            raise Diverged("Step 1: train/loss is nan", 1)
        own = {"top1": n + 1, "per_class": n}
        return own | {f"untrained_{k}": v - n for k, v in own.items()}

    config = asked(data)
    config.eval.suite_finetune, config.eval.finetune_lrs = True, (0.5,)
    with monkeypatch.context() as patch:
        patch.setattr(suite, "train_classifiers", trained)
        both = evaluate(None, "suite", config, tmp_path / "two", encoder=folder)
    rows = both["rows"]
    assert {k: both["rows"].pop(k) for k in ("simclr, fine-tuned", "from scratch")} == {
        "simclr, fine-tuned": {"Flowers": 12},
        "from scratch": {"Flowers": 0},
    }
    assert "set smaller eval.finetune_lrs" in both["sets"]["mine"]["finetune"]["failed"]
    assert rows == result["rows"]
    assert [k["to_do"] for k in kept] == [["Flowers", "mine"], ["mine"]]
    assert not any("mean" in row for row in [*kept[1]["rows"].values(), kept[1]])
    assert (both["to_do"], kept[1]["sets"]["Flowers"]) == ([], both["sets"]["Flowers"])
    names = {p.name for p in (tmp_path / "two").iterdir()}
    assert "suite.json" in names
    assert "suite.json.part" not in names
    config.eval.validation, config.eval.finetune_lrs = 0.01, (0.5, 0.1)
    with pytest.raises(ValueError, match=r"flowers102: .*Here eval.validation decides"):
        evaluate(None, "suite", config, tmp_path / "two", encoder=folder)
    with pytest.raises(
        ValueError, match=r"have several labels each\. Judge them with --protocol=t"
    ):
        evaluate(None, "robust", asked(data / "voc2007", "voc"), tmp_path / "out", encoder=folder)
    for name in ("flowers102", "mine", "voc2007"):
        shutil.rmtree(data / name)
    with pytest.raises(ValueError, match="has none of the data sets food101, "):
        evaluate(None, "suite", asked(data), tmp_path / "out", encoder=folder)
    with pytest.raises(ValueError, match=r"is not a folder; expected data\.dir to name one that"):
        evaluate(None, "suite", asked(data / "no"), tmp_path / "out", encoder=folder)
