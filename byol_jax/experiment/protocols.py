"""The protocols that judge the encoder of a run, and the keys that each of them reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from byol_jax import log
from byol_jax.config import flatten
from byol_jax.core import Tree, starting_from
from byol_jax.data.source import Source
from byol_jax.evals.features import Extracted, pixels
from byol_jax.evals.fewshot import fewshot, rare_classes
from byol_jax.evals.linear import Parts, Protocol, linear
from byol_jax.experiment.evaluation import PIXELS_UP_TO, EvalData, limited, neighbours
from byol_jax.run_folder import RunEncoder


def untrained(run: RunEncoder) -> tuple[Tree, Tree]:
    """(params, stats) of the same encoder before training, drawn from the run's seed."""
    size = run.info.image_size
    images = jax.ShapeDtypeStruct((1, 1, size, size, run.encoder.channels), np.float32)
    return jax.jit(lambda key: run.encoder.init(key, images))(jax.random.key(run.config.seed))


def _candidates(run: RunEncoder) -> dict[str, tuple[Tree, Tree]]:
    return {"": (run.params, run.stats), "untrained_": untrained(run)}


def run_knn(run: RunEncoder, data: EvalData) -> dict[str, Any]:
    """Weighted kNN of the encoder and of an untrained one."""
    result: dict[str, Any] = {}
    train = limited(data.train, run.config.eval.train_examples)
    for prefix, start in _candidates(run).items():
        a, b = (data.features(run.encoder, start, s) for s in (train, data.test))
        found = neighbours(run.config, a, b, data.train.classes)
        result |= {prefix + k: v for k, v in found.items()} | _judged(a, b)
    return result


def _judged(train: Extracted, test: Extracted) -> dict[str, int]:
    return {"train_images": train.judged, "test_images": test.judged}


def run_fewshot(run: RunEncoder, data: EvalData) -> dict[str, Any]:
    """Few-shot accuracies of the encoder, an untrained one, and (small images) raw pixels."""
    c = run.config.eval
    train = limited(data.train, c.train_examples)
    rows: dict[str, dict[str, float]] = {}
    counts: dict[str, Any] = {}

    def add(name: str, a: Extracted, b: Extracted) -> None:
        rows[name] = fewshot(
            a.outputs["h"],
            a.labels,
            b.outputs["h"],
            b.labels,
            shots=tuple(c.shots),
            draws=c.draws,
            c=c.fewshot_c,
        )
        rare = {str(n): rare_classes(a.labels, n) for n in c.shots}
        names = data.train.class_names
        left_out = {n: [names[i] if names else str(i) for i in v] for n, v in rare.items() if v}
        counts.update(_judged(a, b), left_out=left_out)

    if data.spec.size <= PIXELS_UP_TO:
        # Pixels in 0..1, not normalised: an offset would change their l2-normalised angles.
        plain = dataclasses.replace(
            data,
            spec=dataclasses.replace(
                data.spec,
                mean=(0.0,) * len(data.spec.mean),
                std=(1.0,) * len(data.spec.std),
            ),
        )
        add("raw pixels", *(pixels(plain.crops(s)) for s in (train, data.test)))
    names = {"": run.info.method, "untrained_": "untrained encoder"}
    for prefix, start in reversed(_candidates(run).items()):
        a, b = (data.features(run.encoder, start, s) for s in (train, data.test))
        add(names[prefix], a, b)
    for shots, classes in counts["left_out"].items():
        shown = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
        log.say(
            f"WARNING: {len(classes)} classes have fewer than {shots} training images and are left "
            f"out of that column: {shown}"
            + ("" if shots in rows["untrained encoder"] else "; too few are left to judge it")
        )
    return counts | {
        "top1": rows[run.info.method]["all"],
        "untrained_top1": rows["untrained encoder"]["all"],
        "rows": rows,
    }


def _hold_out(source: Source, share: float, seed: int, keys: str) -> tuple[Source, Source]:
    try:
        return source.hold_out(share, seed)
    except ValueError as e:
        raise ValueError(f"{e} Here {keys} decides.") from e


def _run_supervised(run: RunEncoder, data: EvalData, train: Source, frozen: bool) -> dict[str, Any]:
    c = run.config.eval
    lrs = c.lrs if frozen else c.finetune_lrs
    protocol = Protocol(tuple(lrs), c.epochs, c.train_batch, frozen, run.config.seed)
    few = "eval.validation" if frozen else "eval.label_fraction or eval.validation"
    rest, held = _hold_out(train, c.validation, run.config.seed, few)
    parts = Parts(*(data.part(s) for s in (train, rest, held, data.test)))
    classes = data.train.classes
    result: dict[str, Any] = {}
    for prefix, start in _candidates(run).items():
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
READS: dict[str, tuple[str, ...]] = {
    "knn": ("eval.train_examples", "eval.knn_k", "eval.knn_temperature"),
    "linear": ("eval.lrs", *_TRAINED),
    "finetune": ("eval.finetune_lrs", "eval.finetune_from", "eval.label_fraction", *_TRAINED),
    "fewshot": ("eval.train_examples", "eval.shots", "eval.draws", "eval.fewshot_c"),
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
            why = why if others else "the run's own value holds"
            shown = ", ".join(k.rstrip(".") for k in reads)
            raise ValueError(
                f"{key} has no effect on --protocol={protocol}: {why}; leave it at "
                f"{before.get(key)!r}. {protocol} reads {shown}."
            )
