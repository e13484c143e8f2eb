"""Build the evaluation of an encoder from a config, during and after training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from byol_jax import log, mesh
from byol_jax.core import Encoder, TrainState, Tree, starting_from
from byol_jax.data.opening import open_source
from byol_jax.data.pipeline import eval_batches, train_batches
from byol_jax.data.source import Source
from byol_jax.evals.features import Extracted, extract, pixels, topk_accuracy
from byol_jax.evals.fewshot import fewshot
from byol_jax.evals.knn import knn
from byol_jax.evals.linear import Part, Parts, Protocol, linear
from byol_jax.experiment.build import Experiment
from byol_jax.experiment.views import build_views
from byol_jax.run_folder import RunEncoder
from byol_jax.views.recipes import crop_flip
from byol_jax.views.spec import EvalSpec, ViewSpec

PIXELS_UP_TO = 64  # px; larger images are not used as raw features


def eval_batch_size(config: ConfigDict, devices: Mesh) -> int:
    """The evaluation batch size, rounded up to a multiple of the number of devices."""
    n = devices.devices.size
    return -(-config.eval.batch_size // n) * n


def limited(source: Source, most: int) -> Source:
    """A seeded random choice of `most` examples; all if `most` is 0."""
    if not most or most >= source.num_examples:
        return source
    return source.take(np.sort(np.random.RandomState(0).permutation(source.num_examples)[:most]))


def build_evaluation(
    e: Experiment,
) -> Callable[[TrainState, Callable[[], None]], dict[str, float]] | None:
    """KNN (and the probe's accuracy) on the test images; None if there are no labels."""
    if not e.source.classes:
        return None
    test = open_source(e.config.data.name, e.config.data.dir, "test", seed=e.config.seed)
    train = limited(e.source, e.config.eval.train_examples)
    size = eval_batch_size(e.config, e.mesh)

    @jax.jit  # one function object: every evaluation of the run shares one compilation
    def outputs(weights: Tree, images: jax.Array) -> dict[str, jax.Array]:
        found = e.method.features(weights[0], weights[1], images)
        return {k: v for k, v in found.items() if k in ("h", "probe")}

    where = {"process_index": jax.process_index(), "process_count": jax.process_count()}

    def run(state: TrainState, part: Source, poll: Callable[[], None]) -> Extracted:
        crops = eval_batches(part, e.eval_spec, batch_size=size, **where)
        return extract(outputs, (state.params, state.extra), crops, e.mesh, poll)

    def evaluate(state: TrainState, poll: Callable[[], None]) -> dict[str, float]:
        with log.busy("evaluating (kNN)"):
            a, b = run(state, train, poll), run(state, test, poll)
            metrics = {"knn/test_top1": _knn(e.config, a, b, e.source.classes)["top1"]}
        if "probe" in b.outputs:
            metrics["probe/test_top1"] = topk_accuracy(b.outputs["probe"], b.labels)["top1"]
        log.say(", ".join(f"{k} {v:.2f}" for k, v in metrics.items()))
        return metrics

    return evaluate


def _knn(config: ConfigDict, train: Extracted, test: Extracted, classes: int) -> dict[str, float]:
    return knn(
        train.outputs["h"],
        train.labels,
        test.outputs["h"],
        test.labels,
        classes=classes,
        k=config.eval.knn_k,
        temperature=config.eval.knn_temperature,
    )


@dataclasses.dataclass(frozen=True)
class EvalData:
    """The data and the devices on which encoders are compared."""

    config: ConfigDict
    train: Source
    test: Source
    view: ViewSpec
    spec: EvalSpec
    mesh: Mesh

    def features(self, encoder: Encoder, start: tuple[Tree, Tree], source: Source) -> Extracted:
        """Pooled features of a source's centre crops."""

        @jax.jit
        def outputs(weights: Tree, images: jax.Array) -> dict[str, jax.Array]:
            return {"h": encoder.apply(*weights, images, False)[0].pooled}

        return extract(outputs, start, self.crops(source), self.mesh)

    def crops(self, source: Source) -> Iterator[dict[str, np.ndarray]]:
        """One pass of centre crops."""
        size = eval_batch_size(self.config, self.mesh)
        return eval_batches(source, self.spec, batch_size=size)

    def part(self, source: Source) -> Part:
        """A source with train crops, flips as in pre-training, and centre crops."""
        s, v = self.spec, self.view
        recipe = crop_flip(s.size, mean=s.mean, std=s.std, area=v.area, flip=v.flip)

        def train(batch_size: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
            return train_batches(source, recipe, batch_size=batch_size, seed=seed)

        return Part(source.num_examples, train, lambda: self.crops(source))


def open_eval_data(run: RunEncoder) -> EvalData:
    """Open the training and test images of a run.

    Raises:
      ValueError: the data have no labels, or cannot be opened.
    """
    config = run.config
    sources = [
        open_source(config.data.name, config.data.dir, split, seed=config.seed)
        for split in ("train", "test")
    ]
    train = sources[0]
    if not train.classes:
        raise ValueError(
            f"The data {config.data.name!r} {config.data.dir} have no labels, which every "
            "protocol needs: put the images into one folder per class, or evaluate on labelled "
            "data with --config.data.name and --config.data.dir."
        )
    if train.channels != run.encoder.channels:
        raise ValueError(
            f"The data have {train.channels} channels, the encoder {run.encoder.channels}; "
            "evaluate on data with the same number."
        )
    recipe, _ = build_views(config, train.channels)
    # Normalised as in training, even if the encoder is evaluated on other data.
    info = run.info
    resize = config.eval.resize or info.resize or info.image_size
    spec = EvalSpec(info.image_size, resize, info.mean, info.std, config.eval.antialias)
    return EvalData(config, train, sources[1], recipe["views"][0], spec, mesh.make_mesh())


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
        found = _knn(run.config, a, b, data.train.classes)
        result |= {prefix + k: v for k, v in found.items()}
    return result


def run_fewshot(run: RunEncoder, data: EvalData) -> dict[str, Any]:
    """Few-shot accuracies of the encoder, an untrained one, and (small images) raw pixels."""
    c = run.config.eval
    train = limited(data.train, c.train_examples)
    rows: dict[str, dict[str, float]] = {}

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
    return {
        "top1": rows[run.info.method]["all"],
        "untrained_top1": rows["untrained encoder"]["all"],
        "rows": rows,
    }


def _run_supervised(run: RunEncoder, data: EvalData, train: Source, frozen: bool) -> dict[str, Any]:
    c = run.config.eval
    lrs = c.lrs if frozen else c.finetune_lrs
    protocol = Protocol(tuple(lrs), c.epochs, c.train_batch, frozen, run.config.seed)
    rest, held = train.hold_out(c.validation, run.config.seed)
    parts = Parts(*(data.part(s) for s in (train, rest, held, data.test)))
    classes = data.train.classes
    result: dict[str, Any] = {}
    for prefix, start in _candidates(run).items():
        log.say(f"{'untrained' if prefix else 'pre-trained'} encoder:")
        found = linear(starting_from(run.encoder, *start), parts, protocol, classes, data.mesh)
        result |= {prefix + k: v for k, v in found.items()}
    return result | {"train_images": train.num_examples, "validation_images": held.num_examples}


def run_linear(run: RunEncoder, data: EvalData) -> dict[str, Any]:
    """A linear classifier on frozen features of the encoder and of an untrained one."""
    return _run_supervised(run, data, data.train, frozen=True)


def run_finetune(run: RunEncoder, data: EvalData) -> dict[str, Any]:
    """Fine-tuning on `eval.label_fraction` of the labels, and training from scratch on them."""
    fraction = run.config.eval.label_fraction
    train = data.train
    if fraction < 1:
        _, train = train.hold_out(fraction, run.config.seed)
    return _run_supervised(run, data, train, frozen=False) | {"label_fraction": fraction}


PROTOCOLS: dict[str, Callable[[RunEncoder, EvalData], dict[str, Any]]] = {
    "knn": run_knn,
    "linear": run_linear,
    "finetune": run_finetune,
    "fewshot": run_fewshot,
}
