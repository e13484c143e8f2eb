"""Linear evaluation and fine-tuning: side by side, frozen, and picked on validation alone."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import compiled, filled, first_devices, make_batch, mini_encoder, named, start_state

from byol_jax import optim
from byol_jax.core import Encoder, Features, starting_from
from byol_jax.evals import linear as protocol_module
from byol_jax.evals.linear import Part, Parts, Protocol, linear
from byol_jax.methods.supervised import supervised
from byol_jax.train_step import init_state, make_train_step

KEY, CLASSES = jax.random.key(1), 3


@functools.cache
def start(dtype="float64"):
    images = jax.ShapeDtypeStruct((1, 1, 8, 8, 3), dtype)
    params, stats = filled(jax.eval_shape(mini_encoder(dtype).init, KEY, images), seed=3)
    return params, stats


def given_encoder(dtype="float64"):
    """The encoder that starts from `start`."""
    return starting_from(mini_encoder(dtype), *start(dtype))


def train(steps=10, nesterov=True, **options):
    """(named states before and after, the last metrics) of some steps in float64."""
    method = supervised(given_encoder(), CLASSES, **options)
    optimizer = optim.sgd(optim.warmup_cosine(0.4, 0, steps), nesterov=nesterov)
    batch = make_batch(8)
    state = start_state(method, optimizer, batch)
    for k, value in zip(("encoder", "stats"), start(), strict=True):
        home = state.params if k in state.params else state.extra
        home[k] = jax.tree.map(jnp.asarray, value)
    # One kernel for every layer, as the real init draws it.
    head = state.params["head"]
    head["kernel"] = jnp.tile(filled({"kernel": head["kernel"][0]})["kernel"][None],
                              (len(head["kernel"]), 1, 1))  # fmt: skip
    before = named(state)
    step = compiled(jax.jit(make_train_step(method, optimizer)), state, batch, KEY)
    for _ in range(steps):
        state, metrics = step(state, batch, KEY)
    return before, named(state), metrics


def test_rates_side_by_side_equal_each_alone(x64):
    """Fails if layers share a gradient, or a factor is not a learning rate."""
    factors = (1.0, 0.5, 0.05)
    _, together, _ = train(frozen=True, lr_factors=factors)
    for i, factor in enumerate(factors):
        _, alone, _ = train(frozen=True, lr_factors=(factor,))
        for leaf in ("kernel", "bias"):
            ours, theirs = (x[f"params/head/{leaf}"] for x in (together, alone))
            np.testing.assert_allclose(ours[i], theirs[0], rtol=1e-9, atol=1e-12)
    a, b = together["params/head/kernel"][:2]
    assert np.abs(a - b).max() > 1e-3


def test_a_frozen_encoder_stays_as_it_is(x64):
    """Fails if parameters or running statistics move, or the features use batch statistics."""
    before, after, _ = train(frozen=True)
    params, stats = start()
    frozen = {f"extra/encoder/{k}" for k in named(params)}
    frozen |= {f"extra/stats/{k}" for k in named(stats)}
    assert frozen == {k for k in after if k.startswith("extra/")}
    for k in frozen:
        np.testing.assert_array_equal(after[k], before[k], err_msg=k)
    assert {k for k in after if k.startswith("params/")} == {
        "params/head/kernel",
        "params/head/bias",
    }


def test_fine_tuning_moves_everything(x64):
    """Fails if a layer is left frozen, or statistics are."""
    before, after, _ = train(frozen=False)
    for k in before:
        if k.startswith(("params/", "extra/")):
            assert (after[k] != before[k]).any(), k


def test_the_frozen_loss_by_hand(x64):
    """Fails if the features are not those of inference, or unlabelled and masked rows count."""
    method = supervised(given_encoder(), CLASSES, frozen=True, lr_factors=(1.0, 0.5))
    batch = make_batch(6)
    batch["label"][1], batch["mask"][4] = -1, 0
    random = np.random.RandomState(0)
    head = {"kernel": random.randn(2, 16, CLASSES), "bias": random.randn(2, CLASSES)}
    extra = dict(zip(("encoder", "stats"), start(), strict=True))
    args = ({"head": head}, extra, batch, KEY, np.int32(0))
    value, aux = compiled(jax.jit(method.loss), *args)(*args)
    h = mini_encoder().apply(*start(), batch["views"], False)[0].pooled[:, 0]
    losses, top1 = [], []
    rows = [0, 2, 3, 5]
    for kernel, bias in zip(head["kernel"], head["bias"], strict=True):
        logits = np.asarray(h) @ kernel + bias
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        losses.append(-np.mean([log_p[i, batch["label"][i]] for i in rows]))
        top1.append(100 * np.mean([logits[i].argmax() == batch["label"][i] for i in rows]))
    np.testing.assert_allclose(value, losses[0] + 0.5 * losses[1], rtol=1e-11)
    np.testing.assert_allclose(aux.metrics["train/loss"], np.mean(losses), rtol=1e-11)
    np.testing.assert_allclose(aux.metrics["train/top1"], max(top1))


def test_several_rates_need_a_frozen_encoder():
    """Fails if fine-tuning mixes the gradients of several layers."""
    with pytest.raises(ValueError, match="2 linear layers side by side need a frozen encoder"):
        supervised(mini_encoder("float32"), CLASSES, lr_factors=(1.0, 0.5))


def test_training_starts_from_the_given_weights():
    """Fails if the weights are ignored, aliased by the state, or the layers start apart."""
    params, stats = jax.tree.map(jnp.asarray, start("float32"))
    method = supervised(starting_from(mini_encoder("float32"), params, stats), CLASSES)
    optimizer = optim.sgd(optim.constant(0.1))
    batch = make_batch(4, "float32")
    state = init_state(method, optimizer, KEY, batch, first_devices(1))
    for k, value in named(params).items():
        np.testing.assert_array_equal(named(state.params["encoder"])[k], value)
    for leaf in jax.tree.leaves(state):
        leaf.delete()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((params, stats)))
    frozen = supervised(given_encoder("float32"), CLASSES, frozen=True, lr_factors=(1.0, 0.5))
    kernel = frozen.init(KEY, batch)[0]["head"]["kernel"]
    np.testing.assert_array_equal(kernel[0], kernel[1])


# --- the protocol --------------------------------------------------------------------------------


def flat_encoder():
    """An encoder of one scale: its features are the mean colour and two more of its pixels."""

    def init(key, images):
        return {"scale": jnp.ones(3)}, {"mean": jnp.zeros(3)}

    def apply(params, stats, images, train, key=None):
        pooled = images.mean((2, 3)) * params["scale"][None, None]
        if train:
            stats = {"mean": 0.9 * stats["mean"] + 0.1 * pooled.mean((0, 1))}
        return Features(pooled, (images,)), stats

    return Encoder(init, apply, 3, 3, {})


def part(n, seed, shift=0):
    """A data set whose class is its colour; `shift` gives every example a wrong label."""
    random = np.random.RandomState(seed)
    label = (np.arange(n) % 3).astype(np.int32)
    colour = 2 * np.eye(3)[label] - 1
    images = colour[:, None, None, None] + 0.3 * random.randn(n, 1, 2, 2, 3)
    wrong = ((label + shift) % 3).astype(np.int32)

    def batch(rows):
        return {
            "views": images[rows].astype(np.float32),
            "index": rows.astype(np.int32),
            "label": wrong[rows],
            "mask": np.ones(len(rows), np.float32),
        }

    def training(batch_size, seed):
        for epoch in itertools.count():
            order = np.random.RandomState([seed, epoch]).permutation(n)
            for i in range(n // batch_size):
                yield batch(order[i * batch_size : (i + 1) * batch_size])

    return Part(n, training, lambda: [batch(np.arange(n))])


GIVEN = ({"scale": np.ones(3, np.float32)}, {"mean": np.zeros(3, np.float32)})


def evaluate(validation=0, test=0, lrs=(64.0, 1e-6), epochs=(8,), frozen=True, given=GIVEN):
    parts = Parts(part(32, 0), part(24, 1), part(24, 2, validation), part(24, 3, test))
    protocol = Protocol(lrs, epochs, batch_size=16, frozen=frozen)
    return linear(starting_from(flat_encoder(), *given), parts, protocol, CLASSES, first_devices(2))


@pytest.mark.usefixtures("quick")
def test_the_rate_is_picked_on_validation_alone():
    """Fails if the test labels have a say, or the training accuracy has."""
    right = evaluate()
    assert (right["lr"], right["top1"], right["validation_top1"]) == (64.0, 100, 100)
    # Other test labels: the same pick, though the other rate would have done better on them.
    swapped = evaluate(test=2)
    assert (swapped["lr"], swapped["validation_top1"]) == (64.0, 100)
    assert swapped["top1"] == 0
    # Other validation labels: what learns nothing beats what learns the wrong thing.
    inverted = evaluate(validation=2)
    assert inverted["lr"] == 1e-6
    assert inverted["validation_top1"] > 0


@pytest.mark.usefixtures("quick")
def test_epochs_are_swept_with_the_rates():
    """Fails if the number of epochs is not chosen on validation, or not what it trains for."""
    found = evaluate(lrs=(4.0,), epochs=(1, 8))
    assert (found["epochs"], found["top1"]) == (8, 100)
    # What learns the wrong thing does so for one epoch rather than for eight.
    found = evaluate(validation=2, lrs=(4.0,), epochs=(8, 1))
    assert (found["epochs"], found["lr"]) == (1, 4.0)
    assert found["top1"] < 100


@pytest.mark.usefixtures("quick")
def test_a_rate_that_diverges_is_left_out():
    """Fails if a rate that is too large ends the sweep, or is chosen, or none is left."""
    assert evaluate(lrs=(1e30, 64.0), epochs=(2,), frozen=False)["lr"] == 64
    with pytest.raises(ValueError, match=r"not finite with any .*; set smaller eval\.finetune_lrs"):
        evaluate(lrs=(1e30, 1e31), epochs=(2,), frozen=False)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("frozen", [True, False])
def test_one_rate_needs_no_sweep(frozen):
    """Fails if images are held out, or read, to choose from one rate and one number of epochs."""
    parts = Parts(part(32, 0), None, None, part(24, 3))
    protocol = Protocol((64.0,), (8,), batch_size=16, frozen=frozen)
    encoder = starting_from(flat_encoder(), *GIVEN)
    found = linear(encoder, parts, protocol, CLASSES, first_devices(2))
    assert (found["lr"], found["epochs"], found["train_images"]) == (64.0, 8, 32)
    assert found["top1"] > 90
    assert "validation_top1" not in found


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("frozen", [True, False])
def test_the_callers_weights_are_left_alone(frozen, monkeypatch):
    """Fails if the weights given are donated or trained in place, or fine-tuning freezes them."""
    given, made = jax.tree.map(jnp.asarray, GIVEN), []

    def spy(encoder, classes, **options):
        made.append(options["frozen"])
        return supervised(encoder, classes, **options)

    monkeypatch.setattr(protocol_module, "supervised", spy)
    found = evaluate(lrs=(64.0, 32.0), frozen=frozen, given=given)
    assert made == [frozen] * (2 if frozen else 3)  # of the sweep, then once on all
    counts = {"train_images", "test_images"}
    assert set(found) == {"top1", "per_class", "lr", "epochs", "validation_top1"} | counts
    assert (found["train_images"], found["test_images"]) == (32, 24)
    assert found["top1"] > 90
    for ours, before in zip(jax.tree.leaves(given), jax.tree.leaves(GIVEN), strict=True):
        np.testing.assert_array_equal(ours, before)


def test_too_few_images_for_the_devices():
    """Fails if a batch of 0 is trained on."""
    parts = Parts(*(part(3, i) for i in range(4)))
    protocol = Protocol((0.1,), (1,), 16, True)
    with pytest.raises(ValueError, match="3 labelled images are too few for 8 devices"):
        linear(starting_from(flat_encoder(), *GIVEN), parts, protocol, CLASSES, first_devices(8))
