"""The protocols that judge frozen features of centre crops, each beside an untrained encoder."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from byol_jax import log
from byol_jax.core import Tree
from byol_jax.data.source import Source, counted
from byol_jax.evals.corruptions import CORRUPTIONS, SEVERITIES, corrupted, strengths
from byol_jax.evals.features import Extracted, pixels
from byol_jax.evals.fewshot import fewshot, rare_classes
from byol_jax.evals.logistic import Chosen, choose, judge
from byol_jax.evals.lowshot import SVM, lowshot
from byol_jax.evals.retrieval import retrieval
from byol_jax.experiment.evaluation import (
    PIXELS_UP_TO,
    Change,
    EvalData,
    limited,
    neighbours,
)
from byol_jax.run_folder import RunEncoder


def untrained(run: RunEncoder) -> tuple[Tree, Tree]:
    """(params, stats) of the same encoder before training, drawn from the run's seed."""
    size = run.info.image_size
    images = jax.ShapeDtypeStruct((1, 1, size, size, run.encoder.channels), np.float32)
    return jax.jit(lambda key: run.encoder.init(key, images))(jax.random.key(run.config.seed))


def candidates(run: RunEncoder) -> dict[str, tuple[Tree, Tree]]:
    """(params, stats) by the prefix of its figures: of the encoder, and of an untrained one."""
    return {"": (run.params, run.stats), "untrained_": untrained(run)}


def run_knn(run: RunEncoder, data: EvalData) -> dict[str, Any]:
    """Weighted kNN of the encoder and of an untrained one."""
    result: dict[str, Any] = {}
    train = limited(data.train, run.config.eval.train_examples)
    for prefix, start in candidates(run).items():
        a, b = (data.features(run.encoder, start, s) for s in (train, data.test))
        found = neighbours(run.config, a, b, data.train.classes)
        result |= {prefix + k: v for k, v in found.items()} | judged(a, b)
    return result


def judged(train: Extracted, test: Extracted) -> dict[str, int]:
    """How many images of each part have been read and have a label."""
    return {"train_images": train.judged, "test_images": test.judged}


UNTRAINED = "untrained encoder"
Subject = tuple[str, Callable[..., Extracted]]
"""A name, and what reads the features "h" of centre crops: (source, change=None) -> them."""


def subjects(run: RunEncoder, data: EvalData) -> Iterator[Subject]:
    """What is judged: raw pixels of small images, an untrained encoder, the encoder."""
    if run.config.eval.pixels and data.spec.size <= PIXELS_UP_TO:
        # Pixels in 0..1, not normalised: an offset would change their l2-normalised angles.
        channels = len(data.spec.mean)
        spec = dataclasses.replace(data.spec, mean=(0.0,) * channels, std=(1.0,) * channels)
        plain = dataclasses.replace(data, spec=spec)

        def read(source: Source, change: Change | None = None) -> Extracted:
            return pixels(plain.crops(source, change))

        yield "raw pixels", read
    names = {"": run.info.method, "untrained_": UNTRAINED}
    for prefix, start in reversed(candidates(run).items()):
        yield names[prefix], functools.partial(data.features, run.encoder, start)


def run_fewshot(run: RunEncoder, data: EvalData) -> dict[str, Any]:
    """Few-shot accuracies of the encoder, an untrained one, and (small images) raw pixels."""
    c = run.config.eval
    train = limited(data.train, c.train_examples)
    rows: dict[str, dict[str, float]] = {}
    counts: dict[str, Any] = {}
    for name, features in subjects(run, data):
        a, b = features(train), features(data.test)
        rows[name] = fewshot(
            a.outputs["h"],
            a.labels,
            b.outputs["h"],
            b.labels,
            shots=tuple(c.shots),
            draws=c.draws,
            c=c.fewshot_c,
        )
        counts = judged(a, b) | {"left_out": _left_out(a.labels, c.shots, data.train)}
    _say_left_out(counts["left_out"], rows[UNTRAINED])
    top1 = {"top1": rows[run.info.method]["all"], "untrained_top1": rows[UNTRAINED]["all"]}
    return counts | top1 | {"rows": rows}


def _left_out(labels: np.ndarray, shots: Sequence[int], source: Source) -> dict[str, list[str]]:
    """The names of the classes that are too rare, for each number of shots that has any."""
    rare = {str(n): rare_classes(labels, n) for n in shots}
    names = source.class_names
    return {n: [names[i] if names else str(i) for i in v] for n, v in rare.items() if v}


def _say_left_out(left_out: dict[str, list[str]], row: Mapping[str, float]) -> None:
    for shots, classes in left_out.items():
        shown = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
        log.say(
            f"WARNING: {counted(len(classes), 'class', 'classes')} with fewer than "
            f"{counted(int(shots), 'training image')} left out of that column: {shown}"
            + ("" if shots in row else "; too few are left to judge it")
        )


def run_lowshot(run: RunEncoder, data: EvalData) -> dict[str, Any]:
    """Linear SVMs beside logistic regression with few labels, as `run_fewshot`."""
    c = run.config.eval
    train = limited(data.train, c.train_examples)
    rows: dict[str, dict[str, float]] = {}
    chosen: dict[str, dict[str, float]] = {}
    counts: dict[str, Any] = {}
    for name, features in subjects(run, data):
        a, b = features(train), features(data.test)
        log.say(f"lowshot: {name}")
        found = lowshot(
            a.outputs["h"],
            a.labels,
            b.outputs["h"],
            b.labels,
            shots=tuple(c.lowshot_shots),
            draws=c.lowshot_draws,
            cs=tuple(c.svm_cs),
            logistic_c=c.fewshot_c,
            validation=c.validation,
            seed=run.config.seed,
        )
        svm = found[SVM]
        chosen[name] = {k: svm.pop(k) for k in list(svm) if k.endswith("_c")}
        rows |= {f"{name}, {model}": row for model, row in found.items()}
        counts = judged(a, b)
    most = max((k for k in svm if not k.endswith("_std")), key=int)
    own, other = (rows[f"{name}, {SVM}"][most] for name in (run.info.method, UNTRAINED))
    top1 = {"top1": own, "untrained_top1": other, "top1_shots": int(most)}
    return counts | top1 | {"svm_c": chosen, "rows": rows}


def choose_penalty(run: RunEncoder, data: EvalData, train: Extracted, output: str) -> Chosen:
    """`choose` with the config's values, of one output of the training features."""
    c = run.config.eval
    return choose(
        train.outputs[output],
        train.labels,
        classes=data.train.classes,
        count=c.penalties,
        validation=c.validation,
        seed=run.config.seed,
    )


def told(chosen: Chosen, metric: str = "top1") -> dict[str, float]:
    """What a result says of a choice."""
    return {
        "penalty": chosen.fit.penalty,
        f"validation_{metric}": chosen.accuracy,
        "unconverged": chosen.unconverged,
    }


def run_robust(run: RunEncoder, data: EvalData) -> dict[str, Any]:
    """Logistic regression as for transfer, and its classifiers on corrupted test images."""
    c = run.config.eval
    train = limited(data.train, c.train_examples)
    rows: dict[str, dict[str, float]] = {}
    every: dict[str, dict[str, list[float]]] = {}
    counts: dict[str, Any] = {}
    for name, features in subjects(run, data):
        log.say(f"robust: {name}")
        a = features(train)
        linear = choose_penalty(run, data, a, "h").fit.linear
        b = features(data.test)
        every[name] = {}
        for corruption in CORRUPTIONS:
            log.say(f"robust: {name}, {corruption}")
            every[name][corruption] = [
                judge(linear, features(data.test, change=_corrupt(run, corruption, i)))["top1"]
                for i in range(1, SEVERITIES + 1)
            ]
        means = {k: float(np.mean(v)) for k, v in every[name].items()}
        rows[name] = {"clean": judge(linear, b)["top1"], **means}
        rows[name]["mean"] = float(np.mean(list(means.values())))
        counts = judged(a, b)
    top1 = {"top1": rows[run.info.method]["mean"], "untrained_top1": rows[UNTRAINED]["mean"]}
    strength = {k: list(v) for k, v in strengths(data.spec.size).items()}
    return counts | top1 | {"strengths": strength, "severities": every, "rows": rows}


def _corrupt(run: RunEncoder, name: str, severity: int) -> Change:
    return lambda batches, spec: corrupted(batches, spec, name, severity, run.config.seed)


def run_retrieval(run: RunEncoder, data: EvalData) -> dict[str, Any]:
    """Recall and mean average precision on the test images, and the nearest of some of them."""
    rows: dict[str, dict[str, float]] = {}
    for name, features in subjects(run, data):
        b = features(data.test)
        rows[name], nearest = retrieval(b.outputs["h"], b.labels)
    if data.show is not None:
        data.show(b, nearest)
    top1 = {
        "top1": rows[run.info.method]["recall_1"],
        "untrained_top1": rows[UNTRAINED]["recall_1"],
    }
    return top1 | {"test_images": b.judged, "rows": rows}
