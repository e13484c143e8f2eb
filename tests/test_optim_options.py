"""The optimizers' options against a NumPy loop; unused, they leave the program as it was."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import compiled, filled, named
from test_optim import SCHEDULE, STEPS, moving_lr

from byol_jax import optim
from byol_jax.methods.byol import byol
from byol_jax.models import heads, make_encoder
from byol_jax.models.network import network
from byol_jax.optim import Group, Rates

SMALL = optim.warmup_cosine(0.03, 4, STEPS)


def start():
    random = np.random.RandomState(0)
    return {
        "encoder": {
            "conv1": {"kernel": random.randn(3, 3, 2, 4)},
            "bn1": {"scale": np.ones(4), "bias": np.zeros(4)},
            "layer1_0": {"conv1": {"kernel": random.randn(2, 3)}, "bn1": {"scale": np.ones(3)}},
        },
        "predictor": {"fc1": {"kernel": random.randn(4, 5), "bias": random.randn(5)}},
        "dead": {"kernel": np.zeros((2, 2))},  # a norm of 0
        "still": {"kernel": random.randn(2, 2)},  # a gradient of 0
    }


def gradient(path, p, step):
    """A gradient that depends on the parameter and the step; some are large, some small."""
    random = np.random.RandomState(step * 100 + len(path))
    size = 5.0 if step % 3 == 0 else 0.2
    return 0 * p if "still" in path else size * (0.3 * p + random.randn(*p.shape))


def run(optimizer, dtype="float64"):
    """{path: parameter} after STEPS steps of an optimizer of ours."""
    params = jax.tree.map(lambda p: p.astype(dtype), start())
    state = optimizer.init(params)
    update = compiled(jax.jit(optimizer.update), params, state, params, jnp.int32(0))
    for step in range(STEPS):
        grads = jax.tree_util.tree_map_with_path(
            lambda path, p, step=step: gradient(
                jax.tree_util.keystr(path, simple=True, separator="/"), p, step
            ).astype(dtype),
            params,
        )
        updates, state = update(grads, state, params, jnp.int32(step))
        params = jax.tree.map(lambda p, u: p + np.asarray(u), params, updates)
    return named(params)


def norm(*arrays):
    return math.sqrt(sum(float((a**2).sum()) for a in arrays))


def numpy_run(
    kind,
    *,
    lr=moving_lr,
    rate=lambda path, lr, step: lr,
    decay=lambda step: 0.02,
    spared=lambda path: path.endswith(("bias", "scale")),
    clip_all=math.inf,
    clip_each=math.inf,
    lr_inside=False,
    held_until=lambda path: 0,
):
    """{path: parameter} after STEPS steps of lars, solo, larc, sgd or adamw, one leaf at a time.

    held_until(path): the step from which on the leaf is updated.
    rate(path, lr, step): the leaf's learning rate. decay(step). spared(path): neither decayed nor
    adapted. eta 0.05, momentum 0.9; b1 0.9, b2 0.95, eps 1e-3.
    """
    params = named(start())
    first, second = ({path: 0 * p for path, p in params.items()} for _ in range(2))
    for step in range(STEPS):
        grads = {path: gradient(path, p, step) for path, p in params.items()}
        common = norm(*grads.values())
        for path, p in params.items():
            g, own = grads[path], rate(path, lr(step), step)
            if common >= clip_all:
                g = g * clip_all / common
            if clip_each / (norm(g) + 1e-6) < 1:
                g = g * clip_each / (norm(g) + 1e-6)
            wd, count = 0.0 if spared(path) else decay(step), step + 1 - held_until(path)
            if count < 1:
                continue
            if kind == "adamw":
                first[path] = 0.9 * first[path] + 0.1 * g
                second[path] = 0.95 * second[path] + 0.05 * g**2
                m = first[path] / (1 - 0.9**count)
                v = second[path] / (1 - 0.95**count)
                params[path] = p - own * (m / (np.sqrt(v) + 1e-3) + wd * p)
                continue
            if kind in ("solo", "larc"):
                if not spared(path) and norm(p) != 0 and norm(g) != 0:
                    ratio = 0.05 * norm(p) / (norm(g) + norm(p) * wd + 1e-8)
                    ratio = min(ratio / own, 1) if kind == "solo" and own else ratio
                    g = (g + wd * p) * (ratio if own or kind == "larc" else 1)
            else:
                g = g + wd * p
                if kind == "lars" and not spared(path) and norm(p) > 0 and norm(g) > 0:
                    g = g * 0.05 * norm(p) / norm(g)
            first[path] = 0.9 * first[path] + (own * g if lr_inside else g)
            params[path] = p - (1 if lr_inside else own) * first[path]
    return params


def assert_close(found, expected, rtol=1e-10):
    assert found.keys() == expected.keys()
    for path, x in found.items():
        np.testing.assert_allclose(x, expected[path], rtol=rtol, atol=rtol, err_msg=path)


def make(kind, lr=SCHEDULE, **options):
    """An optimizer of ours with the numbers of `numpy_run`."""
    options = {"weight_decay": 0.02} | options
    if kind == "adamw":
        return optim.adamw(lr, b2=0.95, eps=1e-3, **options)
    if kind == "sgd":
        return optim.sgd(lr, **options)
    return optim.lars(lr, eta=0.05, clip=kind == "solo", larc=kind == "larc", **options)


def small(step):
    return 0.01 * moving_lr(step)


KINDS = ("lars", "solo", "sgd", "adamw")
BY_NAME = {
    "predictor/fc1/kernel": Group(factor=0.5),  # several components; before the next pattern
    "predictor": Group(lr=optim.constant(0.01)),
    "scale": Group(factor=0.0),
    "conv1": Group(factor=2.0, lr=optim.cosine(0.01, 0.02, STEPS)),
}


def by_name(path, lr, step):
    """The rates of BY_NAME, with a further 0.5 in the encoder."""
    layer = 0.5 if path.startswith("encoder") else 1.0
    if path == "predictor/fc1/kernel":
        return 0.5 * lr
    if path.startswith("predictor"):
        return 0.01
    if path.endswith("scale"):
        return 0.0
    if "/conv1/" in path:
        return layer * 2 * (0.02 - 0.005 * (1 + math.cos(math.pi * step / STEPS)))
    return layer * lr


def half_the_encoder(path):
    return 0.5 if path.startswith("encoder") else 1.0


def test_solo_learns_clip_equals_numpy(x64):
    """Fails without + 1e-8 or / lr, if |g + wd p| is the norm, or a dead leaf is decayed."""
    found = run(make("solo"))
    assert all(np.isfinite(p).all() for p in found.values())  # lr is 0 at step 0
    assert_close(found, numpy_run("solo"))
    # Both branches were taken: at a small rate nothing is clipped, at a large one everything.
    assert_close(run(make("solo", SMALL)), numpy_run("solo", lr=small))


def test_larc_of_everything_equals_numpy(x64):
    """Fails if the ratio is clipped, the decay is in |g|, a bias is spared, or a bias of 0 decays.

    With SwAV's options: nothing is excluded, the rate is multiplied after the momentum.
    """
    found = run(make("larc", SMALL, exclude=()))
    assert_close(found, numpy_run("larc", lr=small, spared=lambda path: False))
    assert_close(run(make("larc")), numpy_run("larc"))
    with pytest.raises(ValueError, match="clip and larc are both true; clip is LARC"):
        optim.lars(SMALL, clip=True, larc=True)


@pytest.mark.parametrize("kind", ["larc", "sgd", "adamw"])
def test_held_parameters_equal_numpy(x64, kind):
    """Fails if a held parameter decays, fills its momentum, or starts with Adam's count of others.

    With DINO's clip of each tensor outside, and a decay that moves.
    """
    schedule = optim.cosine(0.04, 0.4, STEPS)
    rates = Rates(SMALL, {"bn1": Group(factor=0.5)})  # of which some are held, some are not
    inner = optim.held(make(kind, rates, weight_decay=schedule), ("fc1", "layer1_0"), 7)
    found = run(optim.clip_gradients(inner, 3.0, per_tensor=True))
    expected = numpy_run(
        kind,
        lr=small,
        rate=lambda path, lr, step: lr / 2 if "/bn1/" in path else lr,
        decay=lambda step: 0.4 - 0.18 * (1 + math.cos(math.pi * step / STEPS)),
        clip_each=3.0,
        held_until=lambda path: 7 if "fc1" in path or "layer1_0" in path else 0,
    )
    assert_close(found, expected)


def test_held_parameters_and_their_state_stay_bitwise():
    """Fails if zeros are added where nothing should be, or another step is the last one held."""
    optimizer = optim.held(make("adamw", optim.constant(0.1)), ("predictor",), 3)
    params = jax.tree.map(np.float32, start())
    state = begun = optimizer.init(params)
    update = compiled(jax.jit(optimizer.update), params, state, params, jnp.int32(0))
    for step in range(4):
        updates, state = update(params, state, params, jnp.int32(step))
        assert all((u == 0).all() for u in named(updates["predictor"]).values()) == (step < 3)
        same = jax.tree.map(np.array_equal, state[1], begun[1])
        assert all(jax.tree.leaves(same)) == (step < 3)
        assert (updates["encoder"]["conv1"]["kernel"] != 0).all()
    with pytest.raises(ValueError, match="'predictr' of groups, exclude or hold matches no"):
        optim.held(make("sgd"), ("predictr",), 3).init(params)
    with pytest.raises(ValueError, match="'lost' of groups"):  # the inner one checks all of them
        optim.held(make("sgd", exclude=("lost", "fc1")), ("predictor",), 3).init(params)


@pytest.mark.parametrize("kind", KINDS)
def test_rates_by_name_and_layer_equal_numpy(x64, kind):
    """Fails if the last match wins, factors do not multiply, or the clip goes by the base rate."""
    rates = Rates(SMALL, BY_NAME, half_the_encoder)
    found = run(make(kind, rates, lr_inside=True) if kind == "lars" else make(kind, rates))
    assert_close(found, numpy_run(kind, lr=small, rate=by_name, lr_inside=kind == "lars"))


@pytest.mark.parametrize("kind", KINDS)
def test_scheduled_decay_of_everything_equals_numpy(x64, kind):
    """Fails if the decay goes by another step, joins on the other side, or spares a bias."""
    schedule = optim.cosine(0.04, 0.4, STEPS)
    found = run(make(kind, SMALL, weight_decay=schedule, exclude=()))

    def decay(step):
        return 0.4 - 0.18 * (1 + math.cos(math.pi * step / STEPS))

    assert_close(found, numpy_run(kind, lr=small, decay=decay, spared=lambda path: False))


@pytest.mark.parametrize("per_tensor", [False, True])
@pytest.mark.parametrize("kind", ["lars", "sgd", "adamw"])
def test_clipped_gradients_equal_numpy(x64, kind, per_tensor):
    """Fails if small norms are scaled up, 1e-6 is left out, or the two norms are swapped."""
    found = run(optim.clip_gradients(make(kind, SMALL), 3.0, per_tensor=per_tensor))
    bound = {"clip_each" if per_tensor else "clip_all": 3.0}
    expected = numpy_run(kind, lr=small, **bound)
    assert_close(found, expected)
    unclipped = numpy_run(kind, lr=small)
    assert max(np.abs(expected[path] - p).max() for path, p in unclipped.items()) > 1e-4


def test_options_keep_float32(x64):
    """Fails if a rate or decay, float64 here, changes the dtype of what it multiplies."""
    rates = Rates(SMALL, BY_NAME, half_the_encoder)
    decay = optim.cosine(0.02, 0.02, STEPS)
    for kind in ("solo", "adamw"):
        optimizer = optim.clip_gradients(make(kind, rates, weight_decay=decay), 1e6)
        found = run(optimizer, "float32")
        assert {p.dtype for p in found.values()} == {np.dtype("float32")}
        assert_close(found, numpy_run(kind, lr=small, rate=by_name), 1e-5)


def legacy(name, lr):
    """The optimizers as they were before there were options: frozen."""

    def mask(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: path[-1].key not in ("bias", "scale"), params
        )

    def times_lr(updates, state, params=None, *, lr):
        return jax.tree.map(lambda u: (-lr * u).astype(u.dtype), updates), state

    def ratio(update, param):
        norms = jnp.sqrt(jnp.square(param).sum()), jnp.sqrt(jnp.square(update).sum())
        nonzero = (norms[0] > 0) & (norms[1] > 0)
        ratio = jnp.where(nonzero, 0.05 * norms[0] / jnp.where(nonzero, norms[1], 1), 1)
        return update * ratio

    empty = optax.identity().init
    scale = optax.GradientTransformationExtraArgs(empty, times_lr)
    adapt = optax.GradientTransformation(
        empty, lambda updates, state, params: (jax.tree.map(ratio, updates, params), state)
    )
    decay = optax.add_decayed_weights(0.0 if "without decay" in name else 0.02, mask)
    trace = optax.trace(0.9, nesterov="nesterov" in name)
    parts = {
        "lars": [decay, optax.masked(adapt, mask), trace, scale],
        "lars inside": [decay, optax.masked(adapt, mask), scale, trace],
        "sgd nesterov": [decay, trace, scale],
        "sgd without decay": [decay, trace, scale],
        "adamw": [optax.scale_by_adam(0.9, 0.95, 1e-3), decay, scale],
    }
    chain = optax.chain(*parts[name])

    def update(grads, state, params, step):
        return chain.update(grads, state, params, lr=lr(step))

    return optim.Optimizer(chain.init, update, lr)


def legacy_warmup_cosine(base, warmup_steps, total_steps):
    def schedule(step):
        step = jnp.asarray(step, jnp.result_type(float))
        warm = base * step / max(warmup_steps, 1)
        done = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
        cosine = 0.5 * base * (1 + jnp.cos(jnp.pi * jnp.clip(done, 0, 1)))
        return jnp.where(step < warmup_steps, warm, cosine)

    return schedule


UNUSED = {
    "lars": lambda: make("lars"),
    "lars inside": lambda: make("lars", lr_inside=True),
    "sgd nesterov": lambda: make("sgd", nesterov=True),
    "sgd without decay": lambda: make("sgd", weight_decay=0.0),
    "adamw": lambda: make("adamw"),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", UNUSED)
def test_unused_options_leave_program_and_state_as_they_were(request, name, dtype):
    """Fails at a multiplication by 1, an addition of 0, or another tree of the state."""
    if dtype == "float64":
        request.getfixturevalue("x64")
    ours = UNUSED[name]()
    theirs = legacy(name, legacy_warmup_cosine(3.0, 4, STEPS))
    params = jax.tree.map(lambda p: p.astype(dtype), start())
    states = ours.init(params), theirs.init(params)
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
    programs = [
        jax.make_jaxpr(o.update)(params, state, params, jnp.int32(3))
        for o, state in zip((ours, theirs), states, strict=True)
    ]
    assert str(programs[0]) == str(programs[1])


def test_unused_options_leave_the_bits():
    """Fails if equal programs hide unequal constants (0.5 * base rounded otherwise, say)."""
    found = run(make("lars"), "float32")
    expected = run(legacy("lars", legacy_warmup_cosine(3.0, 4, STEPS)), "float32")
    assert_close(found, expected, 0)


def resnet_params():
    encoder, head = make_encoder("resnet18"), heads.mlp((64, 32))
    method = byol(network(encoder, head), head, tau=optim.constant(0.9))
    batch = {"views": jax.ShapeDtypeStruct((2, 2, 32, 32, 3), jnp.float32)}
    return filled(jax.eval_shape(method.init, jax.random.key(0), batch)[0])


def test_layers_of_a_resnet18():
    """Fails if a norm of a head or block counts as the stem's, or blocks are counted per stage."""
    params = resnet_params()
    factor = optim.layer_decay(0.5, *optim.resnet_layers((2, 2, 2, 2)))
    rates = Rates(optim.constant(1.0), {"bias": Group(factor=0.25)}, factor)
    found = named(optim.learning_rates(rates, params, jnp.int32(0)))
    blocks = [f"encoder/layer{s}_{i}/" for s in (1, 2, 3, 4) for i in (0, 1)]
    counts = dict.fromkeys(range(10), 0)
    for path, lr in found.items():
        layer = next((n for n, block in enumerate(blocks, 1) if path.startswith(block)), None)
        if layer is None:
            layer = 9 if path.startswith(("projector/", "predictor/")) else 0
        assert lr == 0.5 ** (9 - layer) * (0.25 if path.endswith("/bias") else 1), path
        counts[layer] += 1
    # A convolution and a norm, twice in a block and once more for a shortcut.
    assert counts == {0: 3, 1: 6, 2: 6, 3: 9, 4: 6, 5: 9, 6: 6, 7: 9, 8: 6, 9: 10}


def test_what_patterns_exclude():
    """Fails if a pattern matches parts of names ("conv" in "conv1"), or only last components."""

    def left_out(*exclude):
        return {
            path for path, kept in named(optim.weights_mask(start(), exclude)).items() if not kept
        }

    assert left_out() == left_out("conv", "encoder/bn", "onv1/kernel") == set()
    assert left_out("predictor") == {"predictor/fc1/kernel", "predictor/fc1/bias"}
    assert left_out("bn1/scale") == {"encoder/bn1/scale", "encoder/layer1_0/bn1/scale"}
    assert left_out("conv1/kernel", "still", "conv1") == {
        "encoder/conv1/kernel", "encoder/layer1_0/conv1/kernel", "still/kernel"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("groups", "exclude", "refused"),
    [
        ({"predicter": Group()}, optim.EXCLUDED, "predicter"),
        ({"predictor": Group(), "fc1": Group()}, optim.EXCLUDED, "fc1"),  # taken before
        ({"": Group()}, optim.EXCLUDED, ""),
        ({}, ("bias", "scales"), "scales"),
    ],
)
def test_a_pattern_without_effect_is_refused(groups, exclude, refused):
    """Fails if a misspelt or hidden pattern goes unnoticed, or the names are not listed."""
    optimizer = optim.sgd(Rates(optim.constant(0.1), groups), exclude=exclude)
    with pytest.raises(ValueError, match=rf"pattern '{refused}'.*Correct.*: bias, bn1, conv1, "):
        optimizer.init(start())


def test_other_errors():
    """Fails if a bound, layer or encoder is taken in silence, or if there must be biases."""
    optim.sgd(SCHEDULE).init({"kernel": np.ones(2)})
    with pytest.raises(ValueError, match="max_norm is 0; expected above 0"):
        optim.clip_gradients(optim.sgd(SCHEDULE), 0)
    with pytest.raises(ValueError, match="a/b is in layer 3; expected 0 to num_layers=2"):
        optim.layer_decay(0.5, lambda path: 3, 2)("a/b")
    layer_of, _ = optim.resnet_layers((2, 2))
    with pytest.raises(ValueError, match=r"encoder/layer1_2/x .*\(2, 2\).*layer2_1. Give"):
        layer_of("encoder/layer1_2/x")


def test_a_restored_step_has_its_rates_and_decay(x64):
    """Fails if a group's rate or the decay counts calls instead of going by the step."""
    groups = {"predictor": Group(factor=2.0, lr=SMALL)}
    optimizer = optim.sgd(
        Rates(SCHEDULE, groups), weight_decay=optim.cosine(0.1, 0.9, STEPS), momentum=0.0
    )
    params = {"fc": {"kernel": np.ones(2)}, "predictor": {"kernel": np.ones(2)}}
    state = optimizer.init(params)
    for step in (11, 2, 11):
        updates, state = optimizer.update(params, state, params, jnp.int32(step))
        slope = 1 + 0.9 - 0.4 * (1 + math.cos(math.pi * step / STEPS))
        np.testing.assert_allclose(updates["fc"]["kernel"], -moving_lr(step) * slope)
        np.testing.assert_allclose(updates["predictor"]["kernel"], -2 * small(step) * slope)
        np.testing.assert_allclose(optimizer.lr(step), moving_lr(step))


def test_warmup_cosine_between_other_ends(x64):
    """Fails if the cosine ends at 0 or scales by final, or the ramp misses start or base."""
    schedule = jax.vmap(optim.warmup_cosine(4.8, 10, 110, final=0.0048, warmup_start=0.3))
    down = [0.0048 + 4.7952 * (1 + math.cos(math.pi * k / 100)) / 2 for k in range(101)]
    expected = [0.3 + 4.5 * k / 10 for k in range(10)] + down + [0.0048] * 5
    np.testing.assert_allclose(schedule(jnp.arange(len(expected))), expected, rtol=1e-13)


def test_cosine_rises_and_stays(x64):
    """Fails if the decay's schedule falls instead, warms up, or returns after its end."""
    up = [0.04 + 0.36 * (1 - math.cos(math.pi * k / 50)) / 2 for k in range(51)] + [0.4] * 9
    schedule = jax.vmap(optim.cosine(0.04, 0.4, 50))
    np.testing.assert_allclose(schedule(jnp.arange(60)), up, rtol=1e-13)


def test_multistep_drops_at_its_milestones(x64):
    """Fails if a drop comes a step late, is taken once only, or the warm-up is not linear."""
    expected = [0.3 * k / 4 for k in range(4)] + [0.3] * 8 + [0.03] * 4 + [0.003] * 4
    schedule = jax.vmap(optim.warmup_multistep(0.3, 4, (16, 12)))  # in any order
    np.testing.assert_allclose(schedule(jnp.arange(20)), expected, rtol=1e-14)
    half = optim.warmup_multistep(0.3, 0, (1,), factor=0.5)
    np.testing.assert_allclose([half(0), half(1)], [0.3, 0.15])
