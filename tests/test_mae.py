"""MAE: the authors' loss and gradients, its masks, targets, variants and pictures."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import compiled, named
from oracles.small_network import checksum, images, value
from oracles.small_vit import DECODER, PATCHES, ROWS, noise
from small_vit import small_vit

from byol_jax import optim
from byol_jax.convert.info import EncoderInfo
from byol_jax.convert.load import read_encoder
from byol_jax.convert.native import save_encoder
from byol_jax.methods import mae as module
from byol_jax.methods.mae import mae, random_order
from byol_jax.models.mae_decoder import mae_decoder
from byol_jax.models.patches import patchify, unpatchify

KEY, STEP = jax.random.key(0), jnp.int32(0)

# facebookresearch/mae:models_mae.py at efb2a80, run by tests/oracles/mae.py: (normalised, mask) ->
# the loss, checksums of the predicted patches and of the gradients, hidden patches of each image.
AUTHORS = {
    (True, 0.75): (
        1.9364710367078235,
        -13.321383817022769,
        -1.0802812567290834,
        "110110111 111111001 111101110 111111100 110111011 111011110 001111111 101101111",
    ),
    (False, 0.5): (
        1.9850677403146897,
        6.977399357822965,
        -0.8799996240254164,
        "110010101 011110001 111100100 111010100 110101010 111010100 001011011 001101011",
    ),
}
PIXELS = 1.9864598033442817  # checksum of the images as patches, by the same program


def make(vit=None, **options):
    vit = vit or small_vit()
    return mae(vit, decoder_of(12, vit.encoder.config["dtype"]), **options)


def decoder_of(outer, dtype="float64"):
    return mae_decoder(16, outer, **DECODER, dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(dtype))


def batch():
    mask = np.ones(ROWS, np.float32)
    return {"views": images(0)[:, :1], "mask": mask, "label": np.zeros(ROWS, np.int32)}


def start(method):
    """The oracles' weights."""
    params, extra = jax.eval_shape(method.init, KEY, batch())
    assert not jax.tree.leaves(extra)
    name = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
    return jax.tree_util.tree_map_with_path(lambda path, x: value(name(path), x.shape), params)


@pytest.fixture
def given(monkeypatch):
    """The oracles' order of patches."""
    monkeypatch.setattr(module, "noise", lambda key, rows, patches: jnp.asarray(noise()))


@pytest.mark.parametrize(("normalised", "mask"), AUTHORS)
def test_loss_and_gradients_are_the_authors(x64, given, normalised, mask):
    """Fails if a visible patch counts, the variance is biased, positions come after masking, or a
    part of the network has no gradient. (Take `ddof=1` out of `targets`.)
    """
    method = make(normalised=normalised, mask=mask)
    params, seen = start(method), batch()

    def both(params):
        loss, aux = method.loss(params, {"stats": {}}, seen, KEY, STEP)
        shown = jnp.asarray(seen["views"][:, 0])
        pictures = method.pictures(params, {}, shown, KEY)
        visible = int(PATCHES * (1 - mask))
        rank, keep = random_order(jnp.asarray(noise()), visible)
        tokens, _ = small_vit().tokens(params["encoder"], shown, keep)
        place = jnp.minimum(rank, visible)
        predicted, _ = decoder_of(12).apply(params["decoder"], {}, tokens, place, (3, 3))
        return loss, (pictures, predicted, aux.features["h"])

    run = compiled(jax.jit(jax.value_and_grad(both, has_aux=True)), params)
    (loss, (pictures, predicted, h)), gradients = run(params)
    expected, prediction, gradient, hidden = AUTHORS[normalised, mask]
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    np.testing.assert_allclose(checksum(named(gradients)), gradient, rtol=1e-10)
    np.testing.assert_allclose(checksum({"": predicted}), prediction, rtol=1e-10)
    assert h.shape == (ROWS, 1, 16)
    # What is drawn: visible patches as they are, hidden ones as predicted, in the image's contrast.
    found = {k: patchify(jnp.asarray(x), 2) for k, x in pictures.items()}
    pixels = np.asarray(patchify(jnp.asarray(seen["views"][:, 0]), 2))
    is_hidden = np.array([[c == "1" for c in row] for row in hidden.split()])
    assert (np.asarray(found["masked"]) == 0).all(-1).tolist() == is_hidden.tolist()
    for name in found:
        np.testing.assert_allclose(found[name][~is_hidden], pixels[~is_hidden], atol=1e-14)
    drawn = np.asarray(found["reconstruction"])[is_hidden]
    if normalised:
        mean, deviation = (f(pixels[is_hidden], axis=-1, keepdims=True) for f in (np.mean, np.std))
        drawn = (drawn - mean) / deviation * (11 / 12) ** 0.5
    np.testing.assert_allclose(drawn, np.asarray(predicted)[is_hidden], rtol=1e-3, atol=1e-5)


def test_patches():
    """Fails if the numbers of a patch are in another order than the authors'."""
    x = jnp.asarray(images(0)[:, 0])
    np.testing.assert_allclose(checksum({"": patchify(x, 2)}), PIXELS, rtol=1e-5)
    tall = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    np.testing.assert_array_equal(patchify(tall, 2)[1, 4], tall[1, 2:4, 2:4].ravel())
    np.testing.assert_array_equal(unpatchify(patchify(tall, 2), 2, (2, 3)), tall)
    with pytest.raises(ValueError, match="image of 4 x 6 px cannot be divided into patches of 4"):
        patchify(tall, 4)


def test_mask_tokens_in_the_encoder(x64, given):
    """Fails if a hidden patch changes a prediction, or the encoder's mask token is not trained."""
    seen = jnp.asarray(images(0)[:, 0])
    hidden = np.array([[c == "1" for c in row] for row in AUTHORS[False, 0.5][-1].split()])
    changed = np.where(hidden[:, :, None], 7.0, patchify(seen, 2))
    method = make(small_vit(depth=1), mask=0.5, normalised=False, mask_tokens=True)
    params = start(method)

    def loss(params, x):
        drawn = method.pictures(params, {}, x, KEY)["reconstruction"]
        return method.loss(params, {"stats": {}}, batch(), KEY, STEP)[0], drawn

    run = compiled(jax.jit(jax.grad(loss, has_aux=True)), params, seen)
    (gradients, a), (_, b) = (
        run(params, x) for x in (seen, unpatchify(jnp.asarray(changed), 2, (3, 3)))
    )
    np.testing.assert_allclose(a, b, atol=1e-12)
    # The encoder has a token for every patch, and the decoder needs none.
    assert (gradients["mask_token"] != 0).all()
    assert not gradients["decoder"]["mask_token"].any()


def test_masks():
    """Fails if some patches are hidden more often, or all images alike."""
    rank, keep = random_order(module.noise(jax.random.key(3), 4000, 16), 4)
    assert keep.shape == (4000, 4)
    share = np.mean(np.asarray(rank) >= 4, 0)
    np.testing.assert_allclose(share, 0.75, atol=0.03)
    assert len({tuple(sorted(row)) for row in np.asarray(keep).tolist()}) > 1500  # of 1820
    np.testing.assert_array_equal(
        np.take_along_axis(np.asarray(rank), np.asarray(keep), 1)[9], range(4)
    )
    method = make(small_vit("float32"), mask=0.95)
    params, extra = jax.eval_shape(method.init, KEY, batch())
    with pytest.raises(ValueError, match=r"mae\.mask is 0\.95, which leaves 0 of the 9 patches"):
        jax.eval_shape(method.loss, params, extra, batch(), KEY, STEP)


def test_the_free_baseline(x64):
    """Fails if targets of 4 x 4 x 3 numbers are not of unit variance: zeros score 47/48 then."""
    vit = small_vit(image_size=8, patch=4)
    method = mae(vit, decoder_of(48))
    pixels = 5 + 3 * np.random.RandomState(0).randn(64, 1, 8, 8, 3)
    seen = {"views": pixels, "mask": np.ones(64, np.float32)}
    params, _ = jax.eval_shape(method.init, KEY, seen)
    params = jax.tree.map(lambda x: np.zeros(x.shape), params)
    loss = compiled(jax.jit(lambda b: method.loss(params, {"stats": {}}, b, KEY, STEP)[0]), seen)
    np.testing.assert_allclose(loss(seen), 47 / 48, rtol=1e-5)
    # Rows that could not be read do not count: patches of one colour have a target of 0.
    seen["views"][::2] = 1.0
    np.testing.assert_allclose(loss(seen), 47 / 96, rtol=1e-5)
    seen["mask"][::2] = 0
    np.testing.assert_allclose(loss(seen), 47 / 48, rtol=1e-5)


def test_what_is_decayed():
    """Fails if a norm or a bias is decayed, or the class and the mask token are not, as theirs."""
    params, _ = jax.eval_shape(make(small_vit("float32")).init, KEY, batch())
    found = named(optim.weights_mask(params))
    free = {k for k, decayed in found.items() if not decayed}
    assert free == {k for k in found if k.endswith(("scale", "bias"))}
    assert {"encoder/cls_token", "decoder/mask_token"} <= found.keys() - free


def test_the_encoder_is_exported_alone(tmp_path):
    """Fails if the decoder is a part of it, or the whole network is needed to use it."""
    vit = small_vit("float32", depth=1)
    method = make(vit)
    init = jax.jit(method.init)
    params, extra = compiled(init, KEY, batch())(KEY, batch())
    encoder, stats = method.encoder(params, extra)
    assert set(params) == {"encoder", "decoder"}
    info = EncoderInfo(vit.encoder.config, 6, (0.5,) * 3, (0.25,) * 3)
    save_encoder(tmp_path / "out", encoder, stats, info)
    again, back, _, _ = read_encoder(tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, back, jax.tree.map(np.asarray, encoder))
    x = images(0)[:, :1].astype(np.float32)
    h = again.apply(back, {}, x, False)[0].pooled
    np.testing.assert_allclose(method.features(params, extra, x)["h"], h, atol=1e-5)
    # Initial weights: Xavier's uniform, and tokens of 0.02.
    kernel = np.asarray(encoder["blocks_0"]["mlp"]["fc1"]["kernel"])
    bound = (6 / (16 + 64)) ** 0.5
    assert 0.95 * bound < np.abs(kernel).max() <= bound
    assert 0.005 < np.asarray(encoder["cls_token"]).std() < 0.04
