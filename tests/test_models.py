"""Encoders and heads: sizes, padding, batch norm per group, and what the options do."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from conftest import compiled, filled, first_devices, mini_encoder, named
from flax import linen as nn

from byol_jax import models
from byol_jax.mesh import batch_sharding, replicated
from byol_jax.models import heads, make_encoder, maker, resnet
from byol_jax.models.conv import compiling_for
from byol_jax.models.norm import GroupBatchNorm, Groups
from byol_jax.models.resnet import Block, ConvSpec, ResNet

KEY = jax.random.key(0)


def shapes(encoder, size=32, channels=3):
    """(params, stats) as shapes."""
    images = jax.ShapeDtypeStruct((1, 1, size, size, channels), jnp.float32)
    return jax.eval_shape(encoder.init, KEY, images)


def outputs(encoder, size, n=2, g=2, train=False, channels=3):
    """(Features, stats) as shapes."""
    images = jax.ShapeDtypeStruct((n, g, size, size, channels), jnp.float32)
    run = functools.partial(encoder.apply, train=train)
    return jax.eval_shape(run, *shapes(encoder, size, channels), images)


# --- sizes ---------------------------------------------------------------------------------------

# torchvision's, without the classifier; R200 as timm's resnet200 has it.
PARAMETERS = {
    "resnet18": 11_176_512,
    "resnet34": 21_284_672,
    "resnet50": 23_508_032,
    "resnet101": 42_500_160,
    "resnet152": 58_143_808,
    "resnet200": 62_624_832,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts(name):
    """Fails if a block, a shortcut or a bias is added or missing."""
    params, stats = shapes(make_encoder(name))
    assert sum(x.size for x in jax.tree.leaves(params)) == PARAMETERS[name]
    assert sum(x.size for x in jax.tree.leaves(stats)) == 2 * sum(
        x.size for k, x in named_shapes(params).items() if k.endswith("scale")
    )


def named_shapes(tree):
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in leaves}


def test_project_first_adds_one_shortcut():
    """Fails if DeepMind's extra shortcut is missing, or comes by default."""
    plain = named_shapes(shapes(make_encoder("resnet18"))[0])
    extra = named_shapes(shapes(make_encoder("resnet18", project_first=True))[0])
    assert {k.rsplit("/", 1)[0] for k in extra.keys() - plain.keys()} == {
        "layer1_0/downsample_conv",
        "layer1_0/downsample_bn",
    }


@pytest.mark.parametrize("name", ["tiny", "resnet18", "resnet50"])
@pytest.mark.parametrize("width", [0.25, 2.0, 4.0])
def test_width_multiplies_every_channel(name, width):
    """Fails if the stem keeps its width, or `dim` is not what comes out."""
    encoder = make_encoder(name, width=width)
    wide, plain = named_shapes(shapes(encoder)[0]), named_shapes(shapes(make_encoder(name))[0])
    for k, x in wide.items():
        if k.endswith("scale"):
            assert x.shape[0] == width * plain[k].shape[0], k
    full = {"tiny": 128, "resnet18": 512, "resnet50": 2048}[name]
    assert encoder.dim == width * full == outputs(encoder, 32)[0].pooled.shape[-1]


@pytest.mark.parametrize(
    ("name", "stem", "size", "expected"),
    [
        ("resnet18", "imagenet", 224, [(56, 64), (28, 128), (14, 256), (7, 512)]),
        ("resnet50", "imagenet", 64, [(16, 256), (8, 512), (4, 1024), (2, 2048)]),
        ("resnet18", "cifar", 32, [(32, 64), (16, 128), (8, 256), (4, 512)]),
        ("tiny", "imagenet", 8, [(8, 32), (4, 64), (2, 128)]),
    ],
)
def test_maps_of_every_stage(name, stem, size, expected):
    """Fails if a stage halves too often, or N and G are swapped."""
    features, _ = outputs(make_encoder(name, stem=stem), size, n=3, g=2)
    assert [m.shape for m in features.maps] == [(3, 2, s, s, c) for s, c in expected]
    assert features.pooled.shape == (3, 2, expected[-1][1])


def strided_convolutions(encoder, size=64):
    """How many convolutions with a stride there are, by the side of their kernel."""
    params, stats = shapes(encoder)
    images = jnp.zeros((1, 1, size, size, 3))
    with compiling_for("tpu"):  # there a convolution is one equation
        jaxpr = jax.make_jaxpr(lambda p, s: encoder.apply(p, s, images, False))(params, stats)
    found = collections.Counter()
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "conv_general_dilated" and eqn.params["window_strides"] != (1, 1):
            found[eqn.invars[1].aval.shape[0]] += 1
    return found


def test_the_stride_is_on_the_3x3():
    """Fails if the first 1x1 of a bottleneck has the stride (v1 instead of v1.5)."""
    assert strided_convolutions(make_encoder("resnet50")) == {7: 1, 3: 3, 1: 3}
    assert strided_convolutions(make_encoder("resnet18")) == {7: 1, 3: 3, 1: 3}
    assert strided_convolutions(make_encoder("resnet50", stem="cifar")) == {3: 3, 1: 3}


# --- padding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [13, 14, 15, 16])
@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 2), (3, 1), (1, 2)])
def test_padding_at_odd_and_even_sizes(size, kernel, stride):
    """Fails if "torch" does not pad k // 2 on every side, or "same" is not XLA's SAME."""
    random = np.random.RandomState(0)
    x = random.randn(1, size, size, 3).astype(np.float32)
    w = random.randn(kernel, kernel, 3, 4).astype(np.float32)
    found = {
        padding: ConvSpec(padding).conv(4, kernel, stride, "c").apply({"params": {"kernel": w}}, x)
        for padding in ("torch", "same")
    }
    theirs = torch.nn.functional.conv2d(
        torch.tensor(x.transpose(0, 3, 1, 2)),
        torch.tensor(w.transpose(3, 2, 0, 1)),
        stride=stride,
        padding=kernel // 2,
    )
    expected = theirs.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found["torch"], expected, atol=1e-4)
    same = jax.lax.conv_general_dilated(
        x, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(found["same"], same, atol=1e-5)
    agree = found["torch"].shape == same.shape and np.allclose(expected, same, atol=1e-3)
    assert agree == (kernel == 1 or stride == 1 or size % 2 == 1)


def test_the_stem_pads_as_deepmind_does():
    """Fails if the pool of a SAME network pads (1, 1) instead of (0, 1), as at 224 px."""
    random = np.random.RandomState(0)
    x, size = random.randn(1, 1, 16, 16, 3), 16
    for padding, conv_pad, pool_pad in (("same", (2, 3), (0, 1)), ("torch", (3, 3), (1, 1))):
        encoder = make_encoder("resnet18", width=0.25, padding=padding)
        params, stats = filled(shapes(encoder, size))
        # The residual branches of the first stage add nothing: its map is the stem's.
        for i in (0, 1):
            params[f"layer1_{i}"]["bn2"]["scale"] *= 0
        run = jax.jit(lambda p, s, e=encoder: e.apply(p, s, x, False)[0].maps[0])
        stem = compiled(run, params, stats)(params, stats)
        y = jnp.pad(x[:, 0], ((0, 0), conv_pad, conv_pad, (0, 0)))
        y = jax.lax.conv_general_dilated(
            y, params["conv1"]["kernel"].astype(y.dtype), (2, 2), "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        y = np.maximum(y / np.sqrt(1 + 1e-5), 0)
        y = np.pad(y, ((0, 0), pool_pad, pool_pad, (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(y, (3, 3), (1, 2))
        pooled = windows[:, ::2, ::2].max((-1, -2))
        np.testing.assert_allclose(stem[:, 0], pooled, atol=1e-5)


# --- batch norm ----------------------------------------------------------------------------------


def flax_norm(x, params, stats):
    """One pass of flax's own batch norm in training."""
    norm = nn.BatchNorm(False, momentum=0.9, epsilon=1e-5, param_dtype=jnp.float64)
    return norm.apply({"params": params, "batch_stats": stats}, x, mutable=["batch_stats"])


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("groups", [1, 2])
def test_batch_norm_per_group_is_separate_passes(x64, devices, groups):
    """Fails if groups share statistics, move them once, in another order, or per device."""
    random = np.random.RandomState(0)
    x = random.randn(8, groups, 3, 3, 5) * 2 + np.arange(groups)[:, None, None, None]
    params = {"scale": random.randn(5), "bias": random.randn(5)}
    stats = {"mean": random.randn(5), "var": random.rand(5) + 0.5}
    mesh = first_devices(devices)

    @functools.partial(jax.jit, in_shardings=batch_sharding(mesh), out_shardings=replicated(mesh))
    def ours(x):
        variables = {"params": params, "batch_stats": stats}
        flat = x.reshape(-1, *x.shape[2:])
        norm = GroupBatchNorm(param_dtype=jnp.float64)
        y, new = norm.apply(variables, flat, Groups(groups), True, mutable=["batch_stats"])
        return y.reshape(x.shape), new["batch_stats"]

    found, found_stats = ours(jax.device_put(x, batch_sharding(mesh)))
    for g in range(groups):
        expected, new = flax_norm(x[:, g], params, stats)
        stats = new["batch_stats"]
        np.testing.assert_allclose(found[:, g], expected, rtol=1e-13, atol=2e-15)
    for name, value in stats.items():
        np.testing.assert_allclose(found_stats[name], value, rtol=1e-15, atol=1e-15)


def test_batch_norm_by_its_formula(x64):
    """Fails if the variance is unbiased, the decay not 0.9, or epsilon not 1e-5."""
    x = np.random.RandomState(0).randn(6, 3) * 0.01  # small: epsilon shows
    norm = GroupBatchNorm(param_dtype=jnp.float64)
    variables = norm.init(KEY, x, Groups(1), True)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], 0)  # init moves nothing
    y, new = norm.apply(variables, x, Groups(1), True, mutable=["batch_stats"])
    variance = ((x - x.mean(0)) ** 2).mean(0)
    np.testing.assert_allclose(y, (x - x.mean(0)) / np.sqrt(variance + 1e-5), rtol=1e-11)
    np.testing.assert_allclose(new["batch_stats"]["mean"], 0.1 * x.mean(0), rtol=1e-13)
    np.testing.assert_allclose(new["batch_stats"]["var"], 0.9 + 0.1 * variance, rtol=1e-13)
    still = norm.apply(variables | new, x, Groups(1), False)
    expected = (x - 0.1 * x.mean(0)) / np.sqrt(0.9 + 0.1 * variance + 1e-5)
    np.testing.assert_allclose(still, expected, rtol=1e-12)


@pytest.mark.parametrize("train", [True, False])
def test_a_pool_before_normalising_is_the_pool_after_it(x64, train):
    """Fails if a negative scale pools minima, or statistics are those of the pooled map."""
    random = np.random.RandomState(0)
    x = random.randn(6, 5, 5, 4) + 1
    params = {"scale": np.array([1.5, -0.7, 0.0, -2.0]), "bias": random.randn(4)}
    stats = {"mean": random.randn(4), "var": random.rand(4) + 0.5}
    norm = GroupBatchNorm(param_dtype=jnp.float64)

    def pool(x):
        return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))

    def run(before, params, x):
        variables = {"params": params, "batch_stats": stats}
        max_pool = pool if before else None
        y, new = norm.apply(variables, x, Groups(2), train, max_pool, mutable=["batch_stats"])
        y = nn.relu(y) if before else pool(nn.relu(y))
        return jnp.square(y).sum(), (y, new)

    before, after = (
        jax.jit(jax.value_and_grad(functools.partial(run, b), (0, 1), has_aux=True))(params, x)
        for b in (True, False)
    )
    equal(before, after, 1e-11)
    low = x.astype(jnp.bfloat16)
    before, after = (run(b, params, low)[1][0] for b in (True, False))
    np.testing.assert_array_equal(before, after)


class FlaxTiny(nn.Module):
    """The tiny encoder out of flax's own parts, one pass over one batch."""

    stages: int

    @nn.compact
    def __call__(self, x):
        for stage, features in enumerate((8, 16, 32, 32, 32)[: self.stages], 1):
            for i in (0, 1):
                stride = 2 if stage in (2, 3) and i == 0 else 1
                name = f"stage{stage}_{i}"
                pad = ((1, 1), (1, 1))
                x = nn.Conv(
                    features, (3, 3), stride, pad, use_bias=False, param_dtype=jnp.float64,
                    name=f"{name}_conv",
                )(x)  # fmt: skip
                x = nn.BatchNorm(
                    False, momentum=0.9, epsilon=1e-5, param_dtype=jnp.float64, name=f"{name}_bn"
                )(x)
                x = nn.relu(x)
        return x.mean((1, 2))


@pytest.mark.parametrize("stages", [3, 5])
def test_views_in_one_pass_are_separate_passes_and_joint_is_one(stages, x64, quick):
    """Fails if axis 1 is not the group, or `joint` keeps the views apart."""
    encoder = make_encoder("tiny", width=0.25, stages=stages, dtype="float64")
    params, stats = filled(shapes(encoder, 8))
    x = np.random.RandomState(0).randn(4, 2, 8, 8, 3)
    x[:, 1] = 2 * x[:, 1] + 1

    @jax.jit
    def flax_pass(stats, x):
        variables = {"params": params, "batch_stats": stats}
        return FlaxTiny(stages).apply(variables, x, mutable=["batch_stats"])

    apply = jax.jit(lambda x: encoder.apply(params, stats, x, True))
    found, found_stats = apply(x)
    moved = stats
    for g in (0, 1):
        expected, new = flax_pass(moved, x[:, g])
        moved = new["batch_stats"]
        np.testing.assert_allclose(found.pooled[:, g], expected, rtol=1e-12, atol=1e-13)
    equal(found_stats, moved)

    both = models.joint(encoder)
    found, found_stats = jax.jit(lambda x: both.apply(params, stats, x, True))(x)
    expected, new = flax_pass(stats, x.reshape(8, 8, 8, 3))
    np.testing.assert_allclose(found.pooled.reshape(8, -1), expected, rtol=1e-12, atol=1e-13)
    assert [m.shape[:2] for m in found.maps] == [(4, 2)] * stages
    equal(found_stats, new["batch_stats"])


def equal(a, b, rtol=1e-13):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-14), a, b)


# --- options -------------------------------------------------------------------------------------


def test_zero_init_last_starts_blocks_as_identities(quick):
    """Fails if another norm than a block's last starts at 0, or the option is not passed on."""
    encoder = make_encoder("resnet18", width=0.25, stem="cifar", zero_init_last=True)
    images = np.random.RandomState(0).randn(2, 1, 8, 8, 3).astype(np.float32)
    params, _ = jax.jit(encoder.init)(KEY, images)
    for name, x in named(params).items():
        if name.endswith("scale"):
            assert (x == (0 if "bn2" in name else 1)).all(), name
    spec = ConvSpec()
    for bottleneck, last, width in ((False, "bn2", 8), (True, "bn3", 8)):
        block = Block(spec, width // (4 if bottleneck else 1), 1, bottleneck, False, True, 0.0)
        x = np.random.RandomState(0).randn(2, 4, 4, 8).astype(np.float32)
        variables = jax.jit(lambda b=block, x=x: b.init(KEY, x, None, Groups(1), False))()
        assert (variables["params"][last]["scale"] == 0).all()
        np.testing.assert_array_equal(
            block.apply(variables, x, None, Groups(1), False), np.maximum(x, 0)
        )


def test_kernels_are_drawn_with_variance_one_over_fan_in(quick):
    """Fails if the init is he-normal, or goes by fan-out."""
    params, _ = jax.jit(make_encoder("tiny").init)(KEY, jnp.zeros((1, 1, 8, 8, 3)))
    for name, x in named(params).items():
        if name.endswith("kernel"):
            fan_in = np.prod(x.shape[:-1])
            assert abs(x.std() * np.sqrt(fan_in) - 1) < 0.1, name
        else:
            assert (x == name.endswith("scale")).all(), name


def short_resnet(monkeypatch, **kwargs):
    """A bottleneck ResNet of two blocks, in float64."""
    monkeypatch.setitem(resnet.DEPTHS, 8, ((1, 1), True))
    spec = ConvSpec("torch", jnp.float64, jnp.float64)
    options = {"zero_init_last": False, "project_first": False, "drop_path": 0.0, "remat": False}
    module = ResNet(8, 0.0625, "cifar", spec, **(options | kwargs))
    return models._wrap(module, 32, 3, jnp.float64, {})


def test_remat_changes_no_gradient(x64, monkeypatch):
    """Fails if rematerialisation is not applied, or changes what is computed."""
    x = np.random.RandomState(0).randn(2, 2, 6, 6, 3)
    found = {}
    for remat in (False, True):
        encoder = short_resnet(monkeypatch, remat=remat)
        params, stats = filled(shapes(encoder))

        def loss(params, encoder=encoder, stats=stats):
            features, new = encoder.apply(params, stats, x, True, KEY)
            return jnp.square(features.pooled).sum(), new

        blocks = str(jax.make_jaxpr(jax.grad(loss, has_aux=True))(params)).count("remat")
        assert (blocks > 0) == remat
        found[remat] = compiled(jax.jit(jax.grad(loss, has_aux=True)), params)(params)
    equal(found[True], found[False], 1e-12)
    assert named_shapes(found[True][0]).keys() == named_shapes(found[False][0]).keys()


@pytest.mark.parametrize("padding", ["torch", "same"])
def test_space_to_depth_is_the_same_network(x64, padding):
    """Fails if a tap of the kernel meets another pixel, or parameters have other shapes."""
    x = np.random.RandomState(0).randn(2, 2, 16, 12, 3)
    found = {}
    for blocks in (False, True):
        encoder = make_encoder(
            "resnet18", width=0.25, padding=padding, space_to_depth=blocks, dtype="float64"
        )
        params, stats = filled(shapes(encoder, 16))

        def loss(params, encoder=encoder, stats=stats):
            # The deep maps of so small an image have one place: a norm of those amplifies rounding.
            features, new = encoder.apply(params, stats, x, True)
            first = features.maps[0]
            return jnp.square(first).sum(), (first, new["bn1"], new["layer1_1"])

        step = jax.jit(jax.grad(loss, has_aux=True))
        assert ("4x4x12x16" in step.lower(params).as_text()) == blocks
        found[blocks] = compiled(step, params)(params)
    equal(found[True], found[False], 1e-9)
    assert named_shapes(found[True][0]).keys() == named_shapes(found[False][0]).keys()


def test_space_to_depth_refuses_what_it_cannot_do():
    """Fails if an odd image loses a row, or a stem without a 7x7 convolution ignores the option."""
    with pytest.raises(ValueError, match="stem 'cifar' has no 7x7"):
        make_encoder("resnet18", stem="cifar", space_to_depth=True)
    encoder = make_encoder("resnet18", width=0.25, space_to_depth=True)
    with pytest.raises(ValueError, match="even size"):
        shapes(encoder, 15)


def test_drop_path_drops_whole_branches_and_keeps_their_mean(x64):
    """Fails if places are dropped one by one, the rest is not scaled up, or a rate is 1 - rate."""
    rate, n = 0.3, 600
    spec = ConvSpec("torch", jnp.float64, jnp.float64)
    block, sure = (Block(spec, 4, 1, False, False, False, r) for r in (rate, 0.0))
    x = np.tile(np.random.RandomState(0).rand(1, 2, 2, 4), (n, 1, 1, 1))
    variables = filled(jax.eval_shape(lambda: block.init(KEY, x[:1], None, Groups(1), False)))
    variables["params"]["bn2"]["bias"] += 5.0  # so that no ReLU hides the branch
    run = functools.partial(block.apply, mutable=["batch_stats"])
    drop = jax.jit(lambda key: run(variables, x, key, Groups(1), True)[0])
    found = drop(KEY)
    every = jax.jit(
        lambda: sure.apply(variables, x, None, Groups(1), True, mutable=["batch_stats"])[0]
    )
    branch = every() - x
    kept, dropped = (x + branch / (1 - rate))[0], x[0]
    is_kept = np.isclose(found, kept[None], atol=1e-9).all((1, 2, 3))
    is_dropped = np.isclose(found, dropped[None], atol=1e-9).all((1, 2, 3))
    assert (is_kept ^ is_dropped).all()
    assert abs(is_dropped.mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / n)
    assert (drop(jax.random.key(1)) != found).any()
    still = jax.jit(lambda key: block.apply(variables, x[:2], key, Groups(1), False))
    np.testing.assert_array_equal(still(KEY), still(None))
    with pytest.raises(ValueError, match=r"drop_path.*key"):
        run(variables, x, None, Groups(1), True)


def test_drop_path_grows_from_0_to_its_rate_in_the_last_block(x64, monkeypatch):
    """Fails if every block has the same rate, or the blocks of one step share a key."""
    rates, keys = [], []

    class Spy(Block):
        def __call__(self, x, key, groups, train):
            rates.append(self.drop_path)
            keys.append(jax.random.key_data(key))
            return Block.__call__(self, x, key, groups, train)

    def run(p, s, x):
        encoder.apply(p, s, x, True, KEY)
        return jnp.stack(keys)  # all else is dead code

    encoder = make_encoder("resnet18", width=0.25, stem="cifar", drop_path=0.7)
    params, stats = filled(shapes(encoder))
    monkeypatch.setattr(resnet, "Block", Spy)
    drawn = jax.jit(run)(params, stats, jnp.zeros((2, 1, 8, 8, 3)))
    np.testing.assert_allclose(rates, 0.7 * np.arange(8) / 7)
    assert len(np.unique(drawn, axis=0)) == 8


def test_bfloat16_computes_low_and_keeps_high():
    """Fails if parameters or statistics are bfloat16, or the pooled mean is taken in it."""
    encoder = make_encoder("resnet18", dtype="bfloat16")
    assert {x.dtype for x in jax.tree.leaves(shapes(encoder))} == {jnp.dtype("float32")}
    features, stats = outputs(encoder, 32, train=True)
    assert {x.dtype for x in jax.tree.leaves(stats)} == {jnp.dtype("float32")}
    assert {x.dtype for x in features.maps} == {jnp.dtype("bfloat16")}
    assert features.pooled.dtype == jnp.float32


@pytest.mark.parametrize("name", ["tiny", "resnet18"])
def test_float64_is_float64_throughout(x64, name):
    """Fails if one leaf, or one step in between, is float32."""
    encoder = make_encoder(name, dtype="float64")
    head = heads.mlp((8, 4), dtype=jnp.float64, param_dtype=jnp.float64)
    params, stats = shapes(encoder)
    h = jax.ShapeDtypeStruct((2, 2, encoder.dim), jnp.float64)
    head_params, head_stats = jax.eval_shape(head.init, KEY, h)
    trees = (params, stats, head_params, head_stats)
    assert {x.dtype for x in jax.tree.leaves(trees)} == {jnp.dtype("float64")}

    def loss(params, stats, head_params, head_stats, x):
        features, stats = encoder.apply(params, stats, x, True, KEY)
        z, head_stats = head.apply(head_params, head_stats, features.pooled, True)
        return z.sum(), (stats, head_stats)

    x = jax.ShapeDtypeStruct((2, 2, 32, 32, 3), jnp.float64)
    text = str(jax.make_jaxpr(jax.value_and_grad(loss, has_aux=True))(*trees, x))
    assert "f64[" in text
    assert "f32[" not in text


def test_config_builds_the_same_encoder_again():
    """Fails if an argument is missing from `config`, or it is not JSON-able."""
    import json

    for name, options in (
        ("resnet18", {"width": 0.5, "padding": "same"}),
        ("vit_tiny", {"patch": 8, "registers": 2, "positions": "learned"}),
    ):
        encoder = make_encoder(name, channels=1, drop_path=0.1, **options)
        config = json.loads(json.dumps(encoder.config))
        again = make_encoder(**config)
        assert again.config == encoder.config
        assert shapes(again, 16, 1) == shapes(encoder, 16, 1)
        # The last belongs to a task, and not to the encoder.
        assert config.keys() == maker(name).__kwdefaults__.keys() - {"output_stride"} | {"name"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "tiny", "stages": 7}, r"tiny\.stages is 7; expected 3 to 6"),
        ({"name": "resnet18", "stages": 4}, r"stages is 4, but 'resnet18' always has four"),
        ({"name": "resnet19"}, "encoder.name is 'resnet19'; expected one of tiny, resnet18"),
        ({"stem": "mnist"}, "encoder.stem is 'mnist'"),
        ({"padding": "valid"}, "encoder.padding is 'valid'; expected one of torch, same"),
        ({"dtype": "float16"}, "encoder.dtype is 'float16'"),
        ({"width": 0.1}, "encoder.width is 0.1; expected a value from 0.25 to 4"),
        ({"width": 5.0}, "encoder.width is 5.0"),
        ({"drop_path": 1.0}, r"encoder.drop_path is 1.0; expected a rate in \[0, 1\)"),
        ({"drop_path": -0.1}, "encoder.drop_path is -0.1"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    """Fails if a wrong value is accepted, or the message does not name it."""
    with pytest.raises(ValueError, match=message):
        make_encoder(**arguments)


def test_images_of_other_channels_are_refused():
    """Fails if a grey image is broadcast in silence."""
    encoder = mini_encoder("float32")
    params, stats = filled(shapes(encoder, 8))
    with pytest.raises(ValueError, match=r"1 channels.*built for 3"):
        encoder.apply(params, stats, jnp.zeros((2, 1, 8, 8, 1)), False)


# --- heads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"fc1/kernel", "fc1/bias", "bn1/scale", "bn1/bias", "fc2/kernel"}),
        (
            {"hidden_bias": False, "norm_last": True},
            {"fc1/kernel", "bn1/scale", "bn1/bias", "fc2/kernel", "bn2/scale"},
        ),
        ({"norm": False, "last_bias": True}, {"fc1/kernel", "fc1/bias", "fc2/kernel", "fc2/bias"}),
    ],
)
def test_what_heads_are_made_of(options, expected):
    """Fails if BYOL's head has a norm or bias at its end, or SimCLR's last norm an offset."""
    head = heads.mlp((8, 4), **options)
    params, _ = jax.eval_shape(head.init, KEY, jax.ShapeDtypeStruct((2, 2, 6), jnp.float32))
    assert set(named_shapes(params)) == expected


def test_a_head_normalises_per_view_and_its_joint_form_over_both(x64):
    """Fails if the views of a head share statistics, or those of a joint head do not."""
    x = np.random.RandomState(0).randn(5, 2, 6) + np.array([0.0, 3.0])[:, None]
    head = heads.mlp((8, 4), dtype=jnp.float64, param_dtype=jnp.float64)
    params, stats = filled(jax.eval_shape(head.init, KEY, x))

    def by_hand(x):
        y = x @ params["fc1"]["kernel"] + params["fc1"]["bias"]
        y = np.maximum((y - y.mean(0)) / np.sqrt(y.var(0) + 1e-5), 0)
        return y @ params["fc2"]["kernel"]

    found, moved = head.apply(params, stats, x, True)
    for g in (0, 1):
        np.testing.assert_allclose(found[:, g], by_hand(x[:, g]), rtol=1e-10, atol=1e-12)
    assert named(moved).keys() == {"bn1/mean", "bn1/var"}
    found, _ = models.joint(head).apply(params, stats, x, True)
    np.testing.assert_allclose(found.reshape(10, 4), by_hand(x.reshape(10, 6)), atol=1e-12)


def test_a_head_of_parts_sees_how_they_deviate(x64):
    """Fails if a part is compared with other rows' mean, or the deviations keep their scale."""
    head = heads.mlp((4,), last_bias=True, parts=3, dtype=jnp.float64, param_dtype=jnp.float64)
    x = np.random.RandomState(0).randn(7, 2, 3, 5) * 1e-2
    x += np.random.RandomState(1).randn(7, 2, 1, 5)
    params, stats = filled(jax.eval_shape(head.init, KEY, x.reshape(7, 2, 15)))

    def by_hand(x):  # [rows, part, feature]
        a, b, c = x[:, 0], x[:, 1], x[:, 2]
        mean = (a + b + c) / 3
        y = np.concatenate([a - mean, b - mean, c - mean, mean], 1)
        y = (y - y.mean(0)) / np.sqrt(y.var(0) + 1e-5)
        return y @ params["fc1"]["kernel"] + params["fc1"]["bias"]

    found, moved = head.apply(params, stats, x.reshape(7, 2, 15), True)
    for g in (0, 1):
        np.testing.assert_allclose(found[:, g], by_hand(x[:, g]), rtol=1e-9, atol=1e-11)
    assert named(moved).keys() == {"bn0/mean", "bn0/var"}


def test_a_head_of_no_layers_is_the_identity():
    """Fails if the empty head has parameters or changes its input."""
    head, x = heads.mlp(()), np.ones((2, 2, 6), np.float32)
    params, stats = head.init(KEY, x)
    for train in (False, True):
        y, moved = head.apply(params, stats, x, train)
        np.testing.assert_array_equal(y, x)
        assert not jax.tree.leaves((params, stats, moved))


@pytest.mark.parametrize("option", ["zero_init_last", "project_first", "remat", "space_to_depth"])
def test_the_tiny_encoder_refuses_options_of_residual_blocks(option):
    """Fails if an option is ignored in silence."""
    with pytest.raises(ValueError, match="no residual blocks"):
        models.make_encoder("tiny", **{option: True})
