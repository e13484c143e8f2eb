"""Types that every module shares: batches, encoders, methods and the train state.

Shape key: N batch rows, G batch-norm groups (axis 1), B batch, V views, H W C image, D features,
K visible patches, T tokens, A heads of the attention.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

Array = jax.Array
Tree = Any  # a pytree of arrays
Batch = Mapping[str, Any]
"""One training batch, a flat dict of arrays.

Before the train step makes the views, one of:
image  [B, H, W, C]     uint8, whole images of one size
views, and any further group of the recipe by its name: [B, V, S, S, C] uint8, windows cut by the
                        host; of clips perhaps
frames [B, T, S, S, C]  alone, all T cut alike
sound  [B, samples]     float32 in -1..1, of clips, if it is asked for
row    [B] int32        row of each image in the data resident on the device

What a method sees:
views  [B, V, S, S, C]  float, normalised
(name) [B, V', s, s, C] any further group of the recipe by its name: one array, one size
spectrogram             [B, 1, F, T, 1] of the sound, if a task makes one
target                  what a pretext task predicts (never under "label", which the probe reads)
weight, hidden          how much each part of an image in "target" counts, and whether it is hidden,
                        if the task says so
index  [B] int32        position of the example in the data set
label  [B] int32        class, -1 where unknown
mask   [B] float32      1, or 0 for a row that must not count (a substitute, padding)
"""


class Features(NamedTuple):
    """What an encoder computes.

    pooled: [N, G, D], at least float32.
    maps: one [N, G, H_i, W_i, C_i] per stage, fine to coarse, before pooling, for dense heads and
      probes of single layers. (For a vision transformer: the patch tokens of chosen blocks, all on
      one grid.)
    """

    pooled: Array
    maps: tuple[Array, ...]


class Encoder(NamedTuple):
    """An image encoder as two pure functions.

    init(key, images_NGHWC) -> (params, stats)
    apply(params, stats, images_NGHWC, train, key=None, groups=1, frozen=0) -> (Features, stats)

    Axis 1 holds the views. In training each view is normalised by its own statistics over axis 0
    (the global batch); a reshape to G = 1 computes them jointly (`models.joint`). With `groups`
    above 1 they are computed over that many groups of contiguous rows (`models.grouped`). The
    running statistics are updated once per view, in order. The first `frozen` parts
    (`models.partial`) are always in inference mode, and no gradient goes into them.

    dim: features D. channels: image channels C. config: a JSON-able description from which
    `models.make_encoder` builds the same encoder again; saved with every checkpoint and export.
    """

    init: Callable[..., tuple[Tree, Tree]]
    apply: Callable[..., tuple[Features, Tree]]
    dim: int
    channels: int
    config: dict[str, Any]


class ViT(NamedTuple):
    """A vision transformer: an `Encoder`, and what only a transformer can do.

    tokens(params, images_NHWC, keep_NK=None, fill_D=None, train=False, key=None)
      -> (tokens [N, T, D], pooled [N, D]): the normalised tokens, the `prefix` ones first (class
      token, registers), then those of the patches whose numbers are in `keep` (int32), the others
      dropped before the first block; of all patches if it is None. With `fill`, the others are not
      dropped: that vector is put in their place, before the positions are added.
    attention(params, images_NHWC) -> [N, A, T, T], at least float32: how much each token (axis 2)
      takes from each (axis 3) in every head of the last block; a row sums to 1.
    patch: side of a patch, px. prefix: number of tokens that are no patch.
    """

    encoder: Encoder
    tokens: Callable[..., tuple[Array, Array]]
    attention: Callable[[Tree, Array], Array]
    patch: int
    prefix: int


def starting_from(encoder: Encoder, params: Tree, stats: Tree) -> Encoder:
    """The encoder with an `init` that returns the given arrays, to continue from pre-trained ones.

    Args:
      encoder: any.
      params, stats: its parameters and statistics.
    """
    arrays = jax.tree.map(jax.numpy.asarray, (params, stats))
    return encoder._replace(init=lambda key, images_NGHWC: arrays)


class Aux(NamedTuple):
    """What a loss returns besides its scalar.

    extra: the method's next `extra`. features: {"h": [B, V, D], "z": [B, V, D'], ...}, monitored
    for collapse and read by probes. metrics: flat dict of scalars.
    """

    extra: Tree
    features: dict[str, Array]
    metrics: dict[str, Array]


Answers = dict[str, Array]
"""How questions about B examples were answered: "mask" [B], 0 for examples that do not count, with
"logits" [B, Q, K] and the right answers "target" [B, Q] of multiple-choice questions, or any
figures [B] by name, of which the mean is taken.
"""


def _no_update(params: Tree, extra: Tree, step: Array) -> tuple[Tree, dict[str, Array]]:
    del params, step
    return extra, {}


def _as_they_are(params: Tree) -> Tree:
    return params


class Method(NamedTuple):
    """A self-supervised method as pure functions; see docs/architecture.md.

    init(key, batch) -> (params, extra)            params: trained by gradients; extra: the rest
    loss(params, extra, batch, key, step) -> (scalar, Aux)     step: before the increment
    encoder(params, extra) -> (params, stats)      the online encoder, under any wrapper
    features(params, extra, images_NGHWC) -> {"h", "z", ...}   inference mode
    takes: {"views": 2}                            number of views of each group `loss` reads
    after_update(params, extra, step) -> (extra, metrics)      step: before the increment
    moving: ("stats", ...)                         entries of `extra` that change in a step
    prepare(params) -> params                      done to the parameters before each step
    sharded: ("bank", ...)                         arrays of `extra` with one row for each example,
                                                   whose axis 0 is sharded over all devices
    pictures(params, extra, images_NHWC, key) -> {title: images_NHWC}    what it makes of images (of
                                                   clips: of a batch before the task), drawn at
                                                   evaluations; None: nothing to see
    task(batch, key) -> batch                      a pretext task, done to the views of a batch
                                                   before `loss` and `init` see them; None: none
    reads: {"frames": 16}                          what `task` reads: number of views of each group,
                                                   and "sound": 1 of clips; {}: one of "views"
    answered(params, extra, batch, key) -> {task: Answers}    how well it answers the questions of a
                                                   batch after the task, in inference mode, "task"
                                                   being the only one; None: it is asked none, or
                                                   none that images of the test part could answer
    """

    init: Callable[[Array, Batch], tuple[Tree, Tree]]
    loss: Callable[[Tree, Tree, Batch, Array, Array], tuple[Array, Aux]]
    encoder: Callable[[Tree, Tree], tuple[Tree, Tree]]
    features: Callable[[Tree, Tree, Array], dict[str, Array]]
    takes: Mapping[str, int]
    after_update: Callable[[Tree, Tree, Array], tuple[Tree, dict[str, Array]]] = _no_update
    moving: tuple[str, ...] = ("stats",)
    prepare: Callable[[Tree], Tree] = _as_they_are
    sharded: tuple[str, ...] = ()
    pictures: Callable[[Tree, Tree, Any, Array], dict[str, Array]] | None = None
    task: Callable[[Batch, Array], Batch] | None = None
    reads: Mapping[str, int] = MappingProxyType({})
    answered: Callable[[Tree, Tree, Batch, Array], dict[str, Answers]] | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that changes in training, as arrays only.

    step: optimizer steps done, int32. position: examples read so far in the global data order,
    int32 (2**31 - 1 examples at most; longer runs are refused).
    """

    step: Array
    position: Array
    params: Tree
    extra: Tree
    opt_state: Tree


Step = Callable[[TrainState, Any, Array], tuple[TrainState, dict[str, Array]]]
"""(state, batch, root key) -> (state, metrics)."""
