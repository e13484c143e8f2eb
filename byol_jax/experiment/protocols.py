"""The protocols that judge an encoder, and the keys that each of them reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from byol_jax.config import flatten
from byol_jax.experiment.attributes import run_attributes
from byol_jax.experiment.dense import DENSE
from byol_jax.experiment.evaluation import EvalData
from byol_jax.experiment.frozen import (
    run_fewshot,
    run_knn,
    run_lowshot,
    run_retrieval,
    run_robust,
)
from byol_jax.experiment.patches import run_patches
from byol_jax.experiment.trained import run_finetune, run_linear
from byol_jax.experiment.transfer import run_stages, run_transfer
from byol_jax.run_folder import RunEncoder

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

SEVERAL = ("transfer", "stages")
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
    SUITE: (*_REGRESSION, "eval.pixels", "eval.cache", "eval.suite_finetune"),
    "segment": ("eval.void",),
    "depth": ("eval.depth_unit",),
}


_FINETUNE = ("eval.finetune_lrs", "eval.finetune_epochs", *_TRAINED)
"""What the suite reads where it fine-tunes too."""


def reads_of(protocol: str, config: ConfigDict) -> tuple[str, ...]:
    """The keys that a protocol reads; one that ends in a dot stands for all that begin so."""
    own = _OF_DENSE if protocol in DENSE else _OF_ALL
    left_out = ("data.name", "data.ids_file") if protocol == SUITE else ()
    trains = protocol == SUITE and config.eval.suite_finetune
    more = _FINETUNE if trains else ()
    return tuple(k for k in own if k not in left_out) + READS[protocol] + more


def _among(key: str, keys: tuple[str, ...]) -> bool:
    return any(key == k or (k.endswith(".") and key.startswith(k)) for k in keys)


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
    reads = reads_of(protocol, asked)
    for key in sorted(before.keys() | after.keys()):
        if not _among(key, reads) and before.get(key) != after.get(key):
            others = [p for p in NAMES if _among(key, reads_of(p, asked))]
            if protocol == SUITE and _among(key, _FINETUNE):
                others = ["suite with eval.suite_finetune=true", *others]
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
