"""Schedules `step -> value`, and factors of learning rates, `path -> value`.

A schedule is a function of `TrainState.step`. A path is that of a parameter, such as
"encoder/layer1_0/bn1/scale".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

Schedule = Callable[[Array], Array]


def _ramp(start: float, base: float, step: Array, warmup_steps: int) -> Array:
    """Linear from `start` at step 0 to `base` at warmup_steps."""
    risen = (base - start) * step / max(warmup_steps, 1)
    return start + risen if start else risen


def warmup_cosine(
    base: float, warmup_steps: int, total_steps: int, *, final: float = 0, warmup_start: float = 0
) -> Schedule:
    """Linear from `warmup_start` to `base` over W = warmup_steps, cosine to `final` at total_steps.

    Reference: google-deepmind/deepmind-research:byol/utils/schedules.py (learning_schedule).
    """

    def schedule(step: Array) -> Array:
        step = jnp.asarray(step, jnp.result_type(float))
        warm = _ramp(warmup_start, base, step, warmup_steps)
        done = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
        above = 0.5 * (base - final) * (1 + jnp.cos(jnp.pi * jnp.clip(done, 0, 1)))
        return jnp.where(step < warmup_steps, warm, final + above if final else above)

    return schedule


def cosine(start: float, end: float, total_steps: int) -> Schedule:
    """Half a cosine from `start` to `end` at total_steps, up or down, as for DINO's weight decay.

    Reference: facebookresearch/dino:utils.py (cosine_scheduler).
    """
    return warmup_cosine(start, 0, total_steps, final=end)


def warmup_multistep(
    base: float, warmup_steps: int, milestones: Sequence[int], *, factor: float = 0.1
) -> Schedule:
    """Linear from 0 to `base` over warmup_steps, times `factor` from each milestone (a step) on.

    Reference: facebookresearch/moco:main_moco.py (adjust_learning_rate).
    """

    def schedule(step: Array) -> Array:
        step = jnp.asarray(step, jnp.result_type(float))
        value: Any = base
        for drops, milestone in enumerate(sorted(milestones), 1):
            value = jnp.where(step >= milestone, base * factor**drops, value)
        return jnp.where(step < warmup_steps, _ramp(0, base, step, warmup_steps), value)

    return schedule


def constant(value: float) -> Schedule:
    """The same value at every step."""
    return lambda step: jnp.full((), value, jnp.result_type(float))


def cosine_tau(base: float, total_steps: int) -> Schedule:
    """BYOL's decay of the target: 1 - (1 - base) (cos(pi k / K) + 1) / 2, from `base` to 1.

    Reference: Grill et al. 2020, section 3.3; k is the step before the increment.
    """

    def schedule(step: Array) -> Array:
        done = jnp.asarray(step, jnp.result_type(float)) / total_steps
        return 1 - (1 - base) * (jnp.cos(jnp.pi * done) + 1) / 2

    return schedule


def scale_learning_rate(base: float, batch_size: int, rule: str) -> float:
    """The learning rate at a global batch: "linear" base B / 256, "sqrt" base sqrt(B), "none"."""
    rules = {"linear": base * batch_size / 256, "sqrt": base * batch_size**0.5, "none": base}
    if rule not in rules:
        raise ValueError(f"optimizer.lr_scaling is {rule!r}; expected one of {', '.join(rules)}.")
    return rules[rule]


def layer_decay(
    decay: float, layer_of: Callable[[str], int], num_layers: int
) -> Callable[[str], float]:
    """Layer-wise learning rates for fine-tuning: path -> decay ** (num_layers - layer).

    Args:
      decay: factor between neighbouring layers, 0 to 1.
      layer_of: path -> layer, from 0 (nearest to the image) to num_layers (the head).
      num_layers: the layer that learns at the full rate.

    Raises:
      ValueError: when the parameters are known, if a layer is out of range.

    Reference: Bao et al. 2022 (BEiT); facebookresearch/mae:util/lr_decay.py.
    """

    def factor(path: str) -> float:
        layer = layer_of(path)
        if not 0 <= layer <= num_layers:
            raise ValueError(f"{path} is in layer {layer}; expected 0 to num_layers={num_layers}.")
        return decay ** (num_layers - layer)

    return factor


def resnet_layers(blocks: Sequence[int]) -> tuple[Callable[[str], int], int]:
    """(layer_of, num_layers) of a ResNet for `layer_decay`: stem 0, then the blocks, then the rest.

    Args:
      blocks: number per stage, (3, 4, 6, 3) for ResNet-50. The network is under "encoder".

    Raises:
      ValueError: when the parameters are known, if they are not those of such a network.
    """
    names = [f"layer{stage}_{i}" for stage, n in enumerate(blocks, 1) for i in range(n)]
    stem = ("conv1", "bn1", *(f"stem_{kind}{i}" for i in (1, 2) for kind in ("conv", "bn")))
    layers = dict.fromkeys(stem, 0) | {name: i for i, name in enumerate(names, 1)}

    def layer_of(path: str) -> int:
        top, name = (*path.split("/"), "")[:2]
        if top == "encoder" and name not in layers:
            raise ValueError(
                f"{path} is not in a ResNet of {tuple(blocks)} blocks per stage; expected one of "
                f"{', '.join(layers)}. Give the encoder's own blocks, or another layer_of."
            )
        return layers[name] if top == "encoder" else len(names) + 1

    return layer_of, len(names) + 1


def vit_layers(depth: int) -> tuple[Callable[[str], int], int]:
    """(layer_of, num_layers) of a ViT for `layer_decay`: patches and tokens 0, blocks, the rest.

    Args:
      depth: number of blocks. The network is under "encoder".

    Raises:
      ValueError: when the parameters are known, if there is a block beyond them.

    Reference: Bao et al. 2022 (BEiT); facebookresearch/mae:util/lr_decay.py (get_layer_id_for_vit).
    """
    first = ("patch_embed", "cls_token", "reg_token", "pos_embed")

    def layer_of(path: str) -> int:
        top, name = (*path.split("/"), "")[:2]
        if top != "encoder" or not name.startswith((*first, "blocks_")):
            return depth + 1  # the last norm, and what is on the encoder
        if name in first:
            return 0
        layer = int(name.removeprefix("blocks_")) + 1
        if layer > depth:
            raise ValueError(
                f"{path} is not in a transformer of {depth} blocks; give its own depth."
            )
        return layer

    return layer_of, depth + 1
