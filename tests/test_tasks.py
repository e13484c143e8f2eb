"""Pretext tasks beside views made on the device and by the host."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import compiled

from byol_jax.views import device
from byol_jax.views.recipes import crop_flip
from byol_jax.views.tasks import with_task

RECIPE = crop_flip(6, jitter=0.0)


def rotation(batch, key):
    """Turn every view by 0 to 3 quarters, and ask for their number."""
    target = jax.random.randint(key, batch["views"].shape[:2], 0, 4)
    turned = jnp.stack([jnp.rot90(batch["views"], k, (2, 3)) for k in range(4)])
    views = jnp.take_along_axis(turned, target[None, :, :, None, None, None], 0)[0]
    return {**batch, "views": views, "target": target}


def batch_of(rows=16):
    random = np.random.RandomState(0)
    return {
        "image": random.randint(0, 256, (rows, 8, 8, 3)).astype(np.uint8),
        "label": np.arange(rows, dtype=np.int32),
        "mask": np.ones(rows, np.float32),
    }


def turned_back(batch):
    pairs = zip(batch["views"][:, 0], batch["target"][:, 0], strict=True)
    return np.stack([np.rot90(view, -int(k)) for view, k in pairs])


def run(function, batch, key):
    return compiled(jax.jit(function), batch, key)(batch, key)


@pytest.fixture(scope="module")
def made():
    """A batch of views made on the device, and the task on them; of `key` below."""
    views = device.make_views(RECIPE, cropped=False)
    return run(with_task(views, rotation), batch_of(), jax.random.key(3))


def test_a_task_is_given_the_views_and_a_key_of_its_own(made):
    """Fails if the task comes before the views, shares their key, or changes their draws.

    Seen with the step's key given to both, and with the views' key given to the task.
    """
    views_key, task_key = jax.random.split(jax.random.key(3))
    alone = run(device.make_views(RECIPE, cropped=False), batch_of(), views_key)
    assert set(made) == {*alone, "target"}
    assert set(np.unique(made["target"])) == {0, 1, 2, 3}
    want = jax.random.randint(task_key, (16, 1), 0, 4)
    np.testing.assert_array_equal(made["target"], want)
    np.testing.assert_allclose(turned_back(made), alone["views"][:, 0], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(made["label"], np.arange(16))


def test_a_task_draws_alike_where_the_host_made_the_views(made):
    """Fails if the task's key depends on where the views are made; seen with no split there."""
    given = {k: v for k, v in batch_of().items() if k != "image"}
    given["views"] = np.random.RandomState(1).rand(16, 1, 6, 6, 3).astype(np.float32)
    on_host = run(with_task(None, rotation), given, jax.random.key(3))
    np.testing.assert_array_equal(on_host["target"], made["target"])
    np.testing.assert_array_equal(turned_back(on_host), given["views"][:, 0])


def test_views_without_a_task_use_the_whole_key():
    """Fails if the key is split where there is no task: the numbers of such runs would change."""
    key = jax.random.key(1)
    view = RECIPE["views"][0]

    def by_hand(batch, key):
        u = device.uniforms(key, 16, 1)[:, 0]
        return device.augment(device.crop_batch(batch["image"], view, u), view, u)

    views = run(device.make_views(RECIPE, cropped=False), batch_of(), key)["views"]
    want = run(by_hand, batch_of(), key)
    np.testing.assert_allclose(views[:, 0], want, rtol=0, atol=1e-5)
