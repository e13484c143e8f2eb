"""Several CPU devices in every test, warnings are errors, rank promotion raises."""

import atexit
import gc
import os
import shutil
import sys
import tempfile

import fork_server

# The CUDA build of torch brings triton, whose LLVM crashes the process beside TensorFlow's. The
# oracles compute on the CPU and do without it: torch takes it for not installed.
if "triton" not in sys.modules:
    sys.modules["triton"] = None

# One thread for the small products of PyTorch and NumPy: as many as there are cores, in each of
# pytest's workers, spend most of the time waiting for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Before jax is imported anywhere: eight devices, so that every test can shard.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["XLA_FLAGS"] = f"{fork_server.COMPILER} {fork_server.EIGHT}"
# What one test compiles, the next one and the commands that tests start need not compile again.
# Each of pytest's workers has a folder of its own: JAX does not write these files in one piece.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="byol_jax_tests_")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
# Small programs too, of which there are hundreds.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] += "/" + os.environ["PYTEST_XDIST_WORKER"]

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from byol_jax import mesh as meshes
from byol_jax import models
from byol_jax.core import TrainState
from byol_jax.models.layers import ConvSpec

jax.config.update("jax_numpy_rank_promotion", "raise")

# XLA has read its options when there are devices; libtpu reads them again, for programs of a TPU.
assert len(jax.devices()) == 8
os.environ["XLA_FLAGS"] = f"{fork_server.FOR_ALL} {fork_server.EIGHT}"

GLOBAL = (
    *("jax_enable_x64", "jax_disable_most_optimizations", "jax_numpy_rank_promotion"),
    *("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"),
)


def _restored():
    before = {name: jax.config.values[name] for name in GLOBAL}
    yield
    for name, value in before.items():
        if jax.config.values[name] != value:
            jax.config.update(name, value)


# JAX's settings are the whole process's, and `build` of a float64 config is one that changes them.
_after_a_test = pytest.fixture(autouse=True)(_restored)
_after_a_module = pytest.fixture(autouse=True, scope="module")(_restored)


def pytest_collection_finish():
    """Collect garbage rarely: with all that is imported here, it takes 8% of the tests' time."""
    gc.freeze()
    gc.set_threshold(*fork_server.GARBAGE)


# The files that take longest begin, so that the workers end at about the same time.
LONGEST = (
    *("processes", "resume", "end_to_end", "contract", "results", "parity", "pipeline"),
    *("preflight", "feed", "models", "damaged", "rollback", "tpu_vm", "fsdp", "bench"),
    *("experiment", "fuzz", "half_precision", "timm", "views_device"),
)


def pytest_collection_modifyitems(items):
    place = {f"test_{name}.py": i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@pytest.fixture
def x64():
    """Float64 in JAX, for the whole process: Orbax restores in threads of its own."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def compiled(jitted, *args):
    """A jitted function as one executable for these arguments, compiled four times as fast.

    It refuses arguments of other shapes, dtypes or shardings.
    """
    lowered = jitted.lower(*args)
    options = {"xla_backend_optimization_level": 0}
    try:
        return lowered.compile(compiler_options=options | {"xla_cpu_use_fusion_emitters": False})
    except jax.errors.JaxRuntimeError as e:
        if "No such compile option" not in str(e):
            raise
        return lowered.compile(compiler_options=options)  # newer jax has no such choice


@pytest.fixture
def quick():
    """XLA compiles in half the time to slower code: for tests that run few steps."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


class _Mini(nn.Module):
    spec: ConvSpec
    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x, key, groups, train):
        maps = []
        for i, features in enumerate(self.widths):
            x = self.spec.conv(features, 3, 1 + i, f"conv{i}")(x)
            x = nn.relu(self.spec.norm(f"bn{i}")(x, groups, train))
            maps.append(x)
        return maps


def mini_encoder(dtype="float64", channels=3, widths=(8, 16)):
    """Convolutions of these widths behind the encoder contract: they compile in a second."""
    module = _Mini(ConvSpec("torch", jnp.dtype(dtype), jnp.dtype(dtype)), widths)
    config = {"name": "mini", "dtype": dtype}
    return models._wrap(module, widths[-1], channels, jnp.dtype(dtype), config)


def filled(shapes, seed=0):
    """NumPy values for a tree of shapes, by name: drawn kernels, ones for scales and variances,
    random directions for a queue and a memory bank, shares for a prior.

    In place of the real init, whose draws take XLA longer to compile than the train step.
    """
    random = np.random.RandomState(seed)

    def fill(path, leaf):
        name = str(getattr(path[-1], "key", path[-1]))
        if name == "kernel":
            fan_in = np.prod(leaf.shape[:-1])
            return (random.randn(*leaf.shape) / np.sqrt(fan_in)).astype(leaf.dtype)
        if name in ("queue", "bank") and leaf.ndim == 2:  # SwAV's starts empty
            rows = random.randn(*leaf.shape)
            return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(leaf.dtype)
        if name in ("cls_token", "reg_token", "mask_token", "pos_embed"):
            return random.randn(*leaf.shape).astype(leaf.dtype)
        if name == "prior":  # shares of bins
            return random.dirichlet(np.ones(leaf.size)).astype(leaf.dtype)
        return np.full(leaf.shape, float(name in ("scale", "var")), leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def numpy_state(method, optimizer, batch, seed=0):
    """A train state with `filled` values, in NumPy."""
    params, extra = filled(jax.eval_shape(method.init, jax.random.key(0), batch), seed)
    opt_state = jax.tree.map(
        lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(optimizer.init, params)
    )
    zero = np.zeros((), np.int32)
    return TrainState(zero, zero, params, extra, opt_state)


def placed(state, devices=1, sharded=()):
    """A train state as it lies on the first `devices` devices."""
    mesh = first_devices(devices)
    return jax.device_put(state, meshes.state_sharding(state, mesh, sharded))


def start_state(method, optimizer, batch, devices=1, seed=0):
    """A train state with `filled` values, as it lies on the first `devices` devices."""
    return placed(numpy_state(method, optimizer, batch, seed), devices, method.sharded)


def first_devices(n):
    """A mesh over the first n devices."""
    return meshes.make_mesh(jax.devices()[:n])


def make_batch(rows=8, dtype="float64", seed=0, size=8, views=2):
    """A batch of coloured noise: images of a class share a pattern."""
    random = np.random.RandomState(seed)
    label = (np.arange(rows) % 3).astype(np.int32)
    pattern = random.randn(3, 1, size, size, 3)[label]
    images = pattern + 0.7 * random.randn(rows, views, size, size, 3)
    return {
        "views": images.astype(dtype),
        "index": np.arange(rows, dtype=np.int32),
        "label": label,
        "mask": np.ones(rows, np.float32),
    }


def named(tree):
    """{"a/b/c": NumPy array} of a tree."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.array(leaf)
        for path, leaf in leaves
    }
