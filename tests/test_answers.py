"""Pretext tasks cannot be answered without looking, and are asked on images never seen."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import (
    compiled,
    first_devices,
    mini_encoder,
    numpy_state,
    placed,
    start_state,
)
from pretext_oracles import crops
from sklearn.datasets import load_sample_images

from byol_jax import optim
from byol_jax.config import default_config
from byol_jax.core import Encoder, Features
from byol_jax.experiment.build import batch_shapes, build
from byol_jax.experiment.questions import with_questions
from byol_jax.methods.classify import classify
from byol_jax.methods.regress import regress
from byol_jax.models import heads
from byol_jax.models.network import network
from byol_jax.models.pixel_decoder import pixel_decoder
from byol_jax.train_step import make_train_step
from byol_jax.views.tasks.exemplar import exemplar
from byol_jax.views.tasks.inpainting import inpainting
from byol_jax.views.tasks.jigsaw import jigsaw
from byol_jax.views.tasks.relative import relative

KEY = jax.random.key(0)
ROWS, STEPS = 32, 25


def answering(quiz):
    """A method whose encoder is one layer: it compiles in half the time of two with norms."""

    def init(key, images):
        kernel = np.zeros((np.prod(images.shape[2:]), 32), np.float32)
        return {"kernel": jnp.asarray(kernel)}, {}

    def apply(params, stats, images, train, key=None):
        flat = images.reshape(*images.shape[:2], -1)
        return Features(jax.nn.relu(flat @ params["kernel"]), ()), stats

    head = heads.mlp((quiz.choices,), last_bias=True)
    return classify(network(Encoder(init, apply, 32, 3, {}), heads.mlp(())), head, quiz)


def places(random):
    """Images whose colours tell the place: more red below, more green to the right."""
    at = np.linspace(-1, 1, 12)
    ramp = np.stack(np.broadcast_arrays(at[:, None], at[None], 0), -1)
    return 2 * ramp + 0.3 * random.standard_normal((ROWS, 12, 12, 3)), np.arange(ROWS)


def surfaces(random):
    """Images of one colour each: the hole is of the colour around it."""
    colour = random.choice([-1, 1], (ROWS, 1, 1, 3))
    return colour + 0.1 * random.standard_normal((ROWS, 8, 8, 3)), np.arange(ROWS)


def objects(random):
    """Four images again and again, each of which has a stripe elsewhere."""
    index = np.arange(ROWS) % 4
    images = 0.4 + 0.05 * random.standard_normal((ROWS, 8, 8, 3))
    images[np.arange(ROWS), 2 * index] += 0.5
    images[np.arange(ROWS), 2 * index + 1] += 0.5
    return images, index


TASKS = {
    "relative": (lambda: answering(relative(2, tile=3, jitter=1)), places, "top1", 8),
    "jigsaw": (
        lambda: answering(jigsaw(4, grid=2, tile=5, jitter=1, shift=0, project=0, normalise=False)),
        places,
        "top1",
        4,
    ),
    "inpainting": (
        lambda: regress(
            mini_encoder("float32"),
            pixel_decoder(8, 3, bottleneck=8, width=16),
            inpainting(band=0),
        ),
        surfaces,
        "error",
        0,
    ),
    "exemplar": (
        lambda: answering(exemplar(4, 4, patch=8, shift=0.05, rotate=5.0, scale=(0.9, 1.1))),
        objects,
        "top1",
        4,
    ),
}


@pytest.mark.parametrize("name", list(TASKS))
def test_shuffled_targets_give_chance(name):
    """Fails if a task can be answered without looking: what is learnt in a few steps from its own
    targets is not learnt from those of other images of the batch.
    """
    made, draw, metric, chance = TASKS[name]
    method, optimizer, random = made(), optim.sgd(optim.constant(0.1)), np.random.default_rng(0)
    drawn = [draw(random) for _ in range(STEPS)]
    given = [{"views": x[:, None].astype("f4"), "index": i.astype("i4")} for x, i in drawn]
    given = [b | {"mask": np.ones(ROWS, "f4")} for b in given]
    task = compiled(jax.jit(method.task), given[0], KEY)
    keys = jax.random.split(KEY, STEPS)
    batches = [dict(task(b, k)) for b, k in zip(given, keys, strict=True)]
    start = start_state(method, optimizer, batches[0])
    step, found = compiled(jax.jit(make_train_step(method, optimizer)), start, batches[0], KEY), {}
    for shuffled in (False, True):
        state, figures = start, []
        for batch in batches:
            if shuffled:
                batch["target"] = random.permutation(batch["target"])
            state, metrics = step(state, batch, KEY)
            figures.append(float(metrics[f"task/{metric}"]))
        found[shuffled] = np.mean(figures[-10:])
    asked = 10 * ROWS * np.shape(batches[0]["target"])[1]
    if metric == "error":  # of the mean colour's
        assert found[False] < 0.5
        assert found[True] > 0.95
    else:
        assert found[False] > 50
        assert found[True] < 100 * (1 / chance + 3.5 * ((chance - 1) / chance**2 / asked) ** 0.5)


# --- on the test part ----------------------------------------------------------------------------


def config_of(folder, method, **keys):
    """A run on 24 photographs of 8 px, tested on 16 others."""
    images = (255 * crops(load_sample_images().images, 40, 8)).astype(np.uint8)
    labels = np.arange(40) % 2
    parts = {"x_train": images[16:], "y_train": labels[16:], "x_test": images[:16]}
    np.savez(folder / "data.npz", **parts, y_test=labels[:16])
    config = default_config()
    config.data.name, config.data.dir = "npz", str(folder / "data.npz")
    config.image_size, config.batch_size, config.eval.task = 8, 8, 1
    config.views.recipe, config.encoder.name, config.method.name = "crop_flip", "tiny", method
    config.views.overrides.update(area=(1.0, 1.0), aspect=(1.0, 1.0), flip=0.0)  # whole images
    config.encoder.width = 0.25
    for key, value in keys.items():
        group, name = key.split("__")
        config[group][name] = value
    return config, images[:16].astype(np.float64) / 255


def test_the_test_part_is_asked(tmp_path, quick):
    """Fails if images are asked about that were trained on, a figure is of visible pixels or of
    another task, the questions change, or the devices do.

    Answers of heads that are all zero are known: always the first rotation, and mean colours. Seen
    with the training part, and with questions that depend on the step.
    """
    sizes = {"inpainting__bottleneck": 4, "inpainting__width": 8, "inpainting__region": "random"}
    config, images = config_of(tmp_path, "several", several__tasks="rotation,inpainting", **sizes)
    e = build(config, devices=jax.devices()[:1])
    state = numpy_state(e.method, optim.sgd(optim.constant(0.1)), batch_shapes(e))
    ask = with_questions(e, None)
    found = ask(placed(state), lambda: None)
    later = dataclasses.replace(state, step=np.int32(5))
    assert ask(placed(later), lambda: None) == found
    four = with_questions(e._replace(mesh=first_devices(4)), None)
    for k, value in four(placed(state, 4), lambda: None).items():
        np.testing.assert_allclose(value, found[k], rtol=1e-4, err_msg=k)
    zero = {k: jax.tree.map(np.zeros_like, v) for k, v in state.params.items() if k != "encoder"}
    blank = dataclasses.replace(state, params=state.params | zero)
    found = ask(placed(blank), lambda: None)
    assert found["rotation/test_top1"] == 25
    assert found["rotation/test_questions"] == 4 * found["inpainting/test_questions"] == 4 * 16
    error = np.square(images - np.array(e.eval_spec.mean)).mean((1, 2, 3))
    psnr = -10 * np.log10(error).mean()  # of whole images: about that of holes anywhere
    assert abs(found["inpainting/test_psnr_blank"] - psnr) < 0.5
    assert found["inpainting/test_psnr"] == found["inpainting/test_psnr_blank"]


@pytest.mark.parametrize("method", ["exemplar", "byol"])
def test_what_cannot_be_asked_is_refused(tmp_path, method):
    """Fails if a method without questions is trained before it is noticed; seen with exemplars."""
    keys = {"exemplar__patch": 8} if method == "exemplar" else {"views__recipe": "byol"}
    e = build(config_of(tmp_path, method, **keys)[0], devices=jax.devices()[:1])
    with pytest.raises(ValueError, match=f"eval.task is 1, but method.name '{method}' asks"):
        with_questions(e, None)
