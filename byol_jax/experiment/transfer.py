"""Logistic regression on frozen features, its penalty chosen; of one label per image or several."""

from __future__ import annotations

from typing import Any

import numpy as np

from byol_jax import log
from byol_jax.data.source import Source
from byol_jax.evals.features import Extracted, NothingToJudge
from byol_jax.evals.logistic import held_out, judge
from byol_jax.evals.multilabel import choose_each, judge_each, judged_classes
from byol_jax.experiment.evaluation import EvalData, limited
from byol_jax.experiment.frozen import UNTRAINED, choose_penalty, judged, subjects, told
from byol_jax.run_folder import RunEncoder


def run_transfer(run: RunEncoder, data: EvalData) -> dict[str, Any]:
    """Logistic regression on frozen features, its penalty chosen on a validation part."""
    if data.train.marks is not None:
        return _each_class(run, data)
    train = limited(data.train, run.config.eval.train_examples)
    rows: dict[str, dict[str, float]] = {}
    fits: dict[str, dict[str, float]] = {}
    counts: dict[str, Any] = {}
    for name, features in subjects(run, data):
        log.say(f"transfer: {name}")
        a = features(train)
        chosen = choose_penalty(run, data, a, "h")
        b = features(data.test)  # read when the penalty is fixed
        rows[name], fits[name] = judge(chosen.fit.linear, b), told(chosen)
        counts = judged(a, b)
    top1 = {"top1": rows[run.info.method]["top1"], "untrained_top1": rows[UNTRAINED]["top1"]}
    return counts | top1 | {"fits": fits, "rows": rows}


def _each_class(run: RunEncoder, data: EvalData) -> dict[str, Any]:
    """The same of images with several labels: one class against the rest, and 11-point mAP."""
    c = run.config.eval
    train, names = limited(data.train, c.train_examples), data.train.class_names
    rows: dict[str, dict[str, float]] = {}
    fits: dict[str, dict[str, float]] = {}
    each: dict[str, dict[str, float]] = {}
    counts: dict[str, Any] = {}
    for name, features in subjects(run, data):
        log.say(f"transfer: {name}")
        a = features(train)
        own = _marks(train, a)
        held = _held(train, a, c.validation, run.config.seed)
        chosen = choose_each(a.outputs["h"], own, held=held, count=c.penalties)
        b = features(data.test)  # read when the penalty is fixed
        asked = _marks(data.test, b)
        counted = judged_classes(own, asked)
        if not counted.any():
            raise NothingToJudge(
                "No class is there and missing in both the training and the test images that can "
                "be read: there is no average precision to measure."
            )
        found = judge_each(chosen.fit.linear, b.outputs["h"], asked)
        rows[name] = {"map11": float(found[counted].mean())}
        each[name] = {n: float(f) for n, f, ok in zip(names, found, counted, strict=True) if ok}
        fits[name] = told(chosen, "map11")
        counts = {"train_images": len(a.rows), "test_images": len(b.rows)}
    left_out = [n for n, ok in zip(names, counted, strict=True) if not ok]
    if left_out:
        log.say(f"WARNING: left out, always there or never in a part: {', '.join(left_out)}")
    map11 = {"map11": rows[run.info.method]["map11"], "untrained_map11": rows[UNTRAINED]["map11"]}
    return counts | map11 | {"left_out": left_out, "fits": fits, "ap": each, "rows": rows}


def _marks(source: Source, found: Extracted) -> np.ndarray:
    assert source.marks is not None
    return source.marks[found.rows]


def _held(source: Source, found: Extracted, share: float, seed: int) -> np.ndarray:
    """The validation part among the rows: the official one, or a random share."""
    if source.held is not None:
        return source.held[found.rows]
    return held_out(len(found.rows), share, seed)
