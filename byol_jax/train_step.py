"""The train step and its state, as pure functions.

One root key per run: the step's key is `fold_in(root, step)`, so that no key need be saved.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.sharding import Mesh, Sharding

from byol_jax import mesh as meshes
from byol_jax.core import Batch, Method, Step, TrainState, Tree
from byol_jax.losses import feature_std_and_rank
from byol_jax.models.conv import compiling_for
from byol_jax.models.groups import batch_sharded_as
from byol_jax.optim import Optimizer

Views = Callable[[Batch, Array], Batch]


def step_keys(root_key: Array, step: Array | int) -> tuple[Array, Array]:
    """The keys of one step of a run: for its views, and for its loss."""
    views_key, loss_key = jax.random.split(jax.random.fold_in(root_key, step))
    return views_key, loss_key


def init_state(
    method: Method, optimizer: Optimizer, key: Array, batch: Batch, mesh: Mesh
) -> TrainState:
    """The state before step 0, made on the devices; see `start_of`."""
    return start_of(method, optimizer, key, batch, mesh)[1]()


def state_shapes(
    method: Method, optimizer: Optimizer, key: Array, batch: Batch, mesh: Mesh
) -> TrainState:
    """What `init_state` would return, as shapes with their shardings; see `start_of`."""
    return start_of(method, optimizer, key, batch, mesh)[0]


def start_of(
    method: Method, optimizer: Optimizer, key: Array, batch: Batch, mesh: Mesh
) -> tuple[TrainState, Callable[[], TrainState]]:
    """The state before step 0, from one tracing of `init`.

    Args:
      method, optimizer: what will be trained.
      key: of the run.
      batch: arrays or ShapeDtypeStructs of a batch, as the method sees it.
      mesh: where the state is placed, with `mesh.state_sharding`.

    Returns:
      (its shapes with their shardings; a function that makes it on the devices, under jit, so that
      no array is aliased).
    """
    traced, like = jax.make_jaxpr(_init_function(method, optimizer, batch), return_shape=True)(key)
    structure = jax.tree.structure(like)
    where = meshes.state_sharding(like, mesh, method.sharded)

    # Arrays that `init` closes over (a pre-trained encoder) are passed as arguments: as constants
    # they would be copied into the program that XLA compiles.
    def run(constants: list[Any], key: Array) -> TrainState:
        return jax.tree.unflatten(
            structure, jaxpr_as_fun(ClosedJaxpr(traced.jaxpr, constants))(key)
        )

    def make() -> TrainState:
        constants = [np.asarray(c) for c in traced.consts]
        return jax.jit(run, out_shardings=where)(constants, key)

    def placed(x: Any, sharding: Sharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(placed, like, where), make


def _init_function(
    method: Method, optimizer: Optimizer, batch: Batch
) -> Callable[[Array], TrainState]:
    shapes = jax.tree.map(
        lambda x: (x.shape, x.dtype), dict(batch), is_leaf=lambda x: hasattr(x, "shape")
    )

    def init(key: Array) -> TrainState:
        blank = {k: jnp.zeros(*shape_dtype) for k, shape_dtype in shapes.items()}
        params, extra = method.init(key, blank)
        zero = jnp.zeros((), jnp.int32)
        return TrainState(zero, zero, params, extra, optimizer.init(params))

    return init


def _gradients(
    method: Method, params: Tree, extra: Tree, batch: Batch, key: Array, step: Array
) -> tuple[Tree, Tree, dict[str, Array]]:
    """Gradients, the next extra, and metrics, including those that show collapse."""
    grad = jax.value_and_grad(method.loss, has_aux=True)
    (loss, aux), grads = grad(params, extra, batch, key, step)
    metrics = {"train/loss": loss, **aux.metrics}
    mask = batch["mask"]
    for name, x_BVD in aux.features.items():
        std, rank = feature_std_and_rank(jax.lax.stop_gradient(x_BVD[:, 0]), mask)
        metrics[f"features/{name}_std"] = std
        if name != "h":
            metrics[f"features/{name}_rank"] = rank
    return grads, aux.extra, metrics


def make_train_step(
    method: Method, optimizer: Optimizer, views: Views | None = None, *, accumulate: int = 1
) -> Step:
    """One optimizer step as a pure function of (state, batch, root key).

    Args:
      method: what is trained.
      optimizer: how.
      views: makes the views on the device, (batch, key) -> batch; None if the host made them.
      accumulate: micro-batches per step, as a scan. Schedules, moving averages and the step count
        use optimizer steps; batch-norm statistics and negatives are per micro-batch.

    Returns:
      step(state, batch, root_key) -> (state, metrics), metrics a flat dict of scalars:
      train/loss, train/grad_norm, train/lr, features/{h,z}_std (1 = uniform on the sphere,
      0 = collapsed), features/z_rank (participation ratio), and the method's own.
    """
    gradients = functools.partial(_gradients, method)

    def accumulated(
        params: Tree, extra: Tree, batch: Batch, key: Array, step: Array
    ) -> tuple[Tree, Tree, dict[str, Array]]:
        # Rows a, a + A, a + 2A ... form micro-batch a, so that each device keeps its own rows.
        def split(x: Array) -> Array:
            return x.reshape(x.shape[0] // accumulate, accumulate, *x.shape[1:]).swapaxes(0, 1)

        def body(carry: tuple[Tree, Tree], xs: tuple[Tree, Array]) -> tuple[Any, Any]:
            total, extra = carry
            micro_key = jax.random.fold_in(key, xs[1])
            grads, extra, metrics = gradients(params, extra, xs[0], micro_key, step)
            return (jax.tree.map(jnp.add, total, grads), extra), metrics

        start = (jax.tree.map(jnp.zeros_like, params), extra)
        micro = jax.tree.map(split, dict(batch))
        (grads, extra), metrics = jax.lax.scan(body, start, (micro, jnp.arange(accumulate)))
        grads = jax.tree.map(lambda g: g / accumulate, grads)
        return grads, extra, {k: v.mean(0) for k, v in metrics.items()}

    def step(state: TrainState, batch: Batch, root_key: Array) -> tuple[TrainState, dict]:
        views_key, loss_key = step_keys(root_key, state.step)
        rows = batch["mask"].shape[0]
        if rows % accumulate:
            raise ValueError(f"A batch of {rows} cannot be split into {accumulate} micro-batches.")
        if views is not None:
            batch = views(batch, views_key)
        compute = gradients if accumulate == 1 else accumulated
        before = method.prepare(state.params)
        grads, extra, metrics = compute(before, state.extra, batch, loss_key, state.step)
        updates, opt_state = optimizer.update(grads, state.opt_state, before, state.step)
        params = optax.apply_updates(before, updates)
        extra, after = method.after_update(params, extra, state.step)
        metrics |= after
        metrics["train/grad_norm"] = optax.tree.norm(grads)
        metrics["train/lr"] = optimizer.lr(state.step)
        position = state.position + rows
        return TrainState(state.step + 1, position, params, extra, opt_state), metrics

    return step


def jit_step(step: Step, mesh: Mesh, sharded: Sequence[str] = ()) -> Step:
    """The step compiled for a mesh: batch rows sharded over the devices, the state donated.

    Before and after, the state is placed with `mesh.state_sharding`; `sharded` is the method's.
    """
    step, sharding = _with_state_sharding(step, mesh, sharded)
    others = (meshes.batch_sharding(mesh), meshes.replicated(mesh))
    return _compiled(step, mesh, sharding, others)


def _compiled(function: Callable[..., Any], mesh: Mesh, state: Any, others: Any) -> Any:
    """A function (state, *others) -> (state, metrics), compiled for the devices of a mesh.

    Args:
      function: pure.
      mesh: the devices.
      state: sharding of the state, before and after.
      others: shardings of the other arguments.
    """
    platform = meshes.platform(mesh)

    @functools.wraps(function)
    def traced(*arguments: Any) -> Any:
        with compiling_for(platform), batch_sharded_as(meshes.batch_sharding(mesh)):
            return function(*arguments)

    return jax.jit(
        traced,
        in_shardings=(state, *others),
        out_shardings=(state, meshes.replicated(mesh)),
        donate_argnums=0,
        compiler_options=meshes.compiler_options(platform),
    )


def _with_state_sharding(
    step: Step, mesh: Mesh, sharded: Sequence[str]
) -> tuple[Step, Sharding | None]:
    """The step that returns its state with `mesh.state_sharding`, and the sharding for jit.

    The sharding of each array depends on its shape, which is not known before the call. None makes
    jit keep the argument's own sharding, and the step itself constrains that of its result.
    """
    if mesh.shape["fsdp"] == 1 and not sharded:
        return step, meshes.replicated(mesh)

    def kept(state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, dict[str, Array]]:
        state, metrics = step(state, batch, key)
        where = meshes.state_sharding(state, mesh, sharded)
        return jax.lax.with_sharding_constraint(state, where), metrics

    return kept, None


def jit_steps(
    step: Step, mesh: Mesh, most: int, constants: Batch, sharded: Sequence[str] = ()
) -> Step:
    """Several steps in one dispatch, compiled for a mesh.

    Args:
      step: as `make_train_step` returns it.
      mesh: as for `jit_step`.
      most: K, the largest number of steps. The number in each call is an argument: the same program
        runs any number, so that results do not depend on how steps are grouped into dispatches.
      constants: arrays on the devices that are added to every batch (a data set).
      sharded: as for `jit_step`.

    Returns:
      steps(state, {key: [K, B, ...], "count": []}, root_key) -> (state, metrics [K]); metrics from
      `count` on are zero. With K = 1 there is no loop around the step.
    """
    whole, rows = meshes.replicated(mesh), meshes.steps_sharding(mesh)
    step, sharding = _with_state_sharding(step, mesh, sharded)
    # Traced once, for the shapes of its metrics and in the loop alike.
    step = jax.jit(step, inline=True)

    def steps(
        state: TrainState, batches: Batch, count: Array, constants: Batch, root_key: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        def batch(i: Any) -> Batch:
            return {k: v[i] for k, v in batches.items()} | dict(constants)

        def body(i: Array, carry: tuple[TrainState, dict]) -> tuple[TrainState, dict]:
            state, metrics = step(carry[0], batch(i), root_key)
            return state, {k: carry[1][k].at[i].set(v) for k, v in metrics.items()}

        if most == 1:
            state, metrics = step(state, batch(0), root_key)
            return state, {k: v[None] for k, v in metrics.items()}
        shapes = jax.eval_shape(step, state, batch(0), root_key)[1]
        start = {k: jnp.zeros((most, *v.shape), v.dtype) for k, v in shapes.items()}
        return jax.lax.fori_loop(0, count, body, (state, start))

    compiled = _compiled(steps, mesh, sharding, (rows, whole, whole, whole))

    def arguments(state: TrainState, batches: Batch, root_key: Array) -> tuple[Any, ...]:
        rest = {k: v for k, v in batches.items() if k != "count"}
        return state, rest, batches["count"], constants, root_key

    def call(state: TrainState, batches: Batch, root_key: Array) -> tuple[TrainState, dict]:
        return compiled(*arguments(state, batches, root_key))

    # Like jit's own methods: trace or lower without a call, also from shapes alone.
    vars(call)["lower"] = lambda *args: compiled.lower(*arguments(*args))
    return call
