"""Data sets with boxes: what is read, what is left out and counted, what is refused."""

import numpy as np
import pytest
from PIL import Image

from byol_jax.data.boxes import open_boxes, same_images

OBJECT = (
    "<object><name>{name}</name><difficult>{hard}</difficult><part><name>head</name><bndbox>"
    "<xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part><bndbox>"
    "<xmax>{box[2]}</xmax><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><ymax>{box[3]}</ymax></bndbox>"
    "</object>"
)
PENN = """# Compatible with PASCAL Annotation Version 1.00
Image filename : "PennFudanPed/PNGImages/{name}.png"
Objects with ground truth : {count} {{ "PASpersonWalking" }}
# Top left pixel co-ordinates : (1, 1)
Original label for object 1 "PASpersonWalking" : "PennFudanPed"
Bounding box for object 1 "PASpersonWalking" (Xmin, Ymin) - (Xmax, Ymax) : (3, 4) - (12, 23)
"""


def voc(folder, images, lists):
    """A folder of VOC's form: images {name: [(class, box as stored, difficult)]}, 40 x 30 px."""
    for place in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / place).mkdir(parents=True)
    for i, (name, objects) in enumerate(images.items()):
        pixels = np.random.RandomState(i).randint(0, 255, (30, 40, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "JPEGImages" / f"{name}.jpg")
        text = "".join(OBJECT.format(name=c, box=b, hard=int(d)) for c, b, d in objects)
        (folder / "Annotations" / f"{name}.xml").write_text(f"<annotation>{text}</annotation>")
    for name, names in lists.items():
        (folder / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(names) + "\n")
    return folder


def some(tmp_path, **lists):
    images = {
        "a": [("dog", (1, 1, 10, 20), False), ("cat", (5, 6, 50, 30), True)],
        "b": [("cat", (7, 7, 7, 9), False), ("cat", (7, 9, 12, 9), False)],
        "c": [("cat", (2.5, 3, 20, 21), False)],
        "d": [("dog", (2, 2, 9, 9), False)],
    }
    return voc(tmp_path / "voc", images, lists)


def test_voc(tmp_path):
    """Fails if pixels are counted from 0, the box of a part is taken, or an empty one is kept."""
    folder = some(tmp_path, trainval=["a", "b"], test=["c", "d"], val=["c"], train=["d"])
    data = open_boxes([str(folder)], 0.2, 0)
    assert data.classes == ("cat", "dog")
    assert data.split == "trainval / test of ImageSets/Main"
    assert [p.name for p in data.train.files] == ["a.jpg", "b.jpg"]
    boxes, labels, difficult = data.train.boxes[0]
    # Cut off at the border of 40 px.
    np.testing.assert_array_equal(boxes, [[0, 0, 10, 20], [4, 5, 40, 30]])
    assert (labels.tolist(), difficult.tolist()) == ([1, 0], [False, True])
    assert data.train.boxes[1].boxes.shape == (0, 4)
    assert (data.train.empty, data.test.empty, data.train.num_boxes) == (2, 0, 2)
    np.testing.assert_array_equal(data.test.boxes[0].boxes, [[1.5, 2, 20, 21]])


def test_which_images(tmp_path):
    """Fails if the lists are mixed up, a second folder is tested on, or the seed is not used."""
    folder = some(tmp_path, train=["a", "b"], val=["c"])
    data = open_boxes([str(folder)], 0.2, 0)
    assert [p.stem for part in (data.train, data.test) for p in part.files] == ["a", "b", "c"]
    more = voc(tmp_path / "more", {"z": [("dog", (1, 1, 9, 9), False)]}, {"train": ["z"]})
    data = open_boxes([str(folder), str(more)], 0.2, 0)
    assert [p.stem for p in data.train.files] == ["a", "b", "z"]
    assert [p.stem for p in data.test.files] == ["c"]

    names = [f"i{i}" for i in range(12)]
    whole = voc(tmp_path / "whole", {n: [("dog", (1, 1, 9, 9), False)] for n in names}, {})
    splits = [open_boxes([str(whole)], 0.25, seed) for seed in (0, 0, 1)]
    tests = [[p.stem for p in d.test.files] for d in splits]
    assert tests[0] == tests[1] != tests[2]
    assert len(tests[0]) == 3
    assert sorted(tests[0] + [p.stem for p in splits[0].train.files]) == sorted(names)
    with pytest.raises(ValueError, match=r"--test_share=0 of the 12 images of .* a part empty"):
        open_boxes([str(whole)], 0.0, 0)


def penn(tmp_path, count=1):
    for place in ("PNGImages", "Annotation"):
        (tmp_path / place).mkdir()
    for i, name in enumerate(("p1", "p2")):
        pixels = np.full((30, 40, 3), 9 * i, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "PNGImages" / f"{name}.png")
        (tmp_path / "Annotation" / f"{name}.txt").write_text(PENN.format(name=name, count=count))
    return str(tmp_path)


def test_penn_fudan(tmp_path):
    """Fails if walking is a class of its own, or pixels are counted from 0."""
    data = open_boxes([penn(tmp_path)], 0.5, 0)
    assert data.classes == ("person",)
    assert (data.train.num_examples, data.test.num_examples) == (1, 1)
    np.testing.assert_array_equal(data.train.boxes[0].boxes, [[2, 3, 12, 23]])


def test_what_cannot_be_read(tmp_path):
    """Fails if a damaged image ends it or is not counted, or a copy in both parts is not seen."""
    folder = some(tmp_path, train=["a", "b", "c"], val=["d"])
    images = folder / "JPEGImages"
    (images / "b.jpg").write_bytes((images / "a.jpg").read_bytes()[:300])
    (images / "d.jpg").write_bytes((images / "a.jpg").read_bytes())
    data = open_boxes([str(folder)], 0.2, 0)
    assert [p.stem for p in data.train.files] == ["a", "c"]
    assert [name for name, _ in data.train.damaged] == [str(images / "b.jpg")]
    assert same_images(data) == ["d.jpg"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "declares a document type"),
        ("<annotation><object>", "no XML"),
        ("<annotation><object><name>dog</name></object></annotation>", "lacks its bndbox"),
        (OBJECT.format(name="dog", box=(1, 1, "nan", 4), hard=0), "expected four numbers"),
        (OBJECT.format(name="dog", box=(1, 1, "x", 4), hard=0), "expected four numbers"),
    ],
)
def test_a_broken_annotation_is_named(tmp_path, text, why):
    """Fails if it passes, or raises what the parser raises, without the file."""
    folder = some(tmp_path, train=["a"], val=["d"])
    (folder / "Annotations" / "a.xml").write_text(text)
    with pytest.raises(ValueError, match=rf"a\.xml cannot be read: .*{why}") as e:
        open_boxes([str(folder)], 0.2, 0)
    assert "\n" not in str(e.value)


def test_what_is_no_data_set_is_refused(tmp_path):
    """Fails if a missing file is left out in silence, or a list that names one twice passes."""
    with pytest.raises(ValueError, match=r"no data set with boxes: expected a folder with JPEGI"):
        open_boxes([str(tmp_path)], 0.2, 0)
    folder = some(tmp_path, train=["a", "x"], val=["d"])
    with pytest.raises(ValueError, match=r"1 image of .* missing in JPEGImages/.* that of x"):
        open_boxes([str(folder)], 0.2, 0)
    (folder / "ImageSets" / "Main" / "train.txt").write_text("a\na\n")
    with pytest.raises(ValueError, match="names an image twice"):
        open_boxes([str(folder)], 0.2, 0)
    (folder / "ImageSets" / "Main" / "train.txt").write_text("b\n")
    with pytest.raises(ValueError, match=r"training part of .* has no object"):
        open_boxes([str(folder)], 0.2, 0)
    (tmp_path / "penn").mkdir()
    with pytest.raises(ValueError, match="it says 2 objects and has 1 boxes"):
        open_boxes([penn(tmp_path / "penn", count=2)], 0.5, 0)
