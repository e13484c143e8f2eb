"""Encoders in bfloat16 on a CPU, against the same encoders in float32.

jaxlib 0.12.0 gave NaN for stacks of bfloat16 convolutions ahead of a mean; 0.10.2 did not.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import filled

from byol_jax.convert.info import EncoderInfo
from byol_jax.convert.load import load_encoder
from byol_jax.convert.native import save_encoder
from byol_jax.evals.features import extract
from byol_jax.mesh import make_mesh
from byol_jax.models import make_encoder
from byol_jax.models.conv import compiling_for, conv

HALF = ("bfloat16", "float16")
ROUNDING = {"bfloat16": 2**-8, "float16": 2**-11}  # of one number, relative


def relative(found, expected):
    found, expected = (np.asarray(x, np.float64) for x in (found, expected))
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


# --- stacks of convolutions ----------------------------------------------------------------------


def stack(kernels, strides, x, dtype):
    """Convolutions with ReLU and the mean over positions: what was wrong, in its plainest form."""
    x = x.astype(dtype)
    for kernel, stride in zip(kernels, strides, strict=True):
        pad = kernel.shape[0] // 2
        x = jax.nn.relu(conv(x, kernel.astype(dtype), (stride, stride), [(pad, pad)] * 2))
    return x.astype(jnp.float32).mean((1, 2))


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(("size", "batch"), [(8, 3), (16, 2), (33, 1)])
@pytest.mark.parametrize(
    ("channels", "strides", "kernel"),
    [
        ((16, 32), (1,), 3),
        ((16, 32, 32), (2, 1), 3),
        ((3, 16, 16, 32, 32), (1, 1, 2, 1), 3),
        ((3, 16, 16, 32), (2, 1, 1), 7),
        ((16, 32, 32, 64), (1, 2, 1), 1),
    ],
)
def test_a_stack_and_its_gradients(channels, strides, kernel, size, batch, dtype):
    """Fails if XLA may fuse convolutions and their rounding: NaN with jaxlib 0.12.0.

    (Take the barrier out of `_rounded`.) Gradients differ by the ReLUs whose inputs round to 0.
    """
    draw = np.random.default_rng(size)
    kernels = [
        jnp.asarray(draw.normal(0, (2 / (kernel**2 * i)) ** 0.5, (kernel, kernel, i, o)), "float32")
        for i, o in itertools.pairwise(channels)
    ]
    x = jnp.asarray(draw.standard_normal((batch, size, size, channels[0])), jnp.float32)

    def value(x, kernels, dtype):
        return (stack(kernels, strides, x, dtype) ** 2).sum()

    # By itself: with gradients in the program XLA fuses otherwise.
    features = jax.jit(
        lambda x, kernels, dtype: stack(kernels, strides, x, dtype), static_argnums=2
    )
    gradients = jax.jit(jax.value_and_grad(value, (0, 1)), static_argnums=2)
    found, expected = (
        (features(x, kernels, d), *gradients(x, kernels, d)) for d in (dtype, "float32")
    )
    for part, times in ((0, 8), (1, 16), (2, 100)):
        leaves = map(jax.tree.leaves, (found[part], expected[part]))
        for a, b in zip(*leaves, strict=True):
            assert relative(a, b) < times * ROUNDING[dtype]


def test_the_sum_is_of_float32():
    """Fails if products are summed in half precision: 4,096 ones and 4,096 times 2^-9 are 4,104.

    bfloat16 counts to 256 by ones.
    """
    x = jnp.concatenate([jnp.ones(4096), jnp.full(4096, 2.0**-9)]).astype(jnp.bfloat16)
    y = conv(x.reshape(1, 1, 1, -1), jnp.ones((1, 1, 8192, 1), jnp.bfloat16), (1, 1), "VALID")
    assert y.dtype == jnp.bfloat16
    assert float(y.ravel()[0]) == float(jnp.bfloat16(4104.0))


def lowered(dtype, platform):
    def total(x, w):
        with compiling_for(platform):
            return (conv(x, w, (1, 1), "SAME").astype(jnp.float32) ** 2).sum()

    x, w = jnp.ones((4, 8, 8, 3), dtype), jnp.ones((3, 3, 3, 5), dtype)
    return jax.jit(jax.grad(total, (0, 1))).lower(x, w).as_text()


def test_barriers_are_for_half_precision_on_a_cpu_only():
    """Fails if programs for TPUs and GPUs, or float32, get a barrier or float32 products."""
    assert lowered("bfloat16", "cpu").count("optimization_barrier") == 3
    assert "optimization_barrier" not in lowered("float32", "cpu")
    for platform in ("tpu", "gpu"):
        text = lowered("bfloat16", platform)
        assert "optimization_barrier" not in text
        products = [line for line in text.splitlines() if "stablehlo.convolution" in line]
        assert len(products) == 3
        assert all(" -> tensor<" in p and "f32" not in p for p in products)


# --- encoders ------------------------------------------------------------------------------------

ENCODERS = {
    "tiny": ({"name": "tiny"}, (8, 16, 32)),
    "tiny, half width": ({"name": "tiny", "width": 0.5}, (16, 32)),
    "resnet18": ({"name": "resnet18", "width": 0.25}, (64,)),
    "resnet18, cifar": ({"name": "resnet18", "width": 0.25, "stem": "cifar"}, (16,)),
    "resnet18, blocks": (
        {"name": "resnet18", "width": 0.25, "space_to_depth": True, "padding": "same"},
        (64,),
    ),
}


def weights(encoder, size):
    images = jax.ShapeDtypeStruct((1, 1, size, size, 3), np.float32)
    return filled(jax.eval_shape(encoder.init, jax.random.key(0), images))


def pooled(encoder, train):
    @jax.jit
    def features(params, stats, x):
        return encoder.apply(params, stats, x, train)[0].pooled.astype(jnp.float32)

    return features


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", ENCODERS)
def test_encoders(name, train):
    """Fails if any layer is wrong in bfloat16: NaN for `tiny` in evaluation with jaxlib 0.12.0."""
    config, sizes = ENCODERS[name]
    half, full = (make_encoder(**config, dtype=d) for d in ("bfloat16", "float32"))
    for size in sizes:
        params, stats = weights(full, size)
        for batch in (2, 5) if not train else (5,):
            draw = np.random.default_rng(size)
            x = jnp.asarray(draw.standard_normal((batch, 1, size, size, 3)), jnp.float32)
            a, b = (pooled(encoder, train)(params, stats, x) for encoder in (half, full))
            assert relative(a, b) < 0.05, (size, batch)


@pytest.mark.parametrize("name", ["tiny, half width", "resnet18, blocks"])
def test_gradients_of_encoders(name):
    """Fails if a gradient is NaN, or far from that of float32."""
    config, sizes = ENCODERS[name]
    size = sizes[0]
    half, full = (make_encoder(**config, dtype=d) for d in ("bfloat16", "float32"))
    params, stats = weights(full, size)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 1, size, size, 3)), jnp.float32)

    def loss(encoder, params):
        pooled = encoder.apply(params, stats, x, False)[0].pooled.astype(jnp.float32)
        return jnp.square(pooled).mean()

    found, expected = (jax.jit(jax.grad(functools.partial(loss, e)))(params) for e in (half, full))
    flat = [np.concatenate([np.ravel(g) for g in jax.tree.leaves(t)]) for t in (found, expected)]
    assert relative(*flat) < 0.05


def test_load_encoder(tmp_path):
    """Fails if `load_encoder(dtype="bfloat16")`, or an evaluation's features, are NaN."""
    encoder = make_encoder("tiny", width=0.5)
    params, stats = weights(encoder, 16)
    info = EncoderInfo(encoder.config, 16, (0.5,) * 3, (0.25,) * 3)
    save_encoder(tmp_path / "out", params, stats, info)
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    half = load_encoder(tmp_path / "out", dtype="bfloat16", batch_size=2)
    expected = load_encoder(tmp_path / "out")(images)
    assert relative(half(images), expected) < 0.05

    @jax.jit
    def outputs(weights, x):
        return {"h": half.encoder.apply(*weights, x, False)[0].pooled}

    rows = {
        "views": (images[:, None].astype(np.float32) / 255 - 0.5) / 0.25,
        "label": np.zeros(5, np.int32),
        "index": np.arange(5, dtype=np.int32),
        "mask": np.ones(5, np.float32),
    }
    found = extract(outputs, (params, stats), [rows], make_mesh(jax.devices()[:1]))
    assert relative(found.outputs["h"], expected) < 0.05
