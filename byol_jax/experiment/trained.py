"""Classifiers trained by SGD on an encoder, which stays as it is or is trained with them."""

from __future__ import annotations

from typing import Any

from jax.sharding import Mesh

from byol_jax import log
from byol_jax.core import starting_from
from byol_jax.data.labels import balanced
from byol_jax.data.source import Source
from byol_jax.evals.linear import Parts, Protocol, linear
from byol_jax.experiment.evaluation import EvalData
from byol_jax.experiment.frozen import candidates
from byol_jax.run_folder import RunEncoder


def _hold_out(source: Source, share: float, seed: int, keys: str) -> tuple[Source, Source]:
    try:
        return source.hold_out(share, seed)
    except ValueError as e:
        raise ValueError(f"{e} Here {keys} decides.") from e


def check_trainable(run: RunEncoder, train: Source, mesh: Mesh) -> None:
    """Check what `train_classifiers` would refuse of fine-tuning, without training.

    Raises:
      ValueError: too few images for a validation part or for the devices, or epochs that are no
        whole numbers.
    """
    c, devices = run.config.eval, mesh.devices.size
    rest = train
    if _protocol(run, frozen=False).choices > 1:
        rest, _ = _hold_out(train, c.validation, run.config.seed, "eval.validation")
    if min(c.train_batch, rest.num_examples) < devices:
        raise ValueError(
            f"eval.train_batch is {c.train_batch}, and {rest.num_examples} images are left to "
            f"train on; expected at least one image for each of the {devices} devices."
        )


def train_classifiers(
    run: RunEncoder, data: EvalData, train: Source, frozen: bool
) -> dict[str, Any]:
    """Train a classifier on the encoder and one on an untrained encoder, on images of `train`.

    Returns:
      The figures of `linear`; those of the untrained encoder begin with "untrained_".

    Raises:
      ValueError: too few images for a validation part, or the loss is not finite with any learning
        rate.
      NothingToJudge: no image of a part has a label that is known and can be read.
      TrainingError: too many images cannot be read, or the loss with the chosen learning rate is
        not finite.
    """
    protocol = _protocol(run, frozen)
    rest = held = train
    if protocol.choices > 1:
        few = "eval.validation" if frozen else "eval.label_fraction or eval.validation"
        rest, held = _hold_out(train, run.config.eval.validation, run.config.seed, few)
    parts = Parts(*(data.part(s) for s in (train, rest, held, data.test)))
    classes = data.train.classes
    result: dict[str, Any] = {}
    for prefix, start in candidates(run).items():
        log.say(f"{'untrained' if prefix else 'pre-trained'} encoder:")
        keep = None if prefix else data.keep
        encoder = starting_from(run.encoder, *start)
        found = linear(encoder, parts, protocol, classes, data.mesh, keep)
        counts = {k: found.pop(k) for k in ("train_images", "test_images")}
        result |= {prefix + k: v for k, v in found.items()} | counts
    return result | {"validation_images": held.num_examples if protocol.choices > 1 else 0}


def _protocol(run: RunEncoder, frozen: bool) -> Protocol:
    c = run.config.eval
    lrs, epochs = c.finetune_lrs, _whole(c.finetune_epochs) or (c.epochs,)
    if frozen:
        lrs, epochs = c.lrs, (c.epochs,)
    norm = frozen and c.linear_norm
    return Protocol(tuple(lrs), epochs, c.train_batch, frozen, run.config.seed, norm)


def _whole(epochs: tuple[float, ...]) -> tuple[int, ...]:
    if any(n != int(n) for n in epochs):
        raise ValueError(f"eval.finetune_epochs is {epochs}; expected whole numbers, as (30, 50).")
    return tuple(int(n) for n in epochs)


def run_linear(run: RunEncoder, data: EvalData) -> dict[str, Any]:
    """A linear classifier on frozen features of the encoder and of an untrained one."""
    return train_classifiers(run, data, data.train, frozen=True)


def run_finetune(run: RunEncoder, data: EvalData) -> dict[str, Any]:
    """Fine-tuning on `eval.label_fraction` of the labels, and training from scratch on them."""
    fraction = run.config.eval.label_fraction
    train = data.train
    if fraction < 1 and run.config.eval.label_balance:
        train = balanced(train, fraction, run.config.seed)
    elif fraction < 1:
        _, train = _hold_out(train, fraction, run.config.seed, "eval.label_fraction")
    found = train_classifiers(run, data, train, frozen=False)
    return found | {"label_fraction": fraction, "finetune_from": run.config.eval.finetune_from}
