"""Predict from h and from z which transformation was done to an image."""

from __future__ import annotations

from typing import Any

import jax

from byol_jax import log
from byol_jax.convert.classifier import with_projector
from byol_jax.core import Encoder, Features, Tree
from byol_jax.data.source import Source
from byol_jax.evals.attributes import ATTRIBUTES, Attribute, asked
from byol_jax.evals.features import Extracted, extract
from byol_jax.evals.logistic import choose, judge
from byol_jax.experiment.evaluation import EvalData, limited
from byol_jax.experiment.frozen import UNTRAINED, untrained
from byol_jax.run_folder import RunEncoder


def run_attributes(run: RunEncoder, data: EvalData) -> dict[str, Any]:
    """Logistic regression for each transformation, on h of the encoder and of an untrained one, and
    on z, if the run has a projector.
    """
    c = run.config.eval
    train = limited(data.train, c.train_examples)
    method = run.info.method
    rows: dict[str, dict[str, float]] = {f"{UNTRAINED}, h": {}, f"{method}, h": {}}
    chance: dict[str, float] = {}
    counts: dict[str, int] = {}
    own, own_start = _with_z(run)
    plain = untrained(run)
    for name, attribute in ATTRIBUTES.items():
        if attribute.colours and run.encoder.channels != 3:
            log.say(f"{name} is left out: the encoder takes images of one channel")
            continue
        log.say(f"attributes: {name}")
        chance[name] = 100 / attribute.answers
        for prefix, encoder, start in ((method, own, own_start), (UNTRAINED, run.encoder, plain)):
            a, b = (
                _features(run, data, encoder, start, source, attribute)
                for source in (train, data.test)
            )
            for output in a.outputs:
                chosen = choose(
                    a.outputs[output],
                    a.labels,
                    classes=attribute.answers,
                    count=c.penalties,
                    validation=c.validation,
                    seed=run.config.seed,
                )
                row = rows.setdefault(f"{prefix}, {output}", {})
                row[name] = judge(chosen.fit.linear, b, output)["top1"]
            counts = {"train_images": a.judged, "test_images": b.judged}
    return counts | {"rows": {"chance": chance, **rows}}


def _with_z(run: RunEncoder) -> tuple[Encoder, tuple[Tree, Tree]]:
    """The encoder, its pooled features h followed by z if there is a projector."""
    start = run.params, run.stats
    if run.projector is None:
        log.say("z is left out: there is no projector")
        return run.encoder, start
    params, stats = run.projector
    try:
        both = with_projector(run.encoder, params, stats)
    except ValueError as e:
        log.say(f"z is left out: the projector of {run.info.method} is no plain one: {e}")
        return run.encoder, start
    return both, ({"encoder": start[0], "head": params}, {"encoder": start[1], "head": stats})


def _features(
    run: RunEncoder,
    data: EvalData,
    encoder: Encoder,
    start: tuple[Tree, Tree],
    source: Source,
    attribute: Attribute,
) -> Extracted:
    """h, and z if the encoder has both, of changed images, and the answers as labels."""
    width, spec = run.encoder.dim, data.spec

    @jax.jit
    def outputs(weights: Tree, images: jax.Array) -> dict[str, jax.Array]:
        features: Features = encoder.apply(*weights, images, False)[0]
        pooled = features.pooled
        found = {"h": pooled[..., :width]}
        return found | ({"z": pooled[..., width:]} if pooled.shape[-1] > width else {})

    batches = asked(data.crops(source), attribute, spec.mean, spec.std, run.config.seed)
    found = extract(outputs, start, batches, data.mesh)
    data.damage_of(source).add(found.damaged)
    return found
