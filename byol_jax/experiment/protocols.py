"""The protocols that judge an encoder, and the keys that each of them reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from byol_jax import log
from byol_jax.config import flatten
from byol_jax.core import starting_from
from byol_jax.data.labels import balanced
from byol_jax.data.source import Source
from byol_jax.evals.linear import Parts, Protocol, linear
from byol_jax.experiment.attributes import run_attributes
from byol_jax.experiment.dense import DENSE
from byol_jax.experiment.evaluation import EvalData
from byol_jax.experiment.frozen import (
    candidates,
    run_fewshot,
    run_knn,
    run_lowshot,
    run_retrieval,
    run_robust,
    run_stages,
)
from byol_jax.experiment.patches import run_patches
from byol_jax.experiment.transfer import run_transfer
from byol_jax.run_folder import RunEncoder


def _hold_out(source: Source, share: float, seed: int, keys: str) -> tuple[Source, Source]:
    try:
        return source.hold_out(share, seed)
    except ValueError as e:
        raise ValueError(f"{e} Here {keys} decides.") from e


def _run_supervised(run: RunEncoder, data: EvalData, train: Source, frozen: bool) -> dict[str, Any]:
    c = run.config.eval
    lrs = c.lrs if frozen else c.finetune_lrs
    norm = frozen and c.linear_norm
    epochs = (c.epochs,) if frozen else _whole(c.finetune_epochs) or (c.epochs,)
    protocol = Protocol(tuple(lrs), epochs, c.train_batch, frozen, run.config.seed, norm)
    few = "eval.validation" if frozen else "eval.label_fraction or eval.validation"
    rest, held = _hold_out(train, c.validation, run.config.seed, few)
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
    return result | {"validation_images": held.num_examples}


def _whole(epochs: tuple[float, ...]) -> tuple[int, ...]:
    if any(n != int(n) for n in epochs):
        raise ValueError(f"eval.finetune_epochs is {epochs}; expected whole numbers, as (30, 50).")
    return tuple(int(n) for n in epochs)


def run_linear(run: RunEncoder, data: EvalData) -> dict[str, Any]:
    """A linear classifier on frozen features of the encoder and of an untrained one."""
    return _run_supervised(run, data, data.train, frozen=True)


def run_finetune(run: RunEncoder, data: EvalData) -> dict[str, Any]:
    """Fine-tuning on `eval.label_fraction` of the labels, and training from scratch on them."""
    fraction = run.config.eval.label_fraction
    train = data.train
    if fraction < 1 and run.config.eval.label_balance:
        train = balanced(train, fraction, run.config.seed)
    elif fraction < 1:
        _, train = _hold_out(train, fraction, run.config.seed, "eval.label_fraction")
    found = _run_supervised(run, data, train, frozen=False)
    return found | {"label_fraction": fraction, "finetune_from": run.config.eval.finetune_from}


PROTOCOLS: dict[str, Callable[[RunEncoder, EvalData], dict[str, Any]]] = {
    "knn": run_knn,
    "linear": run_linear,
    "finetune": run_finetune,
    "fewshot": run_fewshot,
    "transfer": run_transfer,
    "stages": run_stages,
    "retrieval": run_retrieval,
    "lowshot": run_lowshot,
    "attributes": run_attributes,
    "robust": run_robust,
    "patches": run_patches,
}

UNLABELLED = ("patches",)
"""Protocols that need no labels."""

SEVERAL = ("transfer",)
"""Protocols that judge images with several labels too."""

SUITE = "suite"
NAMES = (*PROTOCOLS, *DENSE, SUITE)

# What each protocol reads of the config; a name that ends in a dot stands for all that begin so.
_OF_ALL = (
    "seed",
    "data.name",
    "data.dir",
    "data.bits",
    "data.orient",
    "data.ids_file",
    "data.max_damaged",
    "eval.batch_size",
    "eval.resize",
    "eval.antialias",
)
_OF_DENSE = (
    *("seed", "data.name", "data.dir", "data.bits", "data.max_damaged"),
    *("eval.dense_encoder", "eval.output_stride", "eval.dense_side", "eval.dense_crop"),
    *("eval.dense_scales", "eval.dense_flip", "eval.dense_steps", "eval.dense_batch"),
    *("eval.dense_lrs", "eval.dense_decay", "eval.dense_width", "eval.dense_taps"),
    "eval.validation",
)
_TRAINED = (
    "eval.epochs",
    "eval.train_batch",
    "eval.validation",
    "views.recipe",
    "views.overrides.",
)
_LABELS = ("eval.label_balance", *_TRAINED)
_REGRESSION = ("eval.train_examples", "eval.penalties", "eval.validation")
READS: dict[str, tuple[str, ...]] = {
    "knn": ("eval.train_examples", "eval.knn_k", "eval.knn_temperature", "eval.cache"),
    "linear": ("eval.lrs", "eval.linear_norm", *_TRAINED),
    "finetune": (
        *("eval.finetune_lrs", "eval.finetune_epochs", "eval.finetune_from"),
        *("eval.label_fraction", *_LABELS),
    ),
    "fewshot": (
        *("eval.train_examples", "eval.shots", "eval.draws", "eval.fewshot_c"),
        *("eval.pixels", "eval.cache"),
    ),
    "transfer": (*_REGRESSION, "eval.pixels", "eval.cache"),
    "stages": ("eval.stage_numbers", *_REGRESSION),
    "retrieval": ("eval.pixels", "eval.cache"),
    "lowshot": (
        *("eval.train_examples", "eval.lowshot_shots", "eval.lowshot_draws", "eval.svm_cs"),
        *("eval.fewshot_c", "eval.validation", "eval.pixels", "eval.cache"),
    ),
    "attributes": _REGRESSION,
    "robust": (*_REGRESSION, "eval.pixels", "eval.cache"),
    "patches": ("eval.patches_images", "eval.patches_size", "eval.pixels"),
    SUITE: (*_REGRESSION, "eval.pixels", "eval.cache"),
    "segment": ("eval.void",),
    "depth": ("eval.depth_unit",),
}


def reads_of(protocol: str) -> tuple[str, ...]:
    """The keys that a protocol reads; one that ends in a dot stands for all that begin so."""
    own = _OF_DENSE if protocol in DENSE else _OF_ALL
    left_out = ("data.name", "data.ids_file") if protocol == SUITE else ()
    return tuple(k for k in own if k not in left_out) + READS[protocol]


def check_reads(protocol: str, own: ConfigDict, asked: ConfigDict) -> None:
    """Refuse a change of a key that a protocol would ignore.

    Args:
      protocol: one of `NAMES`.
      own: config of the run.
      asked: the same with changes.

    Raises:
      ValueError: names the first such key.
    """
    before, after = flatten(own), flatten(asked)
    reads = reads_of(protocol)
    for key in sorted(before.keys() | after.keys()):
        read = any(key == k or (k.endswith(".") and key.startswith(k)) for k in reads)
        if not read and before.get(key) != after.get(key):
            others = [p for p in NAMES if key in reads_of(p)]
            read_it = "reads it" if len(others) == 1 else "read it"
            why = f"only {' and '.join(others)} {read_it}"
            why = why if others else "the encoder's own value holds"
            shown = ", ".join(k.rstrip(".") for k in reads)
            raise ValueError(
                f"{key} has no effect on --protocol={protocol}: {why}; leave it at "
                f"{before.get(key)!r}. {protocol} reads {shown}."
            )


_PLACES = ("data.dir", "data.max_damaged", "eval.batch_size", "eval.cache")
"""Of those, the keys that a result does not depend on."""


def settings(protocol: str, config: ConfigDict) -> dict[str, Any]:
    """What a result depends on: the keys that a protocol reads, with their values.

    Args:
      protocol: one of `PROTOCOLS`.
      config: what it is run with.
    """
    reads = tuple(k for k in _OF_ALL + READS[protocol] if k not in _PLACES)
    flat = flatten(config)
    return {k: v for k, v in flat.items() if k in reads or k.startswith(_prefixes(reads))}


def _prefixes(reads: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(k for k in reads if k.endswith("."))
