"""Pretext tasks beside views made on the device and by the host."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


def test_a_task_is_given_the_views_and_a_key_of_its_own():
    """Fails if the task comes before the views, shares their key, or changes their draws."""
    views, key = device.make_views(RECIPE, cropped=False), jax.random.key(3)
    views_key, task_key = jax.random.split(key)
    made = jax.jit(with_task(views, rotation))(batch_of(), key)
    alone = jax.jit(views)(batch_of(), views_key)
    assert set(made) == {*alone, "target"}
    assert set(np.unique(made["target"])) == {0, 1, 2, 3}
    want = jax.random.randint(task_key, (16, 1), 0, 4)
    np.testing.assert_array_equal(made["target"], want)
    np.testing.assert_allclose(turned_back(made), alone["views"][:, 0], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(made["label"], np.arange(16))


def test_a_task_draws_alike_where_the_host_made_the_views():
    """Fails if the task's key depends on where the views are made."""
    views, key = device.make_views(RECIPE, cropped=False), jax.random.key(3)
    on_device = with_task(views, rotation)(batch_of(), key)
    given = {k: v for k, v in batch_of().items() if k != "image"}
    given["views"] = np.random.RandomState(1).rand(16, 1, 6, 6, 3).astype(np.float32)
    on_host = with_task(None, rotation)(given, key)
    np.testing.assert_array_equal(on_host["target"], on_device["target"])
    np.testing.assert_array_equal(turned_back(on_host), given["views"][:, 0])


@pytest.mark.parametrize("seed", [0, 1])
def test_views_without_a_task_use_the_whole_key(seed):
    """Fails if the key is split where there is no task: the numbers of such runs would change."""
    key = jax.random.key(seed)
    u = device.uniforms(key, 16, 1)[:, 0]
    view = RECIPE["views"][0]
    want = device.augment(device.crop_batch(batch_of()["image"], view, u), view, u)
    made = device.make_views(RECIPE, cropped=False)(batch_of(), key)["views"]
    np.testing.assert_array_equal(made[:, 0], want)
