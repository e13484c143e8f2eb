"""What an evaluation reports: the images it judged, what it refuses, and that nothing is lost."""

import asyncio
import json
import re
import shutil
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from byol_jax import evaluate as command
from byol_jax import mesh, run_folder
from byol_jax.checkpoint import Checkpoints
from byol_jax.config import default_config, resolve
from byol_jax.config_file import load_config
from byol_jax.core import starting_from
from byol_jax.evaluate import evaluate
from byol_jax.experiment.build import batch_shapes, build
from byol_jax.experiment.evaluation import build_evaluation
from byol_jax.faults import TrainingError
from byol_jax.methods.supervised import supervised
from byol_jax.run_folder import read_run
from byol_jax.train import Trained, train
from byol_jax.train_step import state_shapes

ROOT = Path(__file__).parents[1]


def tiny(data_dir, name="folder"):
    """The smallest run there is: 8 px, two steps."""
    c = default_config()
    c.batch_size, c.epochs, c.image_size, c.log_every, c.hang_seconds = 8, 1, 8, 1, 0.0
    c.data.name, c.data.dir, c.data.max_damaged = name, str(data_dir), 0.5
    c.views.recipe, c.views.placement, c.encoder.name, c.encoder.width = (
        "digits",
        "device",
        "tiny",
        0.25,
    )
    c.byol.hidden = c.byol.out = 8
    c.eval.epochs, c.eval.train_batch, c.eval.lrs, c.eval.finetune_lrs = 1, 8, (1.0,), (0.1,)
    c.eval.label_fraction, c.eval.shots, c.eval.draws, c.eval.batch_size = 0.9, (1, 3), 1, 16
    return c


def pictures(folder, counts, seed=0):
    random = np.random.RandomState(seed)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = random.randint(0, 255, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:02d}.png")


@pytest.fixture(scope="module", autouse=True)
def one_device():
    original = mesh.make_mesh
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mesh, "make_mesh", lambda *_: original(jax.devices()[:1]))
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """16 training images, two of a rare class; 10 test images, of which two cannot be read."""
    folder = tmp_path_factory.mktemp("images")
    pictures(folder, {"train/a": 7, "train/b": 7, "train/rare": 2})
    pictures(folder, {"val/a": 4, "val/b": 4, "val/rare": 2}, 1)
    for name in ("val/a/01.png", "val/b/03.png"):
        (folder / name).write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    """A run, trained as a notebook does it: by a string, while an event loop runs."""
    folder = tmp_path_factory.mktemp("run") / "run"

    async def cell():
        return train(tiny(images), str(folder))

    done = asyncio.run(cell())
    assert (done.code, done.step) == (0, 2)
    assert done.metrics["knn/test_images"] == 8
    assert done.metrics["knn/train_images"] == 16
    assert done.metrics["knn/damaged"] == 2
    return folder


def test_train_from_a_thread_goes_on_and_leaves_the_process_as_it_was(run, images):
    """Fails if signals are handled in a thread, a second call fails, or precision stays changed."""
    found = []

    def go():
        found.append(train(tiny(images), run))

    thread = threading.Thread(target=go)
    thread.start()
    thread.join()
    assert [(d.code, d.step) for d in found] == [(0, 2)]
    assert not jax.config.values["jax_enable_x64"]


@pytest.mark.parametrize("protocol", ["knn", "linear", "finetune", "fewshot", "retrieval"])
def test_unreadable_images_are_counted_named_and_not_reported_as_judged(run, protocol, capsys):
    """Fails if a protocol reports the 10 test images there are instead of the 8 it judged."""
    result = evaluate(run, protocol)
    assert (result["test_images"], result["damaged"]) == (8, 2)
    # Fine-tuning learns from whole batches of 8, of 90% of 16; retrieval from none.
    expected = {"finetune": 8, "retrieval": None}.get(protocol, 16)
    assert result.get("train_images") == expected
    assert {"top1", "untrained_top1"} <= result.keys()
    assert "untrained encoder" in command.table(protocol, result)
    said = capsys.readouterr().err
    assert said.count("val/a/01.png: empty file (left out)") == 1
    assert json.loads((run / "eval" / f"{protocol}.json").read_text()) == result
    if protocol == "retrieval":
        picture = np.asarray(Image.open(run / "eval" / "retrieval.png"))
        assert picture.shape[:2] == (8 * 56, 9 * 56 + 14)
    if protocol == "fewshot":
        assert result["left_out"] == {"3": ["rare"]}
        assert "1 class with fewer than 3 training images left out" in said
        assert "    3" in command.table(protocol, result).splitlines()[0]


def test_patches_of_labelled_images(run, capsys):
    """Fails if unreadable images are compared, or attention is asked of a convolution."""
    result = evaluate(run, "patches")
    assert (result["test_images"], result["damaged"], result["positions"]) == (8, 2, [2, 2])
    assert "val/a/01.png: empty file (left out)" in capsys.readouterr().err
    assert [list(row) for row in result["rows"].values()] == [["variance_3", "same_class"]] * 3
    assert result["chance"] == pytest.approx(100 * (3 * 2 * 2 + 2 * 1) / (8 * 7))
    # No attention: the image, and the components of two encoders.
    with Image.open(run / "eval" / "patches.png") as picture:
        assert picture.size == (1090, 405)


def test_fine_tuning_from_the_first_layer_of_the_projector(run, monkeypatch):
    """Fails if another layer, its norm or its ReLU is left out, or the encoder's is fine-tuned."""
    plain, found = read_run(run), read_run(run, from_head=True)
    e = build(load_config(run / "config.json"), devices=jax.devices()[:1])
    batch, key = batch_shapes(e), jax.random.key(0)
    like = state_shapes(e.method, e.optimizer, key, batch, e.mesh)
    saved = Checkpoints(run)
    state = saved.restore(plain.info.step, like, mesh.replicated(e.mesh))
    saved.close()
    images = np.random.RandomState(0).randn(4, 1, 8, 8, 3).astype(np.float32)
    z = jax.jit(e.method.features)(state.params, state.extra, images)["z"]
    apply = jax.jit(lambda *args: found.encoder.apply(*args, False)[0].pooled)
    last = state.params["projector"]["fc2"]["kernel"]
    np.testing.assert_allclose(
        apply(found.params, found.stats, images) @ last, z, rtol=1e-5, atol=1e-6
    )
    # What is fine-tuned, and what an untrained one is drawn with.
    method = supervised(starting_from(found.encoder, found.params, found.stats), 3)
    params, _ = method.init(key, {"views": images})
    assert params["head"]["kernel"].shape == (1, last.shape[0], 3)
    assert params["encoder"]["head"].keys() == {"fc1", "bn1"}
    drawn = jax.eval_shape(lambda key: found.encoder.init(key, images), key)
    assert jax.tree.map(np.shape, drawn) == jax.tree.map(np.shape, (found.params, found.stats))

    config = load_config(run / "config.json")
    config.eval.finetune_from = "head1"
    seen = {"top1": 0.0, "untrained_top1": 0.0}
    monkeypatch.setitem(command.PROTOCOLS, "finetune", lambda run, _: seen | {"of": run.params})
    monkeypatch.setattr(command, "write_json", lambda *_: None)
    assert evaluate(run, "finetune", config)["of"].keys() == {"encoder", "head"}
    config.eval.finetune_from = "encoder"
    assert evaluate(run, "finetune", config)["of"].keys() == plain.params.keys()


@pytest.mark.parametrize(
    ("params", "has"), [({}, "none"), ({"fc1": {"kernel": np.ones((4, 2))}}, "a linear one")]
)
def test_fine_tuning_from_a_layer_that_is_not_there_is_refused(run, params, has):
    """Fails if a linear projector's output, or the encoder's, is taken for a hidden layer."""
    with pytest.raises(ValueError, match=f"'byol' of this run has {has}; set eval.finetune_from="):
        run_folder._from_head(read_run(run), params, {})


def test_epochs_of_fine_tuning_are_whole(run):
    """Fails if half an epoch is rounded without a word."""
    config = load_config(run / "config.json")
    config.eval.finetune_epochs = (1, 2.5)
    with pytest.raises(ValueError, match=r"eval.finetune_epochs is \(1, 2.5\); expected whole"):
        evaluate(run, "finetune", config)


@pytest.mark.parametrize("protocol", ["knn", "linear", "fewshot"])
def test_too_many_unreadable_images_are_refused(run, protocol):
    """Fails if an evaluation takes any share of its images for good."""
    config = load_config(run / "config.json")
    config.data.max_damaged = 0.1
    with pytest.raises(TrainingError, match=r"2 images cannot be read, but .* only 1;"):
        evaluate(run, protocol, config)


@pytest.mark.parametrize(
    ("key", "value", "protocol"),
    [
        ("image_size", 16, "knn"),
        ("encoder.name", "resnet18", "linear"),
        ("byol.tau", 0.5, "knn"),
        ("optimizer.lr", 1.0, "finetune"),
        ("views.recipe", "cifar", "knn"),
        ("eval.shots", (1,), "linear"),
        ("eval.label_fraction", 0.5, "linear"),
        ("eval.finetune_from", "head1", "linear"),
        ("eval.finetune_epochs", (30, 50), "linear"),
        ("eval.penalties", 3, "linear"),
        ("eval.stage_numbers", 9000, "transfer"),
        ("eval.shots", (1,), "lowshot"),
        ("eval.train_examples", 8, "retrieval"),
    ],
)
def test_a_key_that_a_protocol_would_ignore_is_refused(run, key, value, protocol):
    """Fails if a figure seems to be of another setting than it is."""
    config = load_config(run / "config.json")
    *groups, name = key.split(".")
    part = config
    for group in groups:
        part = part[group]
    part[name] = value
    with pytest.raises(ValueError, match=rf"^{key} has no effect on --protocol={protocol}"):
        evaluate(run, protocol, config)


def test_a_value_out_of_bounds_is_refused_before_anything_is_opened(run, monkeypatch):
    """Fails if the checkpoint is read first."""
    monkeypatch.setattr(command, "read_run", None)
    config = load_config(run / "config.json")
    config.eval.batch_size = 0
    with pytest.raises(ValueError, match=r"eval\.batch_size is 0"):
        evaluate(run, "knn", config)


def test_a_result_is_not_lost(run, tmp_path, monkeypatch, capsys):
    """Fails if a place that cannot be written is found out after the work, or the table is lost."""
    (tmp_path / "file").write_text("")
    with monkeypatch.context() as patch:
        patch.setattr(command, "open_eval_data", None)
        with pytest.raises(ValueError, match="nothing was computed"):
            evaluate(run, "knn", out=tmp_path / "file")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(command, "write_json", full)
    with pytest.raises(OSError, match=r"result above could not be written.*No space"):
        evaluate(run, "knn", out=tmp_path)
    assert "untrained encoder" in capsys.readouterr().out


@pytest.mark.parametrize("unlabelled", ["train", "test"])
def test_without_labels_training_says_so_and_evaluation_refuses(run, tmp_path, unlabelled, capsys):
    """Fails if a kNN over nothing runs (NaN, or an error of top_k after the whole training)."""
    x = np.random.RandomState(0).randint(0, 255, (16, 8, 8, 3)).astype(np.uint8)
    y = {"train": np.arange(16) % 2, "test": np.arange(16) % 2}
    y[unlabelled] = np.full(16, -1)
    np.savez(tmp_path / "x.npz", x_train=x, y_train=y["train"], x_test=x, y_test=y["test"])
    e = build(tiny(tmp_path / "x.npz", "npz"))
    assert build_evaluation(e) is None
    part = {"train": "training", "test": "test"}[unlabelled]
    said = rf"none of the 16 {part} images of .* has a label"
    assert (
        f"no kNN and no probe accuracy in this run: none of the 16 {part}"
        in capsys.readouterr().err
    )
    config = load_config(run / "config.json")
    config.data.name, config.data.dir = "npz", str(tmp_path / "x.npz")
    for protocol in command.PROTOCOLS.keys() - {"patches"}:  # which needs no labels
        with pytest.raises(ValueError, match=said):
            evaluate(run, protocol, config)


def test_data_that_changed_are_refused_by_a_resume_and_told_by_an_evaluation(
    run, images, tmp_path, capsys
):
    """Fails if the schedule stretches with added images, or labels shift with a class."""
    changed = tmp_path / "images"
    shutil.copytree(images, changed)
    shutil.copytree(run, tmp_path / "run")
    config = tiny(changed)
    train(config, tmp_path / "run")  # moved, but the same
    pictures(changed, {"train/new": 8})
    with pytest.raises(
        ValueError, match=r"16 images then, 24 now; 3 classes then, 4 now; class 'new'"
    ):
        train(config, tmp_path / "run")
    overrides = load_config(run / "config.json")
    overrides.data.dir = str(changed)
    capsys.readouterr()
    evaluate(run, "knn", overrides, tmp_path)
    assert "not the data that the run was trained on: 16 images then, 24" in capsys.readouterr().err
    shutil.rmtree(changed / "train/new")
    (changed / "train/b/06.png").unlink()
    with pytest.raises(ValueError, match="16 images then, 15 now"):
        train(config, tmp_path / "run")


def test_the_readme_trains_from_python(monkeypatch):
    """Fails if the README's lines name what is not there, or a config that is refused."""
    code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (code,) = [c for c in code if "train(" in c]
    asked = []

    def recorder(config, workdir):
        asked.append((resolve(config).data.dir, workdir))
        return Trained(0, 1, {})

    monkeypatch.setattr("byol_jax.train.train", recorder)
    exec(code, {})
    assert asked == [("/path/to/images", "runs/mine")]
