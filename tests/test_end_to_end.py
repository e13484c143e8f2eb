"""From a config to an encoder in other hands, on real images, as a user would."""

import importlib.util
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from sklearn.datasets import load_sample_images

import byol_jax
from byol_jax import mesh
from byol_jax.config import default_config, resolve
from byol_jax.convert.classifier import read_classifier
from byol_jax.evaluate import evaluate, table
from byol_jax.experiment.build import batch_shapes, build, clip_of, open_data
from byol_jax.experiment.methods import Facts, Parts, build_encoder, build_method
from byol_jax.experiment.optimizers import build_optimizer
from byol_jax.experiment.protocols import PROTOCOLS
from byol_jax.experiment.views import build_views, check_takes
from byol_jax.export import export
from byol_jax.run_folder import read_run
from byol_jax.train import train
from byol_jax.train_step import init_state

ROOT = Path(__file__).parents[1]


def load(name, *argument):
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*argument)


def quick(config):
    """A config cut down to seconds."""
    config.epochs = 6
    config.log_every, config.checkpoint_every, config.evaluate_every = 10, 40, 3
    config.encoder.width = 0.5
    config.eval.epochs = 4
    config.eval.train_batch = 64
    config.eval.lrs = (10.0, 1.0, 0.2)
    config.eval.finetune_lrs = (2.0,)
    config.eval.label_fraction = 0.5
    config.eval.draws = 2
    config.eval.penalties, config.eval.lowshot_draws = 4, 1
    config.eval.lowshot_shots, config.eval.svm_cs = (1, 32), (1.0,)
    return config


@pytest.fixture(scope="module", autouse=True)
def two_devices():
    """Two of the tests' eight devices: eight on two cores are four times as slow."""
    original = mesh.make_mesh
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mesh, "make_mesh", lambda *_: original(jax.devices()[:2]))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert train(quick(load("digits")), folder).code == 0
    return folder


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_run_folder_holds_what_the_docs_say(run):
    """Fails if a file is missing, or the metrics scripts rely on are renamed."""
    names = {p.name for p in run.iterdir()}
    assert {"config.json", "metrics.jsonl", "views.png", "parameters.txt", "checkpoints"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    last = rows(run)[-1]
    assert last["step"] == 60
    for key in ("train/loss", "train/lr", "train/grad_norm", "target/tau", "data/damaged"):
        assert np.isfinite(last[key])
    assert last["time/steps_per_dispatch"] == 20
    assert 0 <= last["time/wait_share"] <= 1
    assert last["knn/test_top1"] > 50
    assert last["probe/test_top1"] > 10
    assert (run / "views.png").read_bytes()[:4] == b"\x89PNG"
    from PIL import Image

    picture = np.asarray(Image.open(run / "views.png").convert("L"), float)
    assert picture.std() > 30, "the picture is not blank"


def test_the_loss_falls(run):
    """Fails if the gradient is not applied, or applied the wrong way round."""
    losses = [row["train/loss"] for row in rows(run)]
    assert losses[-1] < 0.8 * losses[0]


ELSEWHERE = {"stages", "attributes", "robust", "patches"}
"""Protocols whose own tests judge an encoder."""


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS.keys() - ELSEWHERE))
def test_evaluation(run, protocol, tmp_path):
    """Fails if the pre-trained encoder is no better than the untrained one, or is the target."""
    save = tmp_path / "out" if protocol == "finetune" else None
    result = evaluate(run, protocol, save=save)
    saved = json.loads((run / "eval" / f"{protocol}.json").read_text())
    assert saved == json.loads(json.dumps(result))
    assert saved["test_images"] == 500
    assert 100 >= saved["top1"] > 60
    # With all labels the two may be near each other after so few epochs; with one they are not.
    assert saved["top1"] > saved["untrained_top1"] - 5
    if protocol == "fewshot":
        assert saved["rows"]["byol"]["1"] > saved["rows"]["untrained encoder"]["1"] + 5
    text = table(protocol, saved)
    assert "untrained encoder" in text
    assert "byol" in text
    if save is not None:
        assert {"per_class", "untrained_per_class"} <= saved.keys()  # the suite takes them
        taught = distilled(save)
        assert taught["top1"] == pytest.approx(saved["top1"])
        assert taught["classes"] == (10, 10)


def distilled(teacher):
    """Accuracy of a saved classifier, and the classes of a student that it would teach."""
    config = default_config()
    config.batch_size, config.image_size, config.data.name = 64, 8, "digits"
    config.encoder.name, config.views.recipe = "tiny", "crop_flip"
    config.method.name, config.distill.teacher = "distill", str(teacher)
    e = build(config)
    classes = jax.eval_shape(e.method.init, jax.random.key(0), batch_shapes(e))[0]["head"]["bias"]
    found, test = read_classifier(teacher), open_data(e.config, "test")
    mean, std = np.float32(found.info.mean), np.float32(found.info.std)
    x = (test.images / np.float32(255) - mean) / std
    h = found.encoder.apply(found.params, found.stats, x[:, None], False)[0].pooled[:, 0]
    scores = np.asarray(h) @ found.linear["kernel"] + found.linear["bias"]
    top1 = 100 * np.mean(scores.argmax(1) == test.labels)
    return {"top1": top1, "classes": (found.classes, *classes.shape)}


def test_export_and_load(run, tmp_path):
    """Fails if the exported encoder is the target, or its normalisation is not the run's."""
    export(run, "orbax", tmp_path / "encoder")
    encoder = byol_jax.load_encoder(tmp_path / "encoder")
    config = load("digits")
    e = build(quick(config))
    images = e.source.images[:40]
    features = encoder(images)
    assert features.shape == (40, 64)
    # The same through the checkpoint, normalised by hand.
    found = read_run(run)
    mean, std = np.float32(found.info.mean), np.float32(found.info.std)
    x = (images / np.float32(255) - mean) / std
    expected, _ = found.encoder.apply(found.params, found.stats, x[:, None], False)
    np.testing.assert_allclose(features, np.asarray(expected.pooled)[:, 0], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="tiny"):
        export(run, "timm", tmp_path / "timm")
    assert not (tmp_path / "timm").exists()


def test_a_run_starts_from_an_exported_encoder(run, tmp_path):
    """Fails if init_from is not read, or only the target gets it."""
    export(run, "orbax", tmp_path / "encoder")
    config = quick(load("digits"))
    config.init_from = str(tmp_path / "encoder")
    e = build(config)
    state = init_state(e.method, e.optimizer, jax.random.key(0), batch_shapes(e), e.mesh)
    encoder = byol_jax.load_encoder(tmp_path / "encoder")
    for tree in (state.params["encoder"], state.extra["target"]["params"]["encoder"]):
        jax.tree.map(np.testing.assert_array_equal, tree, encoder.params)
    config.encoder.width = 1.0
    with pytest.raises(ValueError, match=r"encoder.width 0.5, the config 1.0"):
        build(config)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """48 crops of two real photographs, without class folders, and one file that is no image."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("photographs")
    random = np.random.RandomState(0)
    for i in range(48):
        photo = load_sample_images().images[i % 2]
        y, x = random.randint(0, 300), random.randint(0, 500)
        suffix = ("jpg", "png", "webp", "bmp")[i % 4]
        Image.fromarray(photo[y : y + 100, x : x + 120]).save(folder / f"{i}.{suffix}")
    (folder / "broken.jpg").write_bytes(b"no image at all")
    return folder


def folder_config(photographs):
    config = load("folder")
    config.data.dir = str(photographs)
    config.data.max_damaged = 0.1
    config.batch_size, config.image_size, config.epochs = 8, 32, 2
    config.encoder.name, config.encoder.width = "tiny", 0.25
    config.encoder.dtype, config.byol.hidden, config.byol.out = "float32", 32, 16
    return config


def test_unlabelled_photographs(photographs, tmp_path, monkeypatch):
    """Fails if a folder without classes cannot be trained on, or is evaluated in silence."""
    assert train(folder_config(photographs), tmp_path).code == 0
    last = rows(tmp_path)[-1]
    assert not any(key.startswith(("probe/", "knn/")) for key in last)
    assert last["data/damaged"] <= 1
    run = read_run(tmp_path)
    monkeypatch.setattr("byol_jax.evaluate.read_run", lambda *_, **__: run)  # once for all
    for protocol in ("knn", "linear"):  # all of them: tests/test_results.py
        with pytest.raises(ValueError, match="has a label"):
            evaluate(tmp_path, protocol)


def test_a_masked_autoencoder_of_photographs(photographs, tmp_path):
    """Fails if pictures need labels, the encoder without statistics is not found in the checkpoint,
    or the export has the decoder in it.
    """
    config = default_config()
    config.data.name, config.data.dir, config.data.max_damaged = "folder", str(photographs), 0.1
    config.batch_size, config.image_size, config.epochs, config.evaluate_every = 8, 32, 2, 1
    config.views.recipe, config.encoder.name, config.method.name = "crop_flip", "vit_tiny", "mae"
    config.vit.update(patch=8, dim=16, depth=1, heads=2, maps=1)
    config.mae.update(dim=8, depth=1, heads=2)
    jax.config.update("jax_disable_most_optimizations", True)
    assert train(config, tmp_path / "run").code == 0
    steps = [row["step"] for row in rows(tmp_path / "run")]
    drawn = {path.name for path in (tmp_path / "run" / "pictures").iterdir()}
    assert drawn == {f"{step}.png" for step in steps}
    assert len(drawn) == 2
    from PIL import Image

    picture = np.asarray(Image.open(tmp_path / "run" / "pictures" / f"{steps[-1]}.png"), float)
    assert picture.std() > 30, "the picture is not blank"
    export(tmp_path / "run", "timm", tmp_path / "timm")
    encoder = byol_jax.load_encoder(tmp_path / "timm")
    assert encoder.info.method == "mae"
    found = read_run(tmp_path / "run")
    assert found.stats == {}
    assert not any("decoder" in name for name in encoder.params)
    jax.tree.map(np.testing.assert_array_equal, encoder.params, found.params)


def parts(config, channels):
    return Parts(build_encoder(config, channels), lambda module: module)


def test_every_config_builds_its_method():
    """Fails if a config sets a key that does not exist, or a value that is refused."""
    names = sorted(p.stem for p in (ROOT / "configs").glob("*.py"))
    assert {"digits", "folder", "byol_imagenet_r50", "simclr_imagenet_r50"} <= set(names)
    for name in names:
        config = resolve(load(name))
        channels = 1 if config.data.name == "digits" else 3
        recipe, _ = build_views(config, channels)
        facts = Facts(10_000, 10, 1000, 10, config.batch_size, len(recipe.get("local", ())))
        facts = facts._replace(clip=clip_of(config))
        build_optimizer(config, facts)
        if name.startswith("distill"):  # whose teacher the user gives
            with pytest.raises(
                ValueError, match="teacher is empty; give the folder of a classifier"
            ):
                build_method(config, parts(config, channels), facts)
            continue
        method = build_method(config, parts(config, channels), facts)
        sound = bool(facts.clip and facts.clip.sound)
        check_takes(config.method.name, method, config.views.recipe, recipe, sound)


def test_the_papers_recipes():
    """Fails if a recipe's number is not the paper's: base lr, weight decay and tau by epochs."""
    expected = {"40": (0.45, 1e-6, 0.97), "1000": (0.2, 1.5e-6, 0.996)}
    for epochs, (lr, decay, tau) in expected.items():
        c = load("byol_imagenet_r50", epochs)
        assert (c.optimizer.lr, c.optimizer.weight_decay, c.byol.tau) == (lr, decay, tau)
        assert (c.batch_size, c.byol.hidden, c.byol.out) == (4096, 4096, 256)
    c = load("simclr_imagenet_r50")
    assert c.lars.lr_inside
    assert c.simclr.bn == "joint"


def test_the_ablation_table_of_the_paper_can_be_built():
    """Fails if a row of BYOL's table 5b (predictor, target, beta) has no config."""
    for predictor, target, beta in [(1, 1, 0), (1, 1, 1), (0, 1, 1), (0, 0, 1), (1, 0, 1)]:
        config = default_config()
        config.encoder.name = "tiny"
        config.encoder.dtype = "float32"
        config.method.name = "byol" if target else "siamese"
        own = config[config.method.name]
        own.hidden = own.out = 16
        own.predictor, own.beta = bool(predictor), float(beta)
        if not target:
            own.stop_gradient = False
        config.method.probe = False
        config = resolve(config)
        method = build_method(config, parts(config, 3), Facts(1000, 0, 100, 10))
        batch = {"views": np.zeros((4, 2, 8, 8, 3), np.float32)}
        params, extra = method.init(jax.random.key(0), batch)
        assert ("predictor" in params) == bool(predictor)
        assert ("target" in extra) == bool(target)


def test_the_python_of_the_readme_runs(run, tmp_path, monkeypatch):
    """Fails if the README's lines do not do what they say."""
    code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    code = [c for c in code if "load_encoder" in c]  # tests/test_results.py has the other
    assert len(code) == 1
    monkeypatch.chdir(tmp_path)
    export(run, "orbax", tmp_path / "runs" / "digits-encoder")
    names = {"images": np.zeros((3, 8, 8, 1), np.uint8)}
    exec(code[0], names)
    assert names["features"].shape == (3, 64)


def test_a_wrong_number_of_images_is_refused():
    """Fails if data.train_examples is taken instead of what the data say, or ignored."""
    config = load("digits")
    config.data.train_examples = 1297
    assert build(config).facts.steps == 600
    config.data.train_examples = 1300
    with pytest.raises(ValueError, match=r"train_examples is 1300, but digits train has 1297"):
        build(config)
