"""Batch norm over groups of rows, and rows shuffled among groups."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import filled, first_devices, mini_encoder, named

from byol_jax import models
from byol_jax.core import starting_from
from byol_jax.mesh import batch_sharding, replicated
from byol_jax.models import heads, make_encoder

KEY = jax.random.key(0)
pytestmark = pytest.mark.usefixtures("x64")


def started(encoder, size=8):
    image = jax.ShapeDtypeStruct((1, 1, size, size, 3), np.float64)
    return filled(jax.eval_shape(encoder.init, KEY, image))


def images(rows=12, views=2, size=8):
    x = np.random.RandomState(0).randn(rows, views, size, size, 3)
    return x * (1 + np.arange(rows))[:, None, None, None, None]  # every group has its own scale


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("groups", [1, 3])
def test_each_group_is_a_batch_of_its_own(groups, joint):
    """Fails if rows of a group are not contiguous, groups or views share statistics, or the running
    ones move by more than the mean over the groups.
    """
    encoder = mini_encoder()
    encoder = models.joint(encoder) if joint else encoder
    params, stats = started(encoder)
    x = images()
    found, moved = models.grouped(encoder, groups).apply(params, stats, x, True)
    alone = [encoder.apply(params, stats, part, True) for part in np.split(x, groups)]
    pooled = np.concatenate([out.pooled for out, _ in alone])
    np.testing.assert_allclose(found.pooled, pooled, rtol=1e-11, atol=1e-13)
    for i, stage in enumerate(found.maps):
        expected = np.concatenate([out.maps[i] for out, _ in alone])
        np.testing.assert_allclose(stage, expected, rtol=1e-10, atol=1e-12)
    for k, value in named(moved).items():
        expected = np.mean([named(new)[k] for _, new in alone], 0)
        np.testing.assert_allclose(value, expected, rtol=1e-11, atol=1e-13, err_msg=k)


def test_heads_are_grouped_alike():
    """Fails if `grouped` is only understood by encoders."""
    head = heads.mlp((6, 4), norm_last=True, dtype=jnp.float64, param_dtype=jnp.float64)
    x = np.random.RandomState(0).randn(8, 2, 5) * np.arange(1, 9)[:, None, None]
    params, stats = filled(jax.eval_shape(head.init, KEY, x))
    found, _ = models.grouped(head, 4).apply(params, stats, x, True)
    alone = [head.apply(params, stats, part, True)[0] for part in np.split(x, 4)]
    np.testing.assert_allclose(found, np.concatenate(alone), rtol=1e-11, atol=1e-13)


def test_a_pool_inside_a_group():
    """Fails if the stem's pool, between statistics and normalising, mixes groups up."""
    encoder = make_encoder("resnet18", width=0.25, dtype="float64")
    params, stats = started(encoder, 32)
    x = images(4, 1, 32)
    found, _ = jax.jit(lambda x: models.grouped(encoder, 2).apply(params, stats, x, True))(x)
    one = jax.jit(lambda x: encoder.apply(params, stats, x, True))
    alone = [one(part)[0].pooled for part in np.split(x, 2)]
    np.testing.assert_allclose(found.pooled, np.concatenate(alone), rtol=1e-9, atol=1e-11)


def test_inference_knows_no_groups():
    """Fails if an evaluation batch must be divisible, or takes statistics of its own."""
    encoder = mini_encoder()
    params, stats = started(encoder)
    x = images(5)
    found, same = models.grouped(encoder, 4).apply(params, stats, x, False)
    expected, _ = encoder.apply(params, stats, x, False)
    np.testing.assert_array_equal(found.pooled, expected.pooled)
    assert same is stats


def test_a_batch_that_cannot_be_divided_is_refused():
    """Fails if rows are dropped in silence, or the message lacks a number."""
    encoder = mini_encoder()
    params, stats = started(encoder)
    with pytest.raises(ValueError, match="batch of 12 rows cannot be divided into 5 groups"):
        models.grouped(encoder, 5).apply(params, stats, images(), True)


def collectives(function, *args):
    text = function.lower(*args).compile().as_text()
    return set(
        re.findall(r" (all-reduce|all-gather|all-to-all|collective-permute)(?:-start)?\(", text)
    )


@pytest.mark.parametrize("groups", [4, 8])
def test_groups_that_fit_on_a_device_need_no_message(groups):
    """Fails if groups are of strided rows, or rows move between devices for the statistics."""
    encoder, mesh = mini_encoder(), first_devices(4)
    params, stats = started(encoder)
    rows, whole = batch_sharding(mesh), replicated(mesh)
    x = jax.device_put(images(16), rows)

    def run(x, groups):
        out = models.grouped(encoder, groups).apply(params, stats, x, True)[0].pooled
        return jax.lax.with_sharding_constraint(out, rows)

    function = jax.jit(lambda x: run(x, groups), in_shardings=rows)
    assert not collectives(function, x)
    assert collectives(jax.jit(lambda x: run(x, 1), in_shardings=rows), x) == {"all-reduce"}
    one = jax.jit(lambda x: run(x, groups), in_shardings=whole)
    np.testing.assert_allclose(function(x), one(jax.device_put(x, whole)), rtol=1e-12, atol=1e-14)


def test_groups_across_devices_are_the_same_groups():
    """Fails if what a group is depends on the number of devices."""
    encoder = mini_encoder()
    params, stats = started(encoder)
    found = []
    for devices in (1, 8):
        rows = batch_sharding(first_devices(devices))
        function = jax.jit(
            lambda x: models.grouped(encoder, 2).apply(params, stats, x, True), in_shardings=rows
        )
        found.append(function(jax.device_put(images(16), rows)))
    for k, value in named(found[0]).items():
        np.testing.assert_allclose(named(found[1])[k], value, rtol=1e-11, atol=1e-13, err_msg=k)


def test_shuffled_rows_come_back_in_their_order():
    """Fails if features are those of other rows: without groups a shuffle changes nothing."""
    encoder = mini_encoder()
    params, stats = started(encoder)
    found, moved = models.shuffled(encoder).apply(params, stats, images(), True, KEY)
    expected, same = encoder.apply(params, stats, images(), True)
    for k, value in named((expected, same)).items():
        np.testing.assert_allclose(named((found, moved))[k], value, rtol=1e-10, atol=1e-12)


def test_a_shuffle_changes_who_shares_a_group():
    """Fails if rows are not shuffled before they are grouped, or always alike."""
    encoder = models.shuffled(models.grouped(mini_encoder(), 4))
    params, stats = started(encoder)
    plain = models.grouped(mini_encoder(), 4).apply(params, stats, images(), True)[0].pooled
    found = [
        np.asarray(encoder.apply(params, stats, images(), True, jax.random.key(i))[0].pooled)
        for i in (0, 1)
    ]
    for one, other in ((plain, found[0]), (found[0], found[1])):
        assert np.abs(one - other).max() > 1e-3


def test_a_shuffle_needs_a_key_in_training_only():
    """Fails if a missing key is a fixed order in silence."""
    encoder = models.shuffled(mini_encoder())
    params, stats = started(encoder)
    with pytest.raises(ValueError, match="needs a `key`"):
        encoder.apply(params, stats, images(), True)
    found = encoder.apply(params, stats, images(), False)[0].pooled
    expected = mini_encoder().apply(params, stats, images(), False)[0].pooled
    np.testing.assert_array_equal(found, expected)


def test_the_shuffle_is_the_same_on_four_devices():
    """Fails if each device draws an order of its own."""
    encoder = models.shuffled(models.grouped(mini_encoder(), 4))
    params, stats = started(encoder)
    found = []
    for devices in (1, 4):
        rows = batch_sharding(first_devices(devices))
        function = jax.jit(
            lambda x: encoder.apply(params, stats, x, True, KEY)[0].pooled, in_shardings=rows
        )
        found.append(function(jax.device_put(images(16), rows)))
    np.testing.assert_allclose(*found, rtol=1e-11, atol=1e-13)


def test_starting_from_keeps_the_arrays():
    """Fails if given weights are drawn anew, or the encoder's functions change."""
    encoder = mini_encoder()
    params, stats = jax.tree.map(lambda x: x + 0.5, started(encoder))
    found = starting_from(encoder, params, stats).init(KEY, images())
    for k, value in named((params, stats)).items():
        np.testing.assert_array_equal(named(found)[k], value)
    assert starting_from(encoder, params, stats).apply is encoder.apply
