"""Vision transformers: their parts against NumPy, options, and MoCo v3's authors' steps."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import compiled, filled, named
from oracles.small_network import images
from oracles.small_vit import DIM
from small_steps import rates, sums, three_steps
from small_vit import small_vit

from byol_jax import losses, models, optim
from byol_jax.config import GROUPS, KEYS, default_config, put, resolve
from byol_jax.data.source import Source
from byol_jax.experiment.build import build
from byol_jax.experiment.methods import build_encoder
from byol_jax.methods.byol import byol
from byol_jax.methods.target import ahead
from byol_jax.models import heads
from byol_jax.models.network import network
from byol_jax.models.patches import resampled, sincos

KEY = jax.random.key(0)

# --- MoCo v3 -------------------------------------------------------------------------------------

# facebookresearch/moco-v3:vits.py, moco/builder.py at c349e6e with torch's AdamW, run by
# tests/oracles/mocov3_vit.py: the loss, and checksums of the target that was used and of the
# parameters after the step.
MOCOV3 = [
    (3.0083285796330053, -4.2675297309985405, -7.724901190699467),
    (2.6774040668442445, -4.263438334092369, -7.8045815415042945),
    (2.6866776711773417, -4.262996111480774, -7.838967908441186),
]


def test_three_steps_of_mocov3_are_the_authors(x64):
    """Fails if the patch projection learns or is decayed, biases and norms are not, the predictor
    has no last norm, or the target is moved after its pass.
    """
    plain = {"hidden_bias": False, "norm_last": True, "scale_last": False}
    plain |= {"dtype": jnp.float64, "param_dtype": jnp.float64}
    net = network(small_vit().encoder, heads.mlp((12, 12, 6), **plain))
    objective = functools.partial(losses.symmetric_info_nce, temperature=0.2)
    tau = ahead(rates(0.9, 0.93, 0.97, 1.0))
    method = byol(net, heads.mlp((12, 6), **plain), tau=tau, objective=objective, copy=True)
    frozen = {"encoder/patch_embed": optim.Group(factor=0.0)}
    lr = optim.Rates(rates(0.003, 0.002, 0.001), frozen)
    optimizer = optim.adamw(lr, weight_decay=0.1, exclude=())
    steps = three_steps(method, optimizer)
    for (loss, before, after), expected in zip(steps, MOCOV3, strict=True):
        used = before.extra["target"]["params"]
        np.testing.assert_allclose((loss, sums(after.params)), (expected[0], expected[2]), 1e-10)
        np.testing.assert_allclose(sums(used), expected[1], rtol=1e-10)
        jax.tree.map(
            np.testing.assert_array_equal,
            *(named(s.params["encoder"]["patch_embed"]) for s in (before, after)),
        )


# --- parts ---------------------------------------------------------------------------------------


def test_positions():
    """Fails if the row comes first, or sines and cosines alternate."""
    table = sincos(8, (2, 3))
    for row in range(2):
        for column in range(3):
            angles = [[at / 10000 ** (i / 2) for i in range(2)] for at in (column, row)]
            expected = np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)])
            np.testing.assert_allclose(table[3 * row + column], expected, atol=1e-15)


def cubic(before, after):
    """[after, before]: weights of a cubic resize with antialiasing, as Pillow and torch do."""

    def kernel(x):
        x, a = abs(x), -0.5
        if x < 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0

    step = before / after
    rows = []
    for i in range(after):
        at = [((j + 0.5) - (i + 0.5) * step) / max(step, 1) for j in range(before)]
        row = np.array([kernel(x) for x in at])
        rows.append(row / row.sum())
    return np.array(rows)


@pytest.mark.parametrize("grid", [(6, 7), (3, 2)])
def test_positions_of_another_size(x64, grid):
    """Fails if they are resampled without antialiasing, or with another cubic."""
    table = np.random.RandomState(0).randn(4 * 5, 3)
    down, across = (cubic(a, b) for a, b in zip((4, 5), grid, strict=True))
    expected = np.einsum("ia,jb,abd->ijd", down, across, table.reshape(4, 5, 3)).reshape(-1, 3)
    np.testing.assert_allclose(resampled(jnp.asarray(table), (4, 5), grid), expected, atol=1e-6)


def numpy_features(params, x, heads_, registers):
    """Features of images [N, H, W, C] with each pool, their patches, and the attention of the last
    block, by plain loops.
    """

    def norm(p, x):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]

    def gelu(x):
        return np.vectorize(lambda v: 0.5 * v * (1 + math.erf(v / 2**0.5)))(x)

    found = []
    for image in x:
        kernel = params["patch_embed"]["kernel"]
        patch = len(kernel)
        cut = [
            np.tensordot(image[i : i + patch, j : j + patch], kernel, 3)
            for i in range(0, len(image), patch)
            for j in range(0, len(image), patch)
        ]
        t = np.stack(cut) + params["patch_embed"]["bias"] + params["pos_embed"]
        t = np.concatenate([params["cls_token"], params["reg_token"], t])
        for i in range(sum(k.startswith("blocks") for k in params)):
            b = params[f"blocks_{i}"]
            y = norm(b["norm1"], t) @ b["attn"]["qkv"]["kernel"] + b["attn"]["qkv"]["bias"]
            q, k, v = np.split(y, 3, 1)
            parts, weights = [], []
            for a, c, w in zip(*(np.split(z, heads_, 1) for z in (q, k, v)), strict=True):
                s = np.exp(a @ c.T / np.sqrt(a.shape[1]))
                weights.append(s / s.sum(1, keepdims=True))
                parts.append(weights[-1] @ w)
            y = np.concatenate(parts, 1) @ b["attn"]["proj"]["kernel"] + b["attn"]["proj"]["bias"]
            t = t + b["ls1"]["scale"] * y
            y = gelu(norm(b["norm2"], t) @ b["mlp"]["fc1"]["kernel"] + b["mlp"]["fc1"]["bias"])
            y = y @ b["mlp"]["fc2"]["kernel"] + b["mlp"]["fc2"]["bias"]
            t = t + b["ls2"]["scale"] * y
        patches, last = t[1 + registers :], functools.partial(norm, params["norm"])
        pooled = last(t[0]), last(patches.mean(0)), last(patches).mean(0)
        found.append((*pooled, patches, np.stack(weights)))
    return [np.stack(f) for f in zip(*found, strict=True)]


def drawn(vit, seed=0):
    """Random values for every parameter."""
    image = jax.ShapeDtypeStruct((1, 1, 8, 8, 3), np.float32)
    shapes, _ = jax.eval_shape(vit.encoder.init, KEY, image)
    random = np.random.RandomState(seed)
    return jax.tree.map(lambda x, y: y + 0.2 * random.randn(*x.shape), shapes, filled(shapes, seed))


def test_features_are_those_of_plain_loops(x64):
    """Fails if heads are cut another way, the mean is over all tokens, a factor is left out, or the
    attention is that of another block.
    """
    options = {"registers": 2, "layer_scale": 0.5, "positions": "learned"}
    vits = [small_vit(pool=pool, **options) for pool in ("token", "mean", "normed_mean")]
    params, x = drawn(vits[0]), images(0)
    expected = numpy_features(params, x[:3, 0], 2, 2)
    for vit, pooled in zip(vits, expected, strict=False):
        apply = jax.jit(vit.encoder.apply, static_argnums=3)
        args = params, {}, x[:3], False
        out, stats = compiled(apply, *args)(params, {}, x[:3])
        np.testing.assert_allclose(out.pooled[:, 0], pooled, rtol=1e-9, atol=1e-9)
        assert stats == {}
        assert [m.shape for m in out.maps] == [(3, 2, 3, 3, DIM)]
        np.testing.assert_allclose(out.maps[0][:, 0].reshape(3, 9, -1), expected[3], atol=1e-9)
    args = params, x[:3, 0]
    weights = compiled(jax.jit(vits[0].attention), *args)(*args)
    np.testing.assert_allclose(weights, expected[4], rtol=1e-9)


def test_remat_and_bfloat16():
    """Fails if a block recomputed has other gradients, or norms and features are in bfloat16."""
    params, x = None, jnp.asarray(images(0)[:, :1], jnp.float32)
    found = {}
    for name, options in {
        "plain": {},
        "remat": {"remat": True},
        "half": {"dtype": "bfloat16"},
    }.items():
        vit = small_vit(**{"dtype": "float32", "layer_scale": 0.5, "depth": 1, **options})
        params = jax.tree.map(jnp.float32, drawn(vit)) if params is None else params

        def loss(params, vit=vit):
            out, _ = vit.encoder.apply(params, {}, x, True, KEY)
            return out.pooled[..., 0].sum(), out

        run = compiled(jax.jit(jax.grad(loss, has_aux=True)), params)
        found[name] = run(params)
    for k, g in named(found["plain"][0]).items():
        np.testing.assert_allclose(named(found["remat"][0])[k], g, rtol=1e-4, atol=1e-5)
        assert named(found["half"][0])[k].dtype == np.float32
    half, plain = found["half"][1], found["plain"][1]
    assert (half.pooled.dtype, half.maps[0].dtype) == (jnp.float32, jnp.bfloat16)
    np.testing.assert_allclose(half.pooled, plain.pooled, atol=0.2)
    assert np.abs(half.pooled - plain.pooled).max() > 1e-4


def test_drop_path():
    """Fails if branches are dropped in inference, for all images alike, or are not scaled up."""
    vit = small_vit("float32", drop_path=0.5, depth=2)
    params = jax.tree.map(jnp.float32, drawn(vit))
    x = jnp.broadcast_to(jnp.asarray(images(0)[:1, :1], jnp.float32), (64, 1, 6, 6, 3))
    whole, part = (
        compiled(
            jax.jit(lambda p, k, t=t: vit.encoder.apply(p, {}, x, t, k)[0].maps[0]), params, KEY
        )
        for t in (False, True)
    )
    plain, dropped = (np.asarray(f(params, KEY))[:, 0].reshape(64, -1) for f in (whole, part))
    assert np.ptp(plain, axis=0).max() < 1e-5
    # Block 0 is always there, block 1 drops each of its two branches with a half: four outcomes.
    kinds = np.unique(np.round(dropped, 3), axis=0)
    assert 4 <= len(kinds) <= 6
    with pytest.raises(ValueError, match=r"drop_path is 0\.5; training needs a `key`"):
        vit.encoder.apply(params, {}, x, True)


# timm 1.0.31, num_classes=0: parameters of models that have learned positions, with rows for the
# class token (and not for registers, whose models say so). DINO's and DINOv2's are among them.
COUNTS = {
    ("vit_tiny", 16, 224): 5_524_416,
    ("vit_small", 16, 224): 21_665_664,
    ("vit_small", 8, 224): 21_670_272,
    ("vit_small", 32, 224): 22_493_952,
    ("vit_base", 16, 224): 85_798_656,
    ("vit_base", 8, 224): 85_807_872,
    ("vit_base", 32, 224): 87_455_232,
    ("vit_large", 16, 224): 303_301_632,
    ("vit_large", 14, 224): 303_178_752,
    ("vit_huge", 14, 224): 630_764_800,
    ("vit_small", 14, 518): 22_056_192,
    ("vit_base", 14, 518): 86_579_712,
}


@pytest.mark.parametrize(("name", "patch", "size"), COUNTS)
def test_as_many_parameters_as_timms(name, patch, size):
    """Fails if a size has another width, depth or a bias less."""
    options = {"patch": patch, "image_size": size, "layer_scale": 1e-5 if size == 518 else 0.0}
    encoder = models.make_encoder(name, positions="learned", **options)
    params, _ = jax.eval_shape(encoder.init, KEY, jax.ShapeDtypeStruct((1, 1, 64, 64, 3), "f4"))
    count = sum(x.size for x in jax.tree.leaves(params)) + encoder.dim  # the class token's row
    assert count == COUNTS[name, patch, size]


@pytest.mark.parametrize(
    ("init", "fused", "token"), [("mae", 4, 0.02), ("mocov3", 2, 1e-6), ("dino", 0, 0.02)]
)
def test_initial_weights(init, fused, token):
    """Fails if queries, keys and values are one kernel for MoCo v3, or three for MAE."""
    vit = small_vit("float32", dim=64, heads=4, init=init, positions="learned")
    run = jax.jit(vit.encoder.init)
    x = jnp.zeros((1, 1, 6, 6, 3))
    params, _ = compiled(run, KEY, x)(KEY, x)
    qkv = np.asarray(params["blocks_1"]["attn"]["qkv"]["kernel"])
    if fused:
        bound = (6 / (fused * 64)) ** 0.5
        assert 0.98 * bound < np.abs(qkv).max() <= bound
        patch = np.abs(params["patch_embed"]["kernel"]).max()
        assert patch <= (6 / (12 + 64)) ** 0.5
    else:
        assert qkv.std() == pytest.approx(0.02, rel=0.05)
    assert np.asarray(params["cls_token"]).std() == pytest.approx(token, rel=0.3)
    assert np.asarray(params["pos_embed"]).std() == pytest.approx(0.02, rel=0.2)
    assert all((v == 0).all() for k, v in named(params).items() if k.endswith("bias"))


# --- from a config -------------------------------------------------------------------------------


def config_of(**values):
    config = default_config()
    small = {"encoder__name": "vit_tiny", "vit__dim": 16, "vit__depth": 2, "vit__heads": 2}
    sizes = {"image_size": 16, "vit__patch": 4, "vit__maps": 2, "batch_size": 16}
    for key, value in {**small, **sizes, **values}.items():
        put(config, key.replace("__", "."), value)
    return config


def test_an_encoder_gets_every_key_of_its_group():
    """Fails if a key of `encoder` or `vit` does not reach the transformer."""
    changed = {
        "encoder__drop_path": 0.1, "encoder__remat": True, "encoder__dtype": "bfloat16",
        "vit__pool": "mean", "vit__class_token": False, "vit__registers": 3,
        "vit__positions": "learned", "vit__layer_scale": 0.5, "vit__init": "dino",
    }  # fmt: skip
    config = resolve(config_of(**changed))
    found = build_encoder(config, 1).config
    assert {k.split("__")[1]: v for k, v in changed.items()}.items() <= found.items()
    assert (found["image_size"], found["dim"], found["patch"], found["maps"]) == (16, 16, 4, 2)
    keys = {k.split(".")[1] for k in KEYS if k.startswith("encoder.")}
    keys -= {"input"}  # which wraps it; tests/test_colorization.py
    assert found.keys() == keys | GROUPS["encoder.name"]["vit"].keys() | {"channels", "image_size"}
    assert models.make_encoder(**found).config == found
    usual = models.make_encoder("vit_small", heads=12).config
    assert (usual["dim"], usual["depth"], usual["heads"]) == (384, 12, 12)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_size": 18}, r"image_size 18 cannot be divided into patches of vit\.patch 4 px"),
        ({"vit__heads": 3}, r"vit\.dim is 16 with vit\.heads 3; expected a multiple of 4 and of"),
        ({"vit__maps": 3}, r"vit\.maps is 3; expected 1 to the 2 blocks"),
        ({"encoder__width": 2.0}, r"encoder\.width 2\.0 .* set vit\.dim"),
        ({"vit__class_token": False}, r"vit\.pool is 'token', but there is no class token"),
        ({"vit__depth": 1000}, r"vit\.depth is 1000; expected 1 to 256"),
    ],
)
def test_what_is_refused(values, message):
    """Fails if a transformer is built that cannot run."""
    with pytest.raises(ValueError, match=message):
        build_encoder(resolve(config_of(**values)), 3)


def test_images_that_do_not_fit():
    """Fails if a part of an image is cut off, or grey images are taken for coloured ones."""
    vit = small_vit("float32")
    params = drawn(vit)
    with pytest.raises(ValueError, match="image of 7 x 6 px cannot be divided into patches of 2"):
        vit.encoder.apply(params, {}, jnp.zeros((1, 1, 7, 6, 3)), False)
    with pytest.raises(ValueError, match="Images have 1 channels"):
        vit.encoder.apply(params, {}, jnp.zeros((1, 1, 6, 6, 1)), False)


SOURCE = Source(
    "noise", 64, 3, classes=3, labels=np.arange(64, dtype=np.int32) % 3,
    images=np.zeros((64, 16, 16, 3), np.uint8),
)  # fmt: skip


@pytest.mark.parametrize(
    ("method", "recipe"),
    [("byol", "cifar"), ("dino", "multi_crop"), ("mocov3", "cifar"), ("mae", "crop_flip")],
)
def test_methods_run_with_it(method, recipe):
    """Fails if a method needs statistics, or crops of another size have no positions."""
    config = config_of(method__name=method, views__recipe=recipe)
    if recipe == "multi_crop":
        config.multi_crop.small, config.multi_crop.count = 8, 2
    e = build(config, SOURCE, jax.devices()[:1])
    rows = {g: (16, len(v), v[0].size, v[0].size, 3) for g, v in e.recipe.items()}
    batch = {k: jnp.zeros(shape) for k, shape in rows.items()}
    batch |= {"mask": jnp.ones(16), "label": jnp.zeros(16, jnp.int32)}
    params, extra = jax.eval_shape(e.method.init, KEY, batch)
    value, aux = jax.eval_shape(e.method.loss, params, extra, batch, KEY, jnp.int32(0))
    assert value.shape == ()
    assert aux.features["h"].shape == (16, len(e.recipe["views"]), 16)


def test_mae_needs_a_transformer():
    """Fails if it is an error of attributes, at the first step."""
    config = config_of(method__name="mae", views__recipe="crop_flip", encoder__name="tiny")
    for key in GROUPS["encoder.name"]["vit"]:
        config.vit[key] = GROUPS["encoder.name"]["vit"][key].default
    message = r"method\.name 'mae' needs a vision transformer, not encoder\.name 'tiny'; set it to"
    with pytest.raises(ValueError, match=message):
        build(config, SOURCE, jax.devices()[:1])
