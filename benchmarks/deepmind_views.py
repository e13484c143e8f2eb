"""Our views on the device and DeepMind's JAX augmentation, on the same crops and device.

    python benchmarks/deepmind_views.py --source deepmind-research/byol/utils/augmentations.py

Their file is read from a checkout (github.com/google-deepmind/deepmind-research, Apache-2.0), with
two names restored that newer jax has dropped. Ours is `views/device.py` with the same recipe. Both
are compiled, take uint8 crops, and return normalised float32 views (theirs are normalised here,
because DeepMind does that in the network).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from byol_jax.bench.measure import machine, plain, rates, table
from byol_jax.bench.noise import noise
from byol_jax.views import recipes, spec
from byol_jax.views.device import make_views


def load(path: str) -> Any:
    """Load DeepMind's module from its file."""
    jax.tree_map = jax.tree.map  # type: ignore[attr-defined]
    cond = jax.lax.cond

    def old_cond(pred: Any, *rest: Any) -> Any:
        # cond(pred, true_operand, true_fun, false_operand, false_fun), as in jax of 2020.
        if len(rest) == 4 and callable(rest[1]) and callable(rest[3]):
            a, f, b, g = rest
            return cond(pred, lambda ab: f(ab[0]), lambda ab: g(ab[1]), (a, b))
        return cond(pred, *rest)

    jax.lax.cond = old_cond  # type: ignore[assignment]
    found = importlib.util.spec_from_file_location("augmentations", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def theirs(module: Any) -> Callable[..., jax.Array]:
    """(uint8 crops [B, 2, S, S, 3], key) -> views, by DeepMind's `postprocess`."""
    mean, std = (np.array(v, np.float32) for v in (spec.IMAGENET_MEAN, spec.IMAGENET_STD))

    def views(crops: jax.Array, key: jax.Array) -> jax.Array:
        x = crops.astype(jnp.float32) / 255
        out = module.postprocess({"view1": x[:, 0], "view2": x[:, 1], "labels": 0}, key)
        return (jnp.stack([out["view1"], out["view2"]], 1) - mean) / std

    return jax.jit(views)


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True, help="path of DeepMind's augmentations.py")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--json", default="")
    args = parser.parse_args()
    images = noise(2 * args.batch, args.size).images
    assert images is not None
    crops = jnp.asarray(images.reshape(args.batch, 2, args.size, args.size, 3))
    made = make_views(recipes.byol(args.size), cropped=True)

    @jax.jit
    def ours(crops: jax.Array, key: jax.Array) -> jax.Array:
        return made({"views": crops}, key)["views"]

    def work(views: Callable[..., jax.Array]) -> Callable[[], int]:
        def call() -> int:
            jax.block_until_ready(views(crops, jax.random.key(0)))
            return args.batch

        return call

    candidates = {"DeepMind's": work(theirs(load(args.source))), "byol_jax": work(ours)}
    found = rates(candidates, args.rounds, args.seconds)
    print(machine())
    print(table(f"two BYOL views of {args.size} px, batch {args.batch}", "images/s", found))
    if args.json:
        result = {"machine": machine(), "args": vars(args), "rates": plain(found)}
        Path(args.json).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
