"""The state divided over devices: where it lies, and that no number changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import compiled, make_batch, mini_encoder, named, start_state
from small_vit import small_vit

from byol_jax import mesh as meshes
from byol_jax import optim
from byol_jax.checkpoint import Checkpoints
from byol_jax.config import default_config
from byol_jax.experiment.build import batch_shapes, build
from byol_jax.experiment.evaluation import build_evaluation
from byol_jax.mesh import gathered
from byol_jax.methods.byol import byol
from byol_jax.methods.mae import mae
from byol_jax.methods.probe import with_probe
from byol_jax.models import heads
from byol_jax.models.mae_decoder import mae_decoder
from byol_jax.models.network import network
from byol_jax.preflight import hlo
from byol_jax.preflight.lower import lower, no_data
from byol_jax.train_step import init_state, jit_step, jit_steps, make_train_step

KEY = jax.random.key(1)
STEPS = 20


@pytest.fixture(autouse=True)
def small_arrays_too(monkeypatch):
    """Divide what these small networks have."""
    monkeypatch.setattr(meshes, "SHARD_FROM", 4)


def divided(tree):
    """Names of the arrays that do not lie whole on every device."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    names = {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}
    return {k for k, x in names.items() if not x.sharding.is_fully_replicated}


def parts(fsdp, accumulate=1):
    """(mesh, step, state, batch) of BYOL with LARS and a probe, on eight devices."""
    mesh = meshes.make_mesh(fsdp=fsdp)
    encoder, mlp, probe = (
        module if fsdp == 1 else gathered(module, mesh)
        for module in (
            mini_encoder(),
            heads.mlp((32, 16), dtype=jnp.float64, param_dtype=jnp.float64),
            heads.linear(3, dtype=jnp.float64),
        )
    )
    method = byol(network(encoder, mlp), mlp, tau=optim.cosine_tau(0.9, STEPS))
    method = with_probe(method, probe, 16)
    optimizer = optim.lars(optim.warmup_cosine(0.45, 4, STEPS), weight_decay=1e-6)
    batch = make_batch(16)
    batch["mask"][5] = 0
    state = start_state(method, optimizer, batch, 8)
    state = jax.device_put(state, meshes.state_sharding(state, mesh))
    return mesh, make_train_step(method, optimizer, accumulate=accumulate), state, batch


def trained(fsdp, steps=STEPS, accumulate=1):
    mesh, step, state, batch = parts(fsdp, accumulate)
    rows = meshes.put_batch(batch, mesh)
    step = compiled(jit_step(step, mesh), state, rows, KEY)
    for _ in range(steps):
        state, metrics = step(state, rows, KEY)
    return state, metrics


def close(a, b):
    a, b = named(a), named(b)
    assert a.keys() == b.keys()
    for k in a:
        np.testing.assert_allclose(a[k], b[k], rtol=1e-9, atol=1e-9, err_msg=k)


@pytest.mark.parametrize(("accumulate", "fsdp"), [(1, 4), (2, 8)])
def test_a_divided_state_trains_alike(x64, accumulate, fsdp):
    """Fails if a norm, a moving average or a gradient is that of a device's share."""
    whole, expected = trained(1, accumulate=accumulate)
    assert not divided(whole)
    state, metrics = trained(fsdp, accumulate=accumulate)
    close(state, whole)
    close(metrics, expected)
    found = divided(state)
    for kind in ("params/encoder/conv1", "extra/target/params/projector", "opt_state"):
        assert any(k.startswith(kind) for k in found), kind
    held = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state))
    assert held < 1.5 / fsdp * sum(x.nbytes for x in jax.tree.leaves(state))


def test_a_transformer_is_gathered_too(x64):
    """Fails if `gathered` leaves a transformer's tokens to the compiler, or changes a number."""
    states, dtypes = [], {"dtype": jnp.float64, "param_dtype": jnp.float64}
    for fsdp in (1, 4):
        mesh = meshes.make_mesh(fsdp=fsdp)
        modules = (
            small_vit(image_size=8, depth=1),
            mae_decoder(16, 12, dim=8, depth=1, heads=2, **dtypes),
        )
        if fsdp > 1:
            modules = [gathered(module, mesh) for module in modules]
        method, optimizer = mae(*modules), optim.sgd(optim.constant(0.1))
        batch = make_batch(16, views=1)
        state = start_state(method, optimizer, batch, 8)
        state = jax.device_put(state, meshes.state_sharding(state, mesh))
        step, rows = (
            jit_step(make_train_step(method, optimizer), mesh),
            meshes.put_batch(batch, mesh),
        )
        states.append(compiled(step, state, rows, KEY)(state, rows, KEY)[0])
    close(*states)
    for kind in ("params/encoder/blocks_0", "params/decoder/blocks_0"):
        assert any(k.startswith(kind) for k in divided(states[1])), kind
    vit, params = modules[0], states[0].params["encoder"]
    for f in (vit.tokens, lambda p, x: vit.encoder.apply(p, {}, x[:, None], False)):
        text = str(jax.make_jaxpr(f)(params, batch["views"][:, 0]))
        assert text.count("sharding_constraint") >= len(jax.tree.leaves(params))


def test_several_steps_a_dispatch(x64):
    """Fails if the loop on the device gathers the state for good."""
    whole, _ = trained(1, steps=5)
    mesh, step, state, batch = parts(4)
    before = divided(state)
    steps = jit_steps(step, mesh, 6, {})
    state, metrics = steps(state, meshes.put_steps([batch] * 5, 6, mesh), KEY)
    close(state, whole)
    assert divided(state) == before
    assert metrics["train/loss"].shape == (6,)


def test_where_arrays_lie(monkeypatch):
    """Fails if a small array is divided, or the axis chosen wastes a TPU's tiles of 8 x 128."""
    monkeypatch.undo()
    axes = {
        (3, 3, 512, 512): 2,  # whole tiles either way
        (1, 1, 64, 2048): 2,  # 8 rows each
        (1, 1, 32, 4096): 3,  # half a tile of rows, or whole ones
        (3, 3, 30, 4096): 3,
        (2048, 1000): 0,
        (8192,): 0,
        (8184,): None,  # a share would be less than a tile
        (7, 7, 3, 63): None,
        (): None,
    }
    tree = [jax.ShapeDtypeStruct(shape, np.float32) for shape in axes]
    specs = [x.spec for x in meshes.state_sharding(tree, meshes.make_mesh(fsdp=8))]
    assert [spec.index("fsdp") if "fsdp" in spec else None for spec in specs] == [*axes.values()]
    alone = meshes.state_sharding(tree, meshes.make_mesh())
    assert all(x.is_fully_replicated for x in alone)


@pytest.mark.parametrize("fsdp", [3, 16, 0])
def test_devices_that_cannot_be_divided(fsdp):
    """Fails if the message names neither the key nor the number of devices."""
    with pytest.raises(ValueError, match=f"mesh.fsdp is {fsdp}, but 8 devices"):
        meshes.make_mesh(fsdp=fsdp)


def test_checkpoints_go_between_sizes(x64, tmp_path):
    """Fails if what was saved divided comes back in part, or whole where it shall be divided."""
    state, _ = trained(8, steps=1)
    saved = Checkpoints(tmp_path)
    saved.save(1, state, {})
    saved.wait()
    for mesh in (
        meshes.make_mesh(fsdp=4),
        meshes.make_mesh(),
        meshes.make_mesh(jax.devices()[:2], 2),
    ):
        wanted = meshes.state_sharding(state, mesh)
        back = saved.restore(1, state, wanted)
        for k, value in named(state).items():
            np.testing.assert_array_equal(named(back)[k], value, err_msg=k)
        assert jax.tree.map(lambda x: x.sharding, back) == wanted
    saved.close()


def digits(fsdp=4):
    c = default_config()
    c.batch_size, c.image_size, c.data.name, c.views.recipe = 64, 8, "digits", "digits"
    c.encoder.name, c.encoder.width, c.encoder.dtype = "tiny", 0.25, "float32"
    c.byol.hidden, c.byol.out, c.mesh.fsdp = 32, 16, fsdp
    return c


def test_a_run_is_divided_from_its_start(quick):
    """Fails if `mesh.fsdp` is not read, by init or evaluation."""
    e = build(digits())
    state = init_state(e.method, e.optimizer, KEY, batch_shapes(e), e.mesh)
    assert any(k.startswith("params/encoder") for k in divided(state))
    assert any(k.startswith("extra/target") for k in divided(state))
    one = build(digits(1))
    whole = jax.device_put(state, meshes.replicated(one.mesh))
    found = [build_evaluation(x)(s, lambda: None) for x, s in ((e, state), (one, whole))]
    counts = {"knn/train_images", "knn/test_images", "knn/damaged"}
    assert found[0].keys() == {"knn/test_top1", "probe/test_top1"} | counts
    assert found[0] == pytest.approx(found[1], abs=0.5)


def test_parameters_and_target_are_gathered_once(monkeypatch):
    """Fails if a step gathers anything twice, or something else than what its forward passes need:
    without `gathered` the compiler would move activations and gradients instead.
    """
    monkeypatch.setattr(meshes, "SHARD_FROM", 64)  # no statistics
    lowered = lower(digits(), no_data(digits(), 0, -1), jax.devices()).step
    e = build(digits())
    state = jax.eval_shape(
        lambda k: init_state(e.method, e.optimizer, k, batch_shapes(e), e.mesh), KEY
    )
    needed = (state.params, state.extra["target"]["params"])
    lies = jax.tree.leaves(meshes.state_sharding(needed, e.mesh))
    pairs = zip(jax.tree.leaves(needed), lies, strict=True)
    expected = sum(4 * x.size for x, lie in pairs if not lie.is_fully_replicated)
    found = hlo.summary(hlo.collectives(lowered.compile().as_text(), 8))
    assert 1e6 * found["all-gather"]["mb"] == pytest.approx(expected)
    assert found.keys() <= {"all-gather", "all-reduce"}


def test_what_a_loss_hands_on_stays_divided():
    """Fails if the target comes back as a cut from the whole: a TPU then gathers it in float32, and
    once more in bfloat16 for the forward pass.
    """
    e = build(digits())
    state = jax.eval_shape(
        lambda k: init_state(e.method, e.optimizer, k, batch_shapes(e), e.mesh), KEY
    )
    args = (state.params, state.extra, batch_shapes(e), KEY, jnp.int32(0))
    loss = jax.make_jaxpr(e.method.loss)(*args).jaxpr
    assert len(set(loss.outvars) & set(loss.invars)) == len(
        jax.tree.leaves(state.extra["target"]["params"])
    )
