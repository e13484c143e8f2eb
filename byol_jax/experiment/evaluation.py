"""Build the evaluation of an encoder from a config, during and after training."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from byol_jax import log, mesh
from byol_jax.core import Encoder, Features, TrainState, Tree
from byol_jax.data.pipeline import eval_batches, train_batches
from byol_jax.data.rows import HostBatch, why_damaged
from byol_jax.data.source import Source
from byol_jax.evals.features import Extracted, NothingToJudge, extract, topk_accuracy
from byol_jax.evals.knn import knn
from byol_jax.evals.linear import Keep, Part
from byol_jax.experiment.build import Experiment, open_data
from byol_jax.experiment.cache import Cache, kept
from byol_jax.experiment.views import build_views
from byol_jax.faults import Damage
from byol_jax.run_folder import RunEncoder, data_changes
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


def known(source: Source) -> Source:
    """The examples whose label is known; a stream, whose labels are in its records, as it is."""
    if source.labels is None or (source.labels >= 0).all():
        return source
    return source.take(np.flatnonzero(source.labels >= 0))


def why_nothing(part: str, source: Source, several: bool = False) -> str:
    """Why nothing can be measured on a part ("training", "test"), or "".

    several: whether images with several labels each can be judged.
    """
    if source.marks is not None:
        return "" if several else f"the {part} images of {source.name} have several labels each"
    if source.labels is None and source.classes:
        return ""  # a stream: only reading tells
    if not source.labelled:
        return f"none of the {source.num_examples:,} {part} images of {source.name} has a label"
    assert source.labels is not None
    if source.intact is not None and not (source.intact & (source.labels >= 0)).any():
        return f"none of the labelled {part} images of {source.name} can be read"
    return ""


def count_damage(source: Source, share: float) -> Damage:
    """What an evaluation could not read of a data set, of which at most a share may be damaged."""
    return Damage(
        share * source.num_examples, explain(source), identify=identity(source), fate="left out"
    )


def identity(source: Source) -> Callable[[int], Any]:
    """Index -> what tells an example from others, in whichever part of the data set it is."""
    return source.locate if source.shards else source.describe


def explain(source: Source) -> Callable[[int], str]:
    """Index -> the name of an example that cannot be read, and why."""
    return lambda index: f"{source.describe(index)}: {why_damaged(source, index)}"


def build_evaluation(
    e: Experiment,
) -> Callable[[TrainState, Callable[[], None]], dict[str, float]] | None:
    """KNN (and the probe's accuracy) on the test images; None, with the reason logged, if there
    are no labels to judge by.

    The function raises TrainingError if more images than `data.max_damaged` cannot be read.
    """
    why, test = why_nothing("training", e.source), e.source
    if not why:
        test = open_data(e.config, "test")
        why = why_nothing("test", test)
    if why:
        log.say(f"no kNN and no probe accuracy in this run: {why}")
        return None
    test = known(test)
    train = limited(known(e.source), e.config.eval.train_examples)
    size = eval_batch_size(e.config, e.mesh)
    of_metric = {"probe": "probe", "classifier": "logits"}

    @jax.jit  # one function object: every evaluation of the run shares one compilation
    def outputs(weights: Tree, images: jax.Array) -> dict[str, jax.Array]:
        found = e.method.features(weights[0], weights[1], images)
        return {k: v for k, v in found.items() if k in ("h", *of_metric.values())}

    where = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    damage = [count_damage(part, e.config.data.max_damaged) for part in (train, test)]

    def run(state: TrainState, i: int, poll: Callable[[], None]) -> Extracted:
        crops = eval_batches((train, test)[i], e.eval_spec, batch_size=size, **where)
        found = extract(outputs, (state.params, state.extra), crops, e.mesh, poll)
        damage[i].add(found.damaged)
        return found

    def evaluate(state: TrainState, poll: Callable[[], None]) -> dict[str, float]:
        with log.busy("evaluating (kNN)"):
            a, b = run(state, 0, poll), run(state, 1, poll)
            counts = {"train_images": a.judged, "test_images": b.judged}
            counts["damaged"] = len(a.damaged) + len(b.damaged)
            try:
                metrics = {"knn/test_top1": neighbours(e.config, a, b, e.source.classes)["top1"]}
            except NothingToJudge as error:
                log.say(f"WARNING: no kNN and no probe accuracy: {error}")
                return {}
        for name, output in of_metric.items():
            if output in b.outputs and b.outputs[output].shape[-1] == e.source.classes:
                metrics[f"{name}/test_top1"] = topk_accuracy(b.outputs[output], b.labels)["top1"]
        log.say(", ".join(f"{k} {v:.2f}" for k, v in metrics.items()))
        return metrics | {f"knn/{k}": v for k, v in counts.items()}

    return evaluate


def neighbours(
    config: ConfigDict, train: Extracted, test: Extracted, classes: int
) -> dict[str, float]:
    """Weighted kNN of extracted features, with the config's k and temperature."""
    return knn(
        train.outputs["h"],
        train.labels,
        test.outputs["h"],
        test.labels,
        classes=classes,
        k=config.eval.knn_k,
        temperature=config.eval.knn_temperature,
    )


Read = Callable[[Features], dict[str, jax.Array]]
Change = Callable[[Iterator[HostBatch], EvalSpec], Iterator[HostBatch]]
"""What is done to batches of centre crops, which are normalised as the spec says."""
Show = Callable[..., None]
"""What becomes of what a protocol has to show; each protocol says what that is."""


def _pooled(features: Features) -> dict[str, jax.Array]:
    return {"h": features.pooled}


@functools.lru_cache(maxsize=2)
def _jitted(apply: Callable[..., Any], read: Read) -> Callable[..., dict[str, jax.Array]]:
    """One function object for all weights and sources: they share one compilation."""

    @jax.jit
    def outputs(weights: Tree, images: jax.Array) -> dict[str, jax.Array]:
        return read(apply(*weights, images, False)[0])

    return outputs


@dataclasses.dataclass(frozen=True)
class EvalData:
    """The data and the devices on which encoders are compared.

    train, test: their labelled images (all, for protocols without labels). damage: what could not
    be read of each. keep: is given the classifier that linear or finetune trains on the encoder.
    show: is given what there is to draw: by retrieval the test images as extracted and the nearest
    [N, n] of each, by patches the images [N, S, S, C] in 0..1 and a list of `evals.patches.Seen`,
    the trained encoder's last. cache: where pooled features are kept.
    """

    config: ConfigDict
    train: Source
    test: Source
    view: ViewSpec
    spec: EvalSpec
    mesh: Mesh
    damage: tuple[Damage, Damage]
    keep: Keep | None = None
    show: Show | None = None
    cache: Cache | None = None

    def features(
        self,
        encoder: Encoder,
        start: tuple[Tree, Tree],
        source: Source,
        read: Read = _pooled,
        change: Change | None = None,
    ) -> Extracted:
        """What `read` takes of the features of a source's centre crops; "h": the pooled ones.

        Raises:
          TrainingError: more images than `data.max_damaged` cannot be read.
        """

        outputs = _jitted(encoder.apply, read)

        def make() -> Extracted:
            return extract(outputs, start, self.crops(source, change), self.mesh)

        if self.cache is None or change is not None or read is not _pooled:
            found = make()
        else:
            size = eval_batch_size(self.config, self.mesh)
            place = self.spec, size, encoder.dim, self.mesh
            found = kept(self.cache, outputs, start, source, *place, make)
        self.damage_of(source).add(found.damaged)
        return found

    def damage_of(self, source: Source) -> Damage:
        """The count for the test images, or for a part of the training images."""
        return self.damage[source is self.test].among(explain(source), identity(source))

    def crops(self, source: Source, change: Change | None = None) -> Iterator[HostBatch]:
        """One pass of centre crops, changed if there is a change."""
        size = eval_batch_size(self.config, self.mesh)
        batches = eval_batches(source, self.spec, batch_size=size)
        return batches if change is None else change(batches, self.spec)

    def part(self, source: Source) -> Part:
        """A source with train crops, flips as in pre-training, and centre crops."""
        s, v = self.spec, self.view
        recipe = crop_flip(s.size, mean=s.mean, std=s.std, area=v.area, flip=v.flip)

        def train(batch_size: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
            return train_batches(source, recipe, batch_size=batch_size, seed=seed)

        damage = self.damage_of(source)
        return Part(source.num_examples, train, lambda: self.crops(source), damage)


# What to do for labels, per source.
_LABELS = {
    "folder": "Put the images into one folder per class, or evaluate",
    "clips": "Put the clips into one folder per class, or evaluate",
    "npz": "Add labels to the file (docs/data.md), or evaluate",
    "voc": "Judge them with --protocol=transfer, stages or suite, or evaluate",
}


def _shaped(source: Source, channels: int) -> Source:
    """Grey images in memory as three equal channels, for an encoder that takes colours."""
    if source.images is None or (source.channels, channels) != (1, 3):
        return source
    return dataclasses.replace(source, images=np.repeat(source.images, 3, 3), channels=3)


def open_eval_data(run: RunEncoder, labelled: bool = True, several: bool = False) -> EvalData:
    """Open the training and test images that an encoder is judged on.

    Args:
      run: the encoder and the config.
      labelled: whether images without a label are left out, and there have to be others.
      several: whether images may have several labels each.

    Raises:
      ValueError: the data have no labels, or cannot be opened.
    """
    config = run.config
    train, test = (
        _shaped(open_data(config, split, run.encoder.channels), run.encoder.channels)
        for split in ("train", "test")
    )
    why = why_nothing("training", train, several) or why_nothing("test", test, several)
    if why and labelled:
        remedy = _LABELS.get(config.data.name, "Evaluate")
        raise ValueError(
            f"Nothing can be judged: {why}. {remedy} on labelled data with --config.data.name and "
            "--config.data.dir."
        )
    changes = data_changes(run.data, train.fingerprint()) if run.data else ""
    if changes and config.data.name == run.info.source:
        log.say(f"WARNING: these are not the data that the run was trained on: {changes}")
    if train.channels != run.encoder.channels:
        raise ValueError(
            f"The data have {train.channels} channels, the encoder {run.encoder.channels}; "
            "evaluate on data with the same number."
        )
    info = run.info
    sized = config.copy_and_resolve_references()
    sized.image_size = info.image_size  # an export's config has the default
    recipe, _ = build_views(sized, train.channels)
    # Normalised as in training, even if the encoder is evaluated on other data.
    resize = config.eval.resize or info.resize or info.image_size
    spec = EvalSpec(info.image_size, resize, info.mean, info.std, config.eval.antialias)
    if labelled:
        train, test = known(train), known(test)
    share = config.data.max_damaged
    damage = count_damage(train, share), count_damage(test, share)
    return EvalData(
        config, train, test, next(iter(recipe.values()))[0], spec, mesh.make_mesh(), damage
    )
