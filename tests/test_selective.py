"""SimCLR v2's network with selective kernels: the authors' features, sizes, exports, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import compiled, filled, named
from oracles.simclr_resnet import RATIO, WIDTH, images, value, weighted

from byol_jax import models
from byol_jax.convert.info import EncoderInfo
from byol_jax.convert.load import read_encoder
from byol_jax.convert.native import save_encoder
from byol_jax.convert.timm import save_timm
from byol_jax.models.resnet import DEPTHS
from byol_jax.models.selective import shortcut_pool
from byol_jax.optim import resnet_layers

# tests/oracles/simclr_resnet.py: google-research/simclr at 383d414, tf2/resnet.py.
# (side, training mode) -> the features of two images, as three weighted sums each.
AUTHORS = {
    (32, False): [
        *(234.49193906208473, -12.568535938470808, 0.6815891568997698),
        *(234.5491139698332, -12.528389919247466, 0.5631900247469828),
    ],
    (35, True): [
        *(344.35852448692435, -12.640805919244649, -3.446065837565377),
        *(351.16073988797336, 7.784595081124112, 5.816363317899672),
    ],
}


@pytest.fixture
def short(monkeypatch):
    """The smallest network of bottlenecks, one per stage, as "resnet14"."""
    monkeypatch.setitem(DEPTHS, 14, ((1, 1, 1, 1), True))
    monkeypatch.setattr(models, "ENCODERS", (*models.ENCODERS, "resnet14"))
    return {"name": "resnet14", "width": WIDTH, "sk_ratio": RATIO}


@pytest.mark.parametrize(("side", "train"), [(32, False), (35, True)])
def test_features_are_those_of_the_authors_code(x64, short, side, train):
    """Fails if a pad, the order of the halves, a norm or the softmax is another one."""
    encoder = models.make_encoder(**short, dtype="float64")
    batch = images(side)[:, None]  # axis 1 holds the views
    params, stats = jax.tree_util.tree_map_with_path(
        lambda path, x: value(jax.tree_util.keystr(path[1:], simple=True, separator="/"), x.shape),
        jax.eval_shape(encoder.init, jax.random.key(0), batch),
    )
    run = compiled(jax.jit(lambda *args: encoder.apply(*args, train)[0]), params, stats, batch)
    found = weighted(run(params, stats, batch).pooled[:, 0])
    np.testing.assert_allclose(found, AUTHORS[side, train], rtol=1e-9)


def test_the_pool_of_a_shortcut():
    """Fails if a border of zeros counts at stride 1, or does not count at stride 2."""
    x = np.arange(18, dtype=np.float32).reshape(1, 3, 3, 2)
    for stride in (1, 2):
        found = np.asarray(shortcut_pool(x, stride))
        side = -(-3 // stride)
        assert found.shape == (1, side, side, 2)
        for i in range(side):
            for j in range(side):
                window = x[0, stride * i : stride * i + 2, stride * j : stride * j + 2]
                count = 4 if stride == 2 else window[..., 0].size
                expected = window.sum((0, 1)) / count
                np.testing.assert_allclose(found[0, i, j], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "width", "millions"),
    [("resnet50", 1.0, 35), ("resnet50", 2.0, 140), ("resnet152", 1.0, 89)],
)
def test_as_many_parameters_as_published(name, width, millions):
    """Fails if a layer is missing. google-research/simclr:README.md, column "Param (M)"."""
    encoder = models.make_encoder(name, width=width, sk_ratio=0.0625)
    params, _ = jax.eval_shape(encoder.init, jax.random.key(0), jnp.zeros((1, 1, 64, 64, 3)))
    assert round(sum(x.size for x in jax.tree.leaves(params)) / 1e6) == millions


def test_an_export_is_loaded_again(short, tmp_path):
    """Fails if an export forgets the ratio, or timm gets a network that it does not have."""
    encoder = models.make_encoder(**short)
    image = jax.ShapeDtypeStruct((1, 1, 32, 32, 3), jnp.float32)
    params, stats = filled(jax.eval_shape(encoder.init, jax.random.key(0), image))
    info = EncoderInfo(encoder.config, 32, (0.5,) * 3, (0.25,) * 3, 32)
    save_encoder(tmp_path / "out", params, stats, info)
    loaded, arrays, *_ = read_encoder(tmp_path / "out")
    assert loaded.config["sk_ratio"] == RATIO
    for k, x in named(params).items():
        np.testing.assert_array_equal(named(arrays)[k], x)
    full = models.make_encoder("resnet50", sk_ratio=0.0625)
    with pytest.raises(ValueError, match=r"sk_ratio is SimCLR v2's .* timm's skresnet is another"):
        save_timm(tmp_path / "timm", params, stats, EncoderInfo(full.config, 32, *[(1.0,) * 3] * 2))
    assert not (tmp_path / "timm").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet18", "sk_ratio": 0.5}, r"'resnet18' has no bottlenecks.*use resnet50"),
        ({"name": "tiny", "sk_ratio": 0.5}, r"'tiny' has no residual blocks"),
        ({"sk_ratio": 2.0}, r"resnet\.sk_ratio is 2\.0; expected 0 to 1"),
        ({"sk_ratio": 0.5, "space_to_depth": True}, r"three 3x3 convolutions instead"),
    ],
)
def test_networks_that_there_are_not(options, message):
    """Fails if a key is taken and has no effect."""
    with pytest.raises(ValueError, match=message):
        models.make_encoder(**options)


def test_its_stem_is_the_lowest_layer():
    """Fails if layer-wise decay does not know the stem's names."""
    layer_of, layers = resnet_layers((3, 4, 6, 3))
    assert layers == 17
    assert {layer_of(f"encoder/stem_{x}/kernel") for x in ("conv1", "bn1", "conv2", "bn2")} == {0}
    assert layer_of("encoder/layer1_0/conv2/mix1/kernel") == 1
