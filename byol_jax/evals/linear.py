"""Linear evaluation and fine-tuning: `methods.supervised` with the same step and loop.

Shape key: N examples, L learning rates, K classes.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from byol_jax.core import Encoder, TrainState, Tree
from byol_jax.evals.features import NothingToJudge, accuracies, extract, topk_accuracy
from byol_jax.faults import Damage, Diverged
from byol_jax.log import say
from byol_jax.loop import Hooks, Options, Program, fit
from byol_jax.methods.supervised import linear_layer, supervised
from byol_jax.optim import sgd, warmup_cosine
from byol_jax.train_step import init_state, jit_step, make_train_step

Batches = Iterable[Mapping[str, np.ndarray]]
Scorer = Callable[["Part"], tuple[np.ndarray, np.ndarray]]
Keep = Callable[[Tree, Tree, dict[str, jax.Array]], None]
"""What becomes of a trained classifier: (params, stats) of its encoder, {"kernel", "bias"}."""


@dataclasses.dataclass(frozen=True)
class Part:
    """A data set, as the protocols read it.

    examples: how many. train: (batch_size, seed) -> endless augmented batches. test: one pass of
    centre crops.
    """

    examples: int
    train: Callable[[int, int], Iterator[Mapping[str, np.ndarray]]]
    test: Callable[[], Batches]
    damage: Damage | None = None


class Parts(NamedTuple):
    """The images of a linear evaluation.

    train: all training images with the labels that may be used. sweep, validation: the same images
    in two parts, to choose learning rate and epochs; not read where there is nothing to choose.
    test: used once, at the end.
    """

    train: Part
    sweep: Part
    validation: Part
    test: Part


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a classifier is trained: SGD with Nesterov momentum 0.9, cosine to 0, no decay.

    lrs: at batch 1024, scaled linearly. epochs: swept with them. frozen: linear protocol; otherwise
    the encoder is trained. norm: a batch norm without scale and bias before the classifier, as for
    MAE's linear probe.
    """

    lrs: tuple[float, ...]
    epochs: tuple[int, ...]
    batch_size: int
    frozen: bool
    seed: int = 0
    norm: bool = False

    @property
    def choices(self) -> int:
        """How many pairs of learning rate and epochs there are to choose from."""
        return len(self.lrs) * len(self.epochs)


def _train(
    encoder: Encoder,
    part: Part,
    protocol: Protocol,
    classes: int,
    lrs: tuple[float, ...],
    epochs: int,
    mesh: Mesh,
    keep: Keep | None = None,
) -> tuple[Scorer, int]:
    """Train one linear layer per learning rate; returns a function part -> scores [N, L, K]."""
    devices = mesh.devices.size
    batch_size = min(protocol.batch_size, part.examples) // devices * devices
    if not batch_size:
        raise ValueError(f"{part.examples} labelled images are too few for {devices} devices.")
    steps = max(part.examples // batch_size, 1) * epochs
    base = max(lrs)
    method = supervised(
        encoder,
        classes,
        frozen=protocol.frozen,
        lr_factors=tuple(lr / base for lr in lrs),
        norm=protocol.norm,
    )
    schedule = warmup_cosine(base * batch_size / 1024, 0, steps)
    optimizer = sgd(schedule, nesterov=True)
    batches = part.train(batch_size, protocol.seed)
    first = next(batches)
    key = jax.random.key(protocol.seed)
    state = init_state(method, optimizer, key, first, mesh)
    step = jit_step(make_train_step(method, optimizer), mesh)
    what = "the linear classifier" if protocol.frozen else "fine-tuning"
    options = Options(steps, batch_size, what=what)

    learned = np.zeros(part.examples, bool)

    def chain() -> Iterator[Mapping[str, np.ndarray]]:
        for batch in itertools.chain([first], batches):
            counts = (np.asarray(batch["mask"]) > 0) & (np.asarray(batch["label"]) >= 0)
            learned[np.asarray(batch["index"])[counts]] = True
            yield batch

    state = fit(state, Program(step, chain(), key, mesh), options, Hooks(damage=part.damage))
    if not learned.any():
        raise NothingToJudge("No training image has a label that is known and can be read.")
    if keep is not None:
        trained = linear_layer(state.params, state.extra)
        keep(*method.encoder(state.params, state.extra), trained)

    def score(part: Part) -> tuple[np.ndarray, np.ndarray]:
        @jax.jit
        def outputs(state: TrainState, images: jax.Array) -> dict[str, jax.Array]:
            logits = method.features(state.params, state.extra, images)["logits"]
            return {"logits": logits[:, None]}

        found = extract(outputs, state, part.test(), mesh)
        if part.damage is not None:
            part.damage.add(found.damaged)
        return found.outputs["logits"], found.labels

    return score, int(learned.sum())


def linear(
    encoder: Encoder,
    parts: Parts,
    protocol: Protocol,
    classes: int,
    mesh: Mesh,
    keep: Keep | None = None,
) -> dict[str, float]:
    """Choose learning rate and epochs on a validation part, train on all, report test accuracy.

    Args:
      encoder: with its weights, as returned by `core.starting_from`.
      parts: the images; with one learning rate and one number of epochs only train and test are
        read.
      protocol: how to train; frozen features need one training per number of epochs, fine-tuning
        one per learning rate and number of epochs.
      classes: number of classes K.
      mesh: the devices.
      keep: is given the classifier trained on all images.

    Returns:
      {"top1", "top5", "per_class", "lr", "epochs"}, accuracies in percent; "validation_top1" where
      there was something to choose; {"train_images", "test_images"}: how many labelled images it
      learned from, and was judged on.

    Raises:
      NothingToJudge: no image of a part has a label that is known and can be read.
      TrainingError: too many images cannot be read, or the loss with the chosen learning rate is
        not finite; that of a rate that is swept excludes it.
      ValueError: the loss is not finite with any learning rate.

    Reference: Grill et al. 2020, appendix D.1.
    """

    def train(
        part: Part, lrs: tuple[float, ...], epochs: int, keep: Keep | None = None
    ) -> tuple[Scorer, int]:
        return _train(encoder, part, protocol, classes, lrs, epochs, mesh, keep)

    best, accuracy = (protocol.epochs[0], protocol.lrs[0]), None
    if protocol.choices > 1:
        best, accuracy = _chosen(parts, protocol, train)
    score, learned = train(parts.train, (best[1],), best[0], keep)
    scores, labels = score(parts.test)
    result = accuracies(scores[:, 0], labels)
    result |= {"lr": best[1], "epochs": best[0]}
    result |= {} if accuracy is None else {"validation_top1": accuracy}
    return result | {"train_images": learned, "test_images": int((labels >= 0).sum())}


def _chosen(
    parts: Parts, protocol: Protocol, train: Callable[..., tuple[Scorer, int]]
) -> tuple[tuple[int, float], float]:
    """The epochs and learning rate that are best on the validation part, and their top-1 there."""
    lrs = protocol.lrs
    # Frozen features are the same for every learning rate, so all are trained in one pass.
    groups = [lrs] if protocol.frozen else [(lr,) for lr in lrs]
    accuracy: dict[tuple[int, float], float] = {}
    for epochs, group in itertools.product(protocol.epochs, groups):
        try:
            score, _ = train(parts.sweep, group, epochs)
        except Diverged:
            rates = " and ".join(f"{lr:g}" for lr in group)
            say(f"learning rate {rates}, {epochs} epochs: the loss is not finite")
            continue
        scores, labels = score(parts.validation)
        for i, lr in enumerate(group):
            accuracy[epochs, lr] = topk_accuracy(scores[:, i], labels)["top1"]
    if not accuracy:
        key = "eval.lrs" if protocol.frozen else "eval.finetune_lrs"
        raise ValueError(
            f"The loss is not finite with any of the learning rates {lrs}; set smaller {key}."
        )
    best = max(accuracy, key=accuracy.__getitem__)  # the first of equals
    several = len(protocol.epochs) > 1
    swept = ", ".join(
        f"{lr:g}{f' for {epochs} epochs' if several else ''}: {a:.2f}"
        for (epochs, lr), a in accuracy.items()
    )
    chosen = f"{best[1]:g}" + (f" for {best[0]} epochs" if several else "")
    say(f"validation top-1 by learning rate: {swept}; training on all with {chosen}")
    return best, accuracy[best]
