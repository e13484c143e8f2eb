"""Several tasks at once: each step is one task's own, by its number alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import compiled, make_batch, mini_encoder, named, start_state

from byol_jax import optim
from byol_jax.config import default_config, flatten, resolve
from byol_jax.config_file import load_config, save_config
from byol_jax.experiment.build import build
from byol_jax.methods.classify import classify
from byol_jax.methods.regress import regress
from byol_jax.methods.several import several
from byol_jax.models import heads
from byol_jax.models.network import network
from byol_jax.models.pixel_decoder import pixel_decoder
from byol_jax.train_step import make_train_step
from byol_jax.views.tasks.inpainting import inpainting
from byol_jax.views.tasks.rotation import rotation

KEY, TURNS = jax.random.key(0), (0, 0, 1)


def tasks():
    encoder = mini_encoder("float32")
    turned = classify(
        network(encoder, heads.mlp(())), heads.mlp((4,), last_bias=True), rotation(every=False)
    )
    filled = regress(encoder, pixel_decoder(8, 3, bottleneck=4, width=8), inpainting(band=1))
    return {"rotation": turned, "inpainting": filled}


def test_a_step_is_of_one_task():
    """Fails if a step is of another task, or of both; if a gradient reaches another task's head; or
    if the encoder's gradient, the loss or a metric is not what the task alone would have.
    """
    methods = tasks()
    method, optimizer = (
        several(mini_encoder("float32"), methods, TURNS),
        optim.sgd(optim.constant(0.1), momentum=0.0),
    )
    batch = make_batch(8, "float32", views=1)
    state = start_state(method, optimizer, batch)
    step = compiled(jax.jit(make_train_step(method, optimizer)), state, batch, KEY)
    states, losses, state_0 = [state], [], named(state.extra["latest"])
    for _ in range(6):
        state, metrics = step(state, batch, KEY)
        states.append(state)
        losses.append(metrics)
    alone = {}
    for i, name in enumerate(methods):
        task = methods[name]

        def loss(params, extra, number, task=task):
            # As the step and the method divide their keys.
            key = jax.random.split(jax.random.fold_in(KEY, number))[1]
            task_key, loss_key = jax.random.split(key)
            return task.loss(params, extra, task.task(batch, task_key), loss_key, number)

        alone[i] = jax.jit(jax.value_and_grad(loss, has_aux=True))
    for number in (0, 2, 4, 5):
        i, name = TURNS[number % 3], list(methods)[TURNS[number % 3]]
        before, after = (named(states[number + k].params) for k in (0, 1))
        params = states[number].params
        own = {"encoder": params["encoder"], **params[name]}
        stats = states[number].extra["stats"]
        stats = {"stats": {"encoder": stats["encoder"], **stats[name]}}
        arguments = (own, stats, jnp.int32(number))
        if number < 4:
            alone[i] = compiled(alone[i], *arguments)
        (value, aux), grads = alone[i](*arguments)
        np.testing.assert_allclose(losses[number]["train/loss"], value, rtol=1e-5)
        metric = {"rotation": "top1", "inpainting": "error"}[name]
        found = losses[number][f"{name}/{metric}"]
        np.testing.assert_allclose(found, aux.metrics[f"task/{metric}"], rtol=1e-5)
        moved = {k: 10 * (before[k] - after[k]) for k in before}
        for k, grad in named(grads).items():
            k = k if k.startswith("encoder/") else f"{name}/{k}"
            np.testing.assert_allclose(moved.pop(k), grad, rtol=1e-3, atol=1e-5, err_msg=k)
        assert moved
        assert not any(x.any() for x in moved.values())
        for k, value in named(aux.extra["stats"]["encoder"]).items():
            np.testing.assert_allclose(
                named(states[number + 1].extra["stats"]["encoder"])[k], value, rtol=1e-4, atol=1e-5
            )
    # Metrics of a task stay until its next step; before the first they are those of the start.
    assert losses[1]["inpainting/loss"] == state_0["inpainting/loss"]
    assert losses[3]["inpainting/loss"] == losses[2]["inpainting/loss"] == losses[2]["train/loss"]
    # The task of a step is a function of its number: a run that goes on from any state is the same.
    again = states[4]
    for _ in (4, 5):
        again, _ = step(again, batch, KEY)
    for k, value in named(again).items():
        np.testing.assert_array_equal(value, named(states[6])[k], err_msg=k)


def test_turns_are_of_all_tasks():
    """Fails if a task is never trained, and nobody is told."""
    with pytest.raises(ValueError, match=r"turns are \[0 0\]; expected each of 0 to 1"):
        several(mini_encoder(), tasks(), (0, 0))


def config_of(text="rotation,inpainting", **keys):
    config = default_config()
    config.data.name, config.image_size, config.batch_size = "digits", 8, 8
    config.views.recipe, config.encoder.name, config.method.name = "crop_flip", "tiny", "several"
    config.encoder.width = 0.25
    config.several.update(tasks=text, **keys)
    if "inpainting" in text:
        config.inpainting.update(bottleneck=4, width=8, band=1)
    return config


def test_from_a_config(tmp_path):
    """Fails if a task does not get the keys of its group, those of others are kept, or the file of
    a run is not what it was.
    """
    config = resolve(config_of(turns=(2, 1)))
    assert {"rotation", "inpainting"} <= set(config) >= {"several"}
    assert not {"relative", "colorization", "byol"} & set(config)
    save_config(config, tmp_path / "config.json")
    assert flatten(resolve(load_config(tmp_path / "config.json"))) == flatten(config)
    e = build(config, devices=jax.devices()[:1])
    params, extra = jax.eval_shape(e.method.init, KEY, {"views": np.zeros((8, 1, 8, 8, 1))})
    assert {"encoder", "rotation", "inpainting", "probe"} == set(params)
    assert params["inpainting"]["decoder"]["fc1"]["kernel"].shape[-1] == 4
    assert set(extra["latest"]) >= {"rotation/top1", "inpainting/error"}


@pytest.mark.parametrize(
    ("text", "keys", "message"),
    [
        ("rotation", {}, r"tasks is 'rotation'; expected two or more of rotation, jigsaw"),
        ("rotation,rotation", {}, "each once"),
        ("rotation,inpaint", {}, r"did you mean inpainting\?"),
        ("rotation,inpainting", {"turns": (1, 1, 1)}, "each of the 2 tasks rotation, inpainting"),
        ("rotation,relative", {}, "tile of 64 px .* does not fit"),
        ("rotation,exemplar", {}, r"exemplar.*method\.probe would give them the wrong labels"),
    ],
)
def test_what_does_not_fit_is_refused(text, keys, message):
    """Fails if tasks are forgotten, or one that is impossible is found out in the first step."""
    with pytest.raises(ValueError, match=message):
        build(config_of(text, **keys), devices=jax.devices()[:1])


def test_the_keys_of_a_task_that_is_not_there_are_refused():
    """Fails if a key of a third task is dropped in silence."""
    config = config_of()
    config.relative.tile = 9
    with pytest.raises(ValueError, match=r"relative\.tile has no effect"):
        resolve(config)
