"""Distillation: the loss, who is taught by what, classifiers on disk, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import compiled, filled, make_batch, mini_encoder, start_state

from byol_jax import losses, models, optim
from byol_jax.convert.classifier import FILE, read_classifier, save_classifier, with_first_layer
from byol_jax.convert.info import EncoderInfo
from byol_jax.convert.load import read_encoder
from byol_jax.convert.native import save_encoder
from byol_jax.evaluate import evaluate
from byol_jax.experiment.methods import METHODS, Facts, Parts
from byol_jax.manifest import write_manifest
from byol_jax.methods.distill import Teacher, distill
from byol_jax.models import heads

KEY, CLASSES, TEMPERATURE = jax.random.key(1), 3, 0.5


def test_the_loss_equals_the_loops(x64):
    """Fails if the temperature is the teacher's alone, or the sides are swapped."""
    random = np.random.RandomState(0)
    student, teacher = random.randn(4, 3), random.randn(4, 3)
    expected = []
    for i in range(4):
        p = [np.exp(x / TEMPERATURE) for x in teacher[i]]
        q = [np.exp(x / TEMPERATURE) for x in student[i]]
        expected.append(-sum(a / sum(p) * np.log(b / sum(q)) for a, b in zip(p, q, strict=True)))
    found = losses.distillation(student, teacher, TEMPERATURE)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


# --- the method ----------------------------------------------------------------------------------


@functools.cache
def method_of(alpha):
    """(parameters, extra, loss and gradients) of a student with another teacher."""
    encoder, linear = mini_encoder(), heads.linear(CLASSES, dtype=jnp.float64)
    image = jax.ShapeDtypeStruct((1, 1, 8, 8, 3), np.float64)
    arrays = filled(jax.eval_shape(encoder.init, KEY, image), seed=3)
    layer = filled({"kernel": jnp.zeros((16, CLASSES)), "bias": jnp.zeros(CLASSES)}, seed=4)
    teacher = Teacher(encoder, *arrays, layer)
    method = distill(encoder, linear, teacher, temperature=TEMPERATURE, alpha=alpha)
    state = start_state(method, optim.sgd(optim.constant(0.1)), make_batch(views=1))
    extra = {**state.extra, "teacher": dict(zip(("params", "stats"), arrays, strict=True))}
    extra["teacher"]["linear"] = layer
    grad = jax.value_and_grad(method.loss, (0, 1), has_aux=True, allow_int=True)
    args = (state.params, jax.tree.map(jnp.asarray, extra), make_batch(views=1), KEY, 0)
    return args[0], args[1], compiled(jax.jit(grad), *args)


def logits(apply, params, stats, linear, images, train):
    pooled = apply(params, stats, images, train)[0].pooled[:, 0]
    return np.asarray(pooled) @ np.asarray(linear["kernel"]) + np.asarray(linear["bias"])


@pytest.mark.parametrize("alpha", [1.0, 0.25])
def test_masked_and_unlabelled_rows(x64, alpha):
    """Fails if a row without a label teaches nothing, counts as class 0, or a masked one counts."""
    params, extra, loss = method_of(alpha)
    batch = make_batch(views=1)
    batch["label"] = np.array([0, -1, 2, -1, 1, -1, -1, 0], np.int32)
    batch["mask"] = np.array([1, 1, 1, 0, 0, 1, 1, 1], np.float32)
    (value, aux), _ = loss(params, extra, batch, KEY, 0)
    encoder, t = mini_encoder(), extra["teacher"]
    student = logits(
        encoder.apply, params["encoder"], extra["stats"], params["head"], batch["views"], True
    )
    teacher = logits(encoder.apply, t["params"], t["stats"], t["linear"], batch["views"], False)
    rows, total = np.flatnonzero(batch["mask"]), 0.0
    for i in rows:
        total += alpha * float(losses.distillation(student[i : i + 1], teacher[i : i + 1], 0.5)[0])
        if batch["label"][i] >= 0:
            log_p = student[i] - np.log(np.exp(student[i]).sum())
            total -= (1 - alpha) * log_p[batch["label"][i]]
    np.testing.assert_allclose(value, total / len(rows), rtol=1e-10)
    agree = np.mean(student[rows].argmax(1) == teacher[rows].argmax(1))
    np.testing.assert_allclose(aux.metrics["teacher/agreement"], 100 * agree, rtol=1e-6)
    labelled = [i for i in rows if batch["label"][i] >= 0]
    right = np.mean(student[labelled].argmax(1) == batch["label"][labelled])
    np.testing.assert_allclose(aux.metrics["train/top1"], 100 * right, rtol=1e-6)
    if alpha == 1:
        batch["label"] = np.roll(batch["label"], 1)
        assert loss(params, extra, batch, KEY, 0)[0][0] == value


def test_no_gradient_reaches_the_teacher(x64):
    """Fails if the teacher learns. (Take `stop_gradient` out.)"""
    params, extra, loss = method_of(0.25)
    _, (to_params, to_extra) = loss(params, extra, make_batch(views=1), KEY, 0)
    assert all(not np.asarray(g).any() for g in jax.tree.leaves(to_extra["teacher"]))
    assert all(np.asarray(g).any() for g in jax.tree.leaves(to_params))


# --- classifiers on disk -------------------------------------------------------------------------


def encoder_of(width=0.25, channels=3):
    encoder = models.make_encoder("tiny", width=width, channels=channels)
    image = jax.ShapeDtypeStruct((1, 1, 8, 8, channels), np.float32)
    params, stats = filled(jax.eval_shape(encoder.init, KEY, image))
    info = EncoderInfo(encoder.config, 8, (0.5,) * channels, (0.25,) * channels, 8)
    return encoder, params, stats, info


def linear_of(dim, classes=CLASSES):
    return filled(
        {
            "kernel": np.zeros((dim, classes), np.float32),
            "bias": np.zeros(classes, np.float32),
        }
    )


@pytest.mark.parametrize("on_head", [False, True])
def test_a_classifier_comes_back(on_head, tmp_path):
    """Fails if the projector's layer is lost, or the folder is no export of the encoder too."""
    encoder, params, stats, info = encoder_of()
    below, dim = (params, stats), encoder.dim
    if on_head:
        layer = {"fc1": {"kernel": np.zeros((32, 7), np.float32)}}
        layer["bn1"] = {k: np.zeros(7, np.float32) for k in ("scale", "bias")}
        encoder = with_first_layer(encoder, layer)
        image = jax.ShapeDtypeStruct((1, 1, 8, 8, 3), np.float32)
        below, dim = filled(jax.eval_shape(encoder.init, KEY, image), seed=5), 7
    linear = linear_of(dim)
    save_classifier(tmp_path / "out", *below, linear, info)
    found = read_classifier(tmp_path / "out")
    assert found.classes == CLASSES
    images = make_batch(4, "float32", views=1)["views"]
    first = logits(encoder.apply, *below, linear, images, False)
    np.testing.assert_array_equal(
        logits(found.encoder.apply, found.params, found.stats, found.linear, images, False), first
    )
    plain, arrays, *_ = read_encoder(tmp_path / "out")
    for ours, saved in zip(
        jax.tree.leaves(arrays),
        jax.tree.leaves(below[0]["encoder"] if on_head else params),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, saved)
    assert plain.dim == 32


def test_classifiers_that_are_none(tmp_path):
    """Fails if a plain encoder teaches, or a damaged file is taken."""
    _, params, stats, info = encoder_of()
    save_encoder(tmp_path / "plain", params, stats, info)
    with pytest.raises(ValueError, match=r"an encoder without a classifier; make one .* --save"):
        read_classifier(tmp_path / "plain")
    save_classifier(tmp_path / "narrow", params, stats, linear_of(31), info)
    with pytest.raises(ValueError, match=r"linear/kernel is float32 \(31, 3\), expected \(32, 3\)"):
        read_classifier(tmp_path / "narrow")
    endless = linear_of(32)
    endless["bias"][1] = np.inf
    save_classifier(tmp_path / "endless", params, stats, endless, info)
    with pytest.raises(ValueError, match="linear/bias has values that are not finite"):
        read_classifier(tmp_path / "endless")
    (tmp_path / "narrow" / FILE).write_bytes(b"no arrays")
    with pytest.raises(ValueError, match="narrow"):
        read_classifier(tmp_path / "narrow")
    write_manifest(tmp_path / "narrow")
    with pytest.raises(ValueError, match=f"{FILE} is damaged"):
        read_classifier(tmp_path / "narrow")


# --- what is refused -----------------------------------------------------------------------------

FACTS = Facts(64, CLASSES, 20, 4, mean=(0.5,) * 3, std=(0.25,) * 3)


class Keys:
    """A group of a config."""

    def __init__(self, **values):
        vars(self).update({"temperature": 1.0, "alpha": 1.0, "bn_groups": 1} | values)


@pytest.mark.parametrize(
    ("values", "facts", "channels", "message"),
    [
        ({"teacher": ""}, {}, 3, r"distill\.teacher is empty; give the folder .* --save FOLDER"),
        ({}, {"mean": (0.1,) * 3}, 3, r"normalised with mean \(0\.5, .* set views\.mean and"),
        ({}, {}, 1, r"sees images of 3 channels, and the data have 1"),
        ({"alpha": 0.5}, {"classes": 4}, 3, r"has 3 classes, and the data 4 classes; with "),
        ({"alpha": 0.5}, {"classes": 0}, 3, r"and the data no labels; with distill\.alpha 0\.5"),
    ],
)
def test_teachers_that_are_refused(values, facts, channels, message, saved_teacher):
    """Fails if a teacher sees other images than it was trained on, or other classes are learnt."""
    keys = Keys(**{"teacher": saved_teacher, **values})
    parts = Parts(encoder_of(channels=channels)[0], lambda module: module)
    with pytest.raises(ValueError, match=message):
        METHODS["distill"](keys, parts, FACTS._replace(**facts))


@pytest.fixture(scope="module")
def saved_teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "out"
    _, params, stats, info = encoder_of()
    save_classifier(folder, params, stats, linear_of(32), info)
    return str(folder)


def test_a_teacher_without_labels_and_a_smaller_student(saved_teacher):
    """Fails if the classes are taken from the data, or the student must be like its teacher."""
    student = models.make_encoder("tiny", width=0.5)
    parts, facts = Parts(student, lambda module: module), FACTS._replace(classes=0)
    method = METHODS["distill"](Keys(teacher=saved_teacher), parts, facts)
    params, extra = jax.eval_shape(method.init, KEY, make_batch(4, "float32", views=1))
    assert params["head"]["kernel"].shape == (64, CLASSES)
    assert extra["teacher"]["linear"]["kernel"].shape == (32, CLASSES)


@pytest.mark.parametrize("protocol", ["knn", "fewshot"])
def test_a_protocol_that_trains_no_classifier(protocol, tmp_path):
    """Fails if --save is taken and nothing is saved."""
    with pytest.raises(ValueError, match=f"--protocol={protocol} trains none; use finetune"):
        evaluate(tmp_path, protocol, save=tmp_path / "out")


def test_a_folder_in_use_is_not_overwritten(tmp_path):
    """Fails if this is noticed only after hours of training."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="which exists already, and nothing is overwritten"):
        evaluate(tmp_path, "finetune", save=tmp_path)
