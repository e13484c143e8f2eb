"""Logistic regression on frozen features and maps, its penalty chosen; of one label or several."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from byol_jax import log
from byol_jax.core import Features
from byol_jax.data.source import Source
from byol_jax.evals.features import Extracted, NothingToJudge
from byol_jax.evals.logistic import Chosen, held_out, judge
from byol_jax.evals.multilabel import choose_each, judge_each, judged_classes
from byol_jax.evals.pooling import pooled
from byol_jax.experiment.evaluation import EvalData, limited
from byol_jax.experiment.frozen import (
    UNTRAINED,
    candidates,
    choose_penalty,
    judged,
    subjects,
    told,
)
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
    train, names = limited(data.train, run.config.eval.train_examples), data.train.class_names
    rows: dict[str, dict[str, float]] = {}
    fits: dict[str, dict[str, float]] = {}
    each: dict[str, dict[str, float]] = {}
    counts: dict[str, Any] = {}
    for name, features in subjects(run, data):
        log.say(f"transfer: {name}")
        a = features(train)
        chosen = _choose(run, data, train, a, "h")
        b = features(data.test)  # read when the penalty is fixed
        asked, counted = _asked(train, a, data.test, b)
        found = judge_each(chosen.fit.linear, b.outputs["h"], asked)
        rows[name] = {"map11": float(found[counted].mean())}
        each[name] = {n: float(f) for n, f, ok in zip(names, found, counted, strict=True) if ok}
        fits[name] = told(chosen, "map11")
        counts = _counts(a, b)
    left_out = [n for n, ok in zip(names, counted, strict=True) if not ok]
    if left_out:
        log.say(f"WARNING: left out, always there or never in a part: {', '.join(left_out)}")
    map11 = {"map11": rows[run.info.method]["map11"], "untrained_map11": rows[UNTRAINED]["map11"]}
    return counts | map11 | {"left_out": left_out, "fits": fits, "ap": each, "rows": rows}


def run_stages(run: RunEncoder, data: EvalData) -> dict[str, Any]:
    """As transfer, on the feature maps of each stage of the encoder and of an untrained one.

    Maps pooled to about `eval.stage_numbers` numbers are judged beside their global means, in one
    pass over the images. Of images with one label by top-1, of several by 11-point mAP, in percent.

    Raises:
      NothingToJudge: no class of images with several labels has an average precision.
    """
    c = run.config.eval
    train = limited(data.train, c.train_examples)
    metric = "top1" if train.marks is None else "map11"
    poolings = sorted({0, c.stage_numbers})

    def read(features: Features) -> dict[str, jax.Array]:
        maps = enumerate(features.maps, 1)
        return {f"{n}/{i}": pooled(m, n) for i, m in maps for n in poolings}

    rows: dict[str, dict[str, float]] = {}
    result: dict[str, Any] = {}
    names = {"": run.info.method, "untrained_": UNTRAINED}
    for prefix, start in reversed(candidates(run).items()):
        a = data.features(run.encoder, start, train, read)
        stages = [str(i + 1) for i in range(len(a.outputs) // len(poolings))]
        chosen = {}
        for output in (f"{n}/{stage}" for n in poolings for stage in stages):
            width = a.outputs[output].shape[-1]
            log.say(f"stages: {names[prefix]}, stage {output.split('/')[1]}, {width:,} numbers")
            chosen[output] = _choose(run, data, train, a, output)
        b = data.features(run.encoder, start, data.test, read)
        asked = None if train.marks is None else _asked(train, a, data.test, b)
        for n in poolings:
            name = names[prefix] + ("" if n == c.stage_numbers else ", global mean")
            rows[name] = {k: _figure(chosen[f"{n}/{k}"], b, f"{n}/{k}", asked) for k in stages}
        own = {stage: f"{c.stage_numbers}/{stage}" for stage in stages}
        counts = judged(a, b) if asked is None else _counts(a, b)
        result |= counts | {
            f"{prefix}{metric}": rows[names[prefix]][stages[-1]],
            f"{prefix}fits": {k: told(chosen[output], metric) for k, output in own.items()},
            "numbers": {k: a.outputs[output].shape[-1] for k, output in own.items()},
        }
    return result | {"rows": rows}


def _choose(run: RunEncoder, data: EvalData, train: Source, a: Extracted, output: str) -> Chosen:
    """The penalty that is best on a validation part, for images of one label or of several."""
    if train.marks is None:
        return choose_penalty(run, data, a, output)
    held = _held(train, a, run.config.eval.validation, run.config.seed)
    count = run.config.eval.penalties
    return choose_each(a.outputs[output], _marks(train, a), held=held, count=count)


class _Asked(NamedTuple):
    """Test images with several labels: their marks [N, K], and which classes count, bool [K]."""

    marks: np.ndarray
    counted: np.ndarray


def _asked(train: Source, a: Extracted, test: Source, b: Extracted) -> _Asked:
    """What is asked of the test images.

    Raises:
      NothingToJudge: no class has an average precision.
    """
    marks = _marks(test, b)
    counted = judged_classes(_marks(train, a), marks)
    if not counted.any():
        raise NothingToJudge(
            "No class is there and missing in both the training and the test images that can "
            "be read: there is no average precision to measure."
        )
    return _Asked(marks, counted)


def _figure(chosen: Chosen, b: Extracted, output: str, asked: _Asked | None) -> float:
    """Top-1 on the test images, or of images with several labels the 11-point mAP, in percent."""
    if asked is None:
        return judge(chosen.fit.linear, b, output)["top1"]
    found = judge_each(chosen.fit.linear, b.outputs[output], asked.marks)
    return float(found[asked.counted].mean())


def _counts(a: Extracted, b: Extracted) -> dict[str, int]:
    return {"train_images": len(a.rows), "test_images": len(b.rows)}


def _marks(source: Source, found: Extracted) -> np.ndarray:
    assert source.marks is not None
    return source.marks[found.rows]


def _held(source: Source, found: Extracted, share: float, seed: int) -> np.ndarray:
    """The validation part among the rows: the official one, or a random share."""
    if source.held is not None:
        return source.held[found.rows]
    return held_out(len(found.rows), share, seed)
