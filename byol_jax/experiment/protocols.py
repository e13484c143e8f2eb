"""The protocols that judge an encoder, and the keys that each of them reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from byol_jax import log
from byol_jax.config import flatten
from byol_jax.core import starting_from
from byol_jax.data.source import Source
from byol_jax.evals.linear import Parts, Protocol, linear
from byol_jax.experiment.evaluation import EvalData
from byol_jax.experiment.frozen import (
    candidates,
    run_fewshot,
    run_knn,
    run_lowshot,
    run_retrieval,
    run_stages,
    run_transfer,
)
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
    protocol = Protocol(tuple(lrs), c.epochs, c.train_batch, frozen, run.config.seed, norm)
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


def run_linear(run: RunEncoder, data: EvalData) -> dict[str, Any]:
    """A linear classifier on frozen features of the encoder and of an untrained one."""
    return _run_supervised(run, data, data.train, frozen=True)


def run_finetune(run: RunEncoder, data: EvalData) -> dict[str, Any]:
    """Fine-tuning on `eval.label_fraction` of the labels, and training from scratch on them."""
    fraction = run.config.eval.label_fraction
    train = data.train
    if fraction < 1:
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
}

# What each protocol reads of the config; a name that ends in a dot stands for all that begin so.
_OF_ALL = (
    "seed",
    "data.name",
    "data.dir",
    "data.bits",
    "data.orient",
    "data.max_damaged",
    "eval.batch_size",
    "eval.resize",
    "eval.antialias",
)
_TRAINED = (
    "eval.epochs",
    "eval.train_batch",
    "eval.validation",
    "views.recipe",
    "views.overrides.",
)
_REGRESSION = ("eval.train_examples", "eval.penalties", "eval.validation")
READS: dict[str, tuple[str, ...]] = {
    "knn": ("eval.train_examples", "eval.knn_k", "eval.knn_temperature"),
    "linear": ("eval.lrs", "eval.linear_norm", *_TRAINED),
    "finetune": ("eval.finetune_lrs", "eval.finetune_from", "eval.label_fraction", *_TRAINED),
    "fewshot": ("eval.train_examples", "eval.shots", "eval.draws", "eval.fewshot_c"),
    "transfer": _REGRESSION,
    "stages": ("eval.stage_numbers", *_REGRESSION),
    "retrieval": (),
    "lowshot": (
        *("eval.train_examples", "eval.lowshot_shots", "eval.lowshot_draws", "eval.svm_cs"),
        *("eval.fewshot_c", "eval.validation"),
    ),
}


def check_reads(protocol: str, own: ConfigDict, asked: ConfigDict) -> None:
    """Refuse a change of a key that a protocol would ignore.

    Args:
      protocol: one of `PROTOCOLS`.
      own: config of the run.
      asked: the same with changes.

    Raises:
      ValueError: names the first such key.
    """
    before, after = flatten(own), flatten(asked)
    reads = _OF_ALL + READS[protocol]
    for key in sorted(before.keys() | after.keys()):
        read = any(key == k or (k.endswith(".") and key.startswith(k)) for k in reads)
        if not read and before.get(key) != after.get(key):
            others = [p for p, keys in READS.items() if key in keys]
            read_it = "reads it" if len(others) == 1 else "read it"
            why = f"only {' and '.join(others)} {read_it}"
            why = why if others else "the encoder's own value holds"
            shown = ", ".join(k.rstrip(".") for k in reads)
            raise ValueError(
                f"{key} has no effect on --protocol={protocol}: {why}; leave it at "
                f"{before.get(key)!r}. {protocol} reads {shown}."
            )


_PLACES = ("data.dir", "data.max_damaged", "eval.batch_size")
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
