"""Fine-tuning: rates by layer, the last blocks alone, soft targets, a norm before the head."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from conftest import compiled, filled, make_batch, named, start_state
from small_vit import small_vit

from byol_jax import models, optim
from byol_jax.config import default_config, put, resolve
from byol_jax.convert.info import EncoderInfo
from byol_jax.convert.native import save_encoder
from byol_jax.core import Encoder, Features, starting_from
from byol_jax.experiment.build import build
from byol_jax.experiment.methods import Facts
from byol_jax.experiment.optimizers import build_optimizer
from byol_jax.methods.supervised import linear_layer, supervised
from byol_jax.models.partial import count_blocks, frozen_parts, part_of
from byol_jax.models.patches import sincos
from byol_jax.models.resnet import DEPTHS
from byol_jax.run_folder import encoder_location
from byol_jax.train_step import make_train_step

KEY, CLASSES = jax.random.key(1), 3

# facebookresearch/mae:util/lr_decay.py (param_groups_lrd) of vit_base_patch16 at 0.65:
# layer_scales[i] = 0.65 ** (13 - i), i = 0 for cls_token, pos_embed and patch_embed, N + 1 for
# block N, 13 for fc_norm and head.
MAE_BASE = (
    *(0.003697206, 0.005688009, 0.008750783, 0.013462743, 0.020711913, 0.031864481, 0.049022279),
    *(0.075418891, 0.116029063, 0.17850625, 0.274625, 0.4225, 0.65, 1.0),
)


def config_of(**values):
    config = default_config()
    config.method.name = "supervised"
    config.init_from = "/an/export"
    for key, value in values.items():
        put(config, key.replace("__", "."), value)
    return config


def rates_of(monkeypatch, params, **values):
    """{path: learning rate} of the optimizer of a config, at lr 1."""
    seen = []
    monkeypatch.setattr(optim, "adamw", lambda rates, **_: seen.append(rates))
    values = {"optimizer__lr": 1.0, "optimizer__lr_scaling": "none", **values}
    config = resolve(config_of(optimizer__name="adamw", **values))
    build_optimizer(config, Facts(512, CLASSES, 20, 4))
    return named(optim.learning_rates(seen[0], params, jnp.int32(0)))


def test_layers_of_vit_base_are_maes(monkeypatch):
    """Fails if blocks begin at layer 0, positions are the head's, or the norm decays.

    (Return `depth` for the norm; count from the bottom.)
    """
    vit = models.make_vit("vit_base", positions="learned", registers=1)
    images = jax.ShapeDtypeStruct((1, 1, 224, 224, 3), np.float32)
    encoder, _ = jax.eval_shape(vit.encoder.init, KEY, images)
    params = {"encoder": encoder, "head": {"kernel": np.ones((1, 2, 3))}}
    values = {"encoder__name": "vit_base", "optimizer__layer_decay": 0.65}
    found = rates_of(monkeypatch, params, **values)
    counts = [0] * 14
    for path, rate in found.items():
        top, name = path.split("/")[:2]
        layer = 13 if (top, name) == ("head", "kernel") or name == "norm" else 0
        if name.startswith("blocks_"):
            layer = int(name.removeprefix("blocks_")) + 1
        np.testing.assert_allclose(rate, MAE_BASE[layer], rtol=1e-5, err_msg=path)
        counts[layer] += 1
    assert counts == [5, *[12] * 12, 3]
    small = rates_of(monkeypatch, {"encoder": {"blocks_1": np.ones(1)}}, vit__depth=2, **values)
    assert small == {"encoder/blocks_1": pytest.approx(0.65)}
    with pytest.raises(ValueError, match="encoder/blocks_2 is not in a transformer of 2 blocks"):
        rates_of(monkeypatch, {"encoder": {"blocks_2": np.ones(1)}}, vit__depth=2, **values)


@pytest.mark.parametrize(("last", "tokens"), [(-1, True), (2, True), (1, False), (0, False)])
def test_frozen_tokens_need_not_be_excluded(last, tokens):
    """Fails if a recipe's `exclude` is refused in partial fine-tuning, or tokens are decayed."""
    values = {"optimizer__exclude": ("bias", "cls_token", "pos_embed"), "vit__depth": 2}
    config = config_of(encoder__name="vit_tiny", supervised__last=last, **values)
    optimizer = build_optimizer(resolve(config), Facts(512, CLASSES, 20, 4))
    params = {"encoder": {"blocks_1": {"kernel": np.ones(2)}}}
    if tokens:
        params["encoder"] |= {name: np.ones(2) for name in ("cls_token", "pos_embed")}
    optimizer.init(params)
    if tokens:
        del params["encoder"]["cls_token"]
        with pytest.raises(ValueError, match="'cls_token' of groups, exclude or hold matches no"):
            optimizer.init(params)


# --- the last blocks alone ------------------------------------------------------------------------


def images_of(side):
    return jax.ShapeDtypeStruct((1, 1, side, side, 3), np.float64)


@functools.cache
def small_resnet():
    """One block per stage of 4 to 32 channels, with a deep network's names."""
    before = DEPTHS[18]
    DEPTHS[18] = ((1, 1, 1, 1), False)
    try:
        encoder = models.make_encoder("resnet18", width=0.25, stem="cifar", dtype="float64")
        start = filled(jax.eval_shape(encoder.init, KEY, images_of(8)), seed=3)
    finally:
        DEPTHS[18] = before
    return encoder, start


def steps(encoder, start, side, count=2, **options):
    """(method, named states before and after `count` steps)."""
    method = supervised(encoder, CLASSES, **options)
    optimizer = optim.adamw(optim.constant(0.01), weight_decay=0.1)
    batch = make_batch(4, size=side, views=1)
    state = start_state(method, optimizer, batch)
    params, extra = dict(state.params), dict(state.extra)
    frozen = extra.get("frozen", {})
    params["encoder"] = {k: start[0][k] for k in params["encoder"]}
    if frozen:
        extra["frozen"] = {k: start[0][k] for k in frozen}
    extra["stats"] = start[1]
    state = state.__class__(state.step, state.position, params, extra, state.opt_state)
    state = jax.tree.map(jnp.asarray, state)
    before = named(state)
    step = compiled(jax.jit(make_train_step(method, optimizer)), state, batch, KEY)
    for _ in range(count):
        state, _ = step(state, batch, KEY)
    return method, before, named(state), state


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_only_the_last_blocks_move(kind, x64, monkeypatch):
    """Fails if a frozen parameter or statistic moves or has an optimizer state, or one stays.

    (Train with batch statistics everywhere; split at N - last.)
    """
    if kind == "vit":
        encoder, side, last = small_vit(drop_path=0.5).encoder, 6, 1
        start = filled(jax.eval_shape(encoder.init, KEY, images_of(6)), seed=3)
        fixed = ("patch_embed", "cls_token", "blocks_0")
    else:
        monkeypatch.setitem(DEPTHS, 18, ((1, 1, 1, 1), False))
        encoder, start = small_resnet()
        side, last, fixed = 8, 2, ("conv1", "bn1", "layer1_0", "layer2_0")
    method, before, after, state = steps(encoder, start, side, last=last)
    assert set(state.extra["frozen"]) == set(fixed)
    assert not any(f"encoder/{name}/" in k for k in after for name in fixed)
    for k in before:
        if not k.startswith(("params/", "extra/")):
            continue
        kept = k.startswith("extra/frozen/") or k.split("/")[2] in fixed
        assert (before[k] == after[k]).all() == kept, k
    # The encoder is whole again where it is evaluated, and saved in two places.
    params, _ = method.encoder(state.params, state.extra)
    assert jax.tree.structure(params) == jax.tree.structure(start[0])
    where = encoder_location(method, state.params, state.extra)
    assert where["params"] == ["extra/frozen/", "params/encoder/"]


def dots(function, *args):
    return str(jax.make_jaxpr(function)(*args)).count("dot_general")


def test_no_gradient_is_computed_below(x64):
    """Fails if the backward pass goes on into frozen blocks, or they drop branches.

    Products of a block: queries with keys and values, two of attention, projection, two of the
    perceptron. (Take `stop_gradient` out and leave the frozen blocks in `params`.)
    """
    encoder = small_vit().encoder
    batch = make_batch(4, size=6, views=1)
    args = (batch, KEY, jnp.int32(0))

    def program(last):
        method = supervised(encoder, CLASSES, last=last)
        params, extra = jax.eval_shape(method.init, KEY, batch)
        return dots(jax.grad(method.loss, has_aux=True), params, extra, *args)

    forward = 1 + 2 * 6 + 1
    assert program(None) == forward + 1 + 2 * (2 * 6 + 1)
    assert program(2) == program(None)
    assert program(1) == forward + 2 * (6 + 1)


def test_gradients_of_the_last_block_are_those_of_the_whole(x64):
    """Fails if what is frozen is other than the encoder's first blocks in inference mode."""
    encoder = small_vit().encoder
    batch = make_batch(4, size=6, views=1)
    start = filled(jax.eval_shape(encoder.init, KEY, images_of(6)), seed=3)
    found = []
    for last in (None, 1):
        method = supervised(starting_from(encoder, *start), CLASSES, last=last)
        params, extra = method.init(KEY, batch)
        args = (params, extra, batch, KEY, jnp.int32(0))
        grad = jax.jit(jax.grad(method.loss, has_aux=True))
        found.append(named(compiled(grad, *args)(*args)[0]))
    whole, part = found
    assert {k.split("/")[1] for k in part} == {"blocks_1", "norm", "kernel", "bias"}
    for k, value in part.items():
        np.testing.assert_allclose(value, whole[k], rtol=1e-9, atol=1e-12, err_msg=k)


def test_parts_of_encoders():
    """Fails if a stage or block is counted from another number, or a shortcut is the stem's."""
    resnet, tiny = models.make_encoder("resnet50"), models.make_encoder("tiny")
    names = ("conv1", "stem_bn2", "layer1_2", "layer4_0")
    assert [part_of(resnet, name) for name in names] == [0, 0, 1, 4]
    assert [part_of(tiny, name) for name in ("stage1_0_conv", "stage3_1_bn")] == [1, 3]
    assert [count_blocks(models.make_encoder("tiny", stages=n)) for n in (3, 5)] == [3, 5]
    vit = models.make_encoder("vit_small")
    names = ("patch_embed", "cls_token", "blocks_0", "blocks_11", "norm")
    assert [part_of(vit, name) for name in names] == [0, 0, 1, 12, 13]
    assert [frozen_parts(vit, last) for last in (1, 11, 12)] == [12, 2, 0]
    assert [frozen_parts(resnet, last) for last in (1, 4)] == [4, 0]
    with pytest.raises(ValueError, match=r"The last 13 blocks of 'vit_small' .* 1 to its 12"):
        frozen_parts(vit, 13)
    with pytest.raises(ValueError, match=r"The last 5 stages of 'resnet50' .* 1 to its 4"):
        frozen_parts(resnet, 5)


def test_what_makes_no_sense_is_refused():
    """Fails if a part of an untrained encoder is frozen, or mixup is set for another method."""
    config = config_of(supervised__last=2)
    config.init_from = ""
    with pytest.raises(ValueError, match=r"supervised\.last is 2, but init_from is empty"):
        build(config)
    config = config_of(method__name="byol", supervised__mixup=0.8)
    with pytest.raises(
        ValueError, match=r"supervised\.mixup has no effect: method\.name is 'byol'"
    ):
        resolve(config)
    with pytest.raises(ValueError, match=r"supervised\.smoothing is 1\.0; expected .* below 1"):
        resolve(config_of(supervised__smoothing=1.0))


def test_fixed_positions_are_trained_on(tmp_path):
    """Fails if learned positions are drawn anew where the export has fixed ones, or refused."""
    sizes = {"dim": 16, "depth": 1, "heads": 2, "patch": 2, "maps": 1}
    vit = models.make_encoder("vit_tiny", image_size=8, channels=1, **sizes)
    image = jax.ShapeDtypeStruct((1, 1, 8, 8, 1), np.float32)
    params, stats = filled(jax.eval_shape(vit.init, KEY, image), seed=5)
    info = EncoderInfo(vit.config, 8, (0.3,), (0.4,))
    save_encoder(tmp_path / "export", params, stats, info)
    config = config_of(
        data__name="digits", image_size=8, views__recipe="crop_flip", encoder__name="vit_tiny",
        vit__positions="learned", init_from=str(tmp_path / "export"),
    )  # fmt: skip
    config.vit.update(sizes)
    e = build(config, devices=jax.devices()[:1])
    found, _ = e.method.init(KEY, make_batch(2, "float32", views=1))
    np.testing.assert_allclose(found["encoder"]["pos_embed"], sincos(16, (4, 4)), atol=1e-7)
    np.testing.assert_array_equal(found["encoder"]["norm"]["bias"], params["norm"]["bias"])


# --- soft targets and the norm before the head --------------------------------------------------


def given_features(dim=5):
    """An encoder whose features are the first numbers of an image."""

    def apply(params, stats, images, train, key=None):
        flat = images.reshape(*images.shape[:2], -1)
        return Features(flat[..., :dim] * params["scale"][None, None], ()), stats

    return Encoder(lambda *_: ({"scale": jnp.ones(dim)}, {}), apply, dim, 3, {})


def test_soft_targets_by_hand(x64):
    """Fails if hard labels are learned, masked rows count, or top-1 is of the label."""
    method = supervised(given_features(), CLASSES)
    batch = make_batch(6, views=1)
    random = np.random.RandomState(0)
    target = random.dirichlet(np.ones(CLASSES), 6)
    batch |= {"target": target, "mask": np.array([1, 1, 0, 1, 1, 1], np.float32)}
    batch["label"][5] = -1
    head = {"kernel": random.randn(1, 5, CLASSES), "bias": random.randn(1, CLASSES)}
    params = {"encoder": {"scale": jnp.ones(5)}, "head": head}
    value, aux = method.loss(params, {"stats": {}}, batch, KEY, jnp.int32(0))
    rows = [0, 1, 3, 4]
    logits = batch["views"].reshape(6, -1)[:, :5] @ head["kernel"][0] + head["bias"][0]
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    np.testing.assert_allclose(value, -(target * log_p).sum(1)[rows].mean(), rtol=1e-12)
    right = 100 * (logits.argmax(1) == target.argmax(1))[rows].mean()
    np.testing.assert_allclose(aux.metrics["train/top1"], right)


def test_a_probe_behind_a_norm_is_torchs(x64):
    """Fails if epsilon, decay, the unbiased variance, or the statistics of inference differ.

    (Take 1e-5; keep the biased variance; use the batch's statistics in `features`.)
    """
    method = supervised(given_features(), CLASSES, frozen=True, norm=True)
    batch = make_batch(8, views=1)
    batch["views"] = 1e-2 * batch["views"] + 3
    optimizer = optim.sgd(optim.constant(0.5), nesterov=True)
    state = jax.tree.map(jnp.asarray, start_state(method, optimizer, batch))
    state.extra["encoder"] = {"scale": jnp.ones(5)}
    norm, layer = torch.nn.BatchNorm1d(5, eps=1e-6, affine=False), torch.nn.Linear(5, CLASSES)
    layer.weight.data = torch.tensor(np.asarray(state.params["head"]["kernel"])[0].T)
    layer.bias.data = torch.zeros(CLASSES, dtype=torch.float64)
    momenta = [torch.zeros_like(p) for p in layer.parameters()]
    step = compiled(jax.jit(make_train_step(method, optimizer)), state, batch, KEY)
    norm, h = norm.double(), torch.tensor(batch["views"].reshape(8, -1)[:, :5])
    for _ in range(4):
        state, _ = step(state, batch, KEY)
        label = torch.tensor(batch["label"]).long()
        loss = torch.nn.functional.cross_entropy(layer(norm(h)), label)
        for p, m, g in zip(
            layer.parameters(), momenta, torch.autograd.grad(loss, layer.parameters()), strict=True
        ):
            m.mul_(0.9).add_(g)
            p.data -= 0.5 * (g + 0.9 * m)
    norm.eval()
    logits = layer(norm(h)).detach().numpy()
    found = method.features(state.params, state.extra, batch["views"])["logits"]
    np.testing.assert_allclose(found[:, 0], logits, rtol=1e-9)
    folded = linear_layer(state.params, state.extra)
    own = h.numpy() @ np.asarray(folded["kernel"]) + np.asarray(folded["bias"])
    np.testing.assert_allclose(own, logits, rtol=1e-7)
    assert method.moving == ("norm",)


def test_the_classifiers_first_weights():
    """Fails if `head_std` is ignored, or the default is no longer 1 / sqrt(D)."""
    batch = make_batch(4, "float32", views=1)
    default, small = (
        supervised(given_features(4), CLASSES, head_std=s).init(KEY, batch)[0]["head"]
        for s in (0.0, 2e-5)
    )
    np.testing.assert_allclose(small["kernel"], 2e-5 * 2 * default["kernel"], rtol=1e-5)
