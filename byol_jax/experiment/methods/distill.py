"""Build distillation: a saved classifier teaches the configured encoder."""

from __future__ import annotations

from ml_collections import ConfigDict

from byol_jax.convert.classifier import Classifier, read_classifier
from byol_jax.core import Method
from byol_jax.data.source import counted
from byol_jax.experiment.methods.parts import Facts, Parts
from byol_jax.methods.distill import Teacher, distill
from byol_jax.models import heads


def _distill(m: ConfigDict, parts: Parts, facts: Facts) -> Method:
    if not m.teacher:
        raise ValueError(
            "distill.teacher is empty; give the folder of a classifier, made by "
            "python -m byol_jax.evaluate --workdir RUN --protocol finetune --save FOLDER."
        )
    found = read_classifier(m.teacher)
    _check(m, found, parts, facts)
    teacher = Teacher(parts.gather(found.encoder), found.params, found.stats, found.linear)
    classifier = heads.linear(found.classes, dtype=parts.dtypes["param_dtype"])
    return distill(
        parts.wrapped(parts.encoder, "per_view", m.bn_groups),
        parts.gather(classifier),
        teacher,
        temperature=m.temperature,
        alpha=m.alpha,
    )


def _check(m: ConfigDict, found: Classifier, parts: Parts, facts: Facts) -> None:
    """Refuse a teacher of other images or classes.

    Raises:
      ValueError: gives both values.
    """
    info = found.info
    if found.encoder.channels != parts.encoder.channels:
        raise ValueError(
            f"distill.teacher={m.teacher} sees images of {found.encoder.channels} channels, and "
            f"the data have {parts.encoder.channels}; give a teacher of such images."
        )
    ours = (tuple(facts.mean), tuple(facts.std))
    if facts.mean and ours != (info.mean, info.std):
        raise ValueError(
            f"distill.teacher={m.teacher} was trained on images normalised with mean {info.mean} "
            f"and std {info.std}, and these views have {ours[0]} and {ours[1]}; set views.mean and "
            "views.std to the teacher's."
        )
    if m.alpha < 1 and facts.classes != found.classes:
        data = counted(facts.classes, "class", "classes") if facts.classes else "no labels"
        raise ValueError(
            f"distill.teacher={m.teacher} has {counted(found.classes, 'class', 'classes')}, and "
            f"the data {data}; with distill.alpha {m.alpha} their labels count. Set it to 1.0 "
            "to learn from the teacher alone."
        )


METHODS = {"distill": _distill}
