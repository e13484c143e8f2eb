"""Build methods that answer the questions of a pretext task, or draw what it asks for."""

from __future__ import annotations

import functools

import numpy as np
from ml_collections import ConfigDict

from byol_jax.core import Method
from byol_jax.experiment.methods.parts import Facts, Parts
from byol_jax.methods.classify import classify
from byol_jax.methods.colorize import colorize
from byol_jax.methods.regress import regress
from byol_jax.models import heads
from byol_jax.models.heads import Head
from byol_jax.models.network import network
from byol_jax.models.pixel_decoder import pixel_decoder
from byol_jax.models.vit import SIZES
from byol_jax.views.lab import to_lab
from byol_jax.views.tasks import Quiz
from byol_jax.views.tasks.colorization import bins, colorization, counted_colours
from byol_jax.views.tasks.exemplar import exemplar
from byol_jax.views.tasks.inpainting import inpainting
from byol_jax.views.tasks.jigsaw import jigsaw
from byol_jax.views.tasks.relative import relative
from byol_jax.views.tasks.rotation import rotation


def classifying(
    m: ConfigDict,
    parts: Parts,
    quiz: Quiz,
    projector: Head | None = None,
    bn: str = "",
    deviations: bool = False,
) -> Method:
    """The encoder, a projector if there is one, and a classifier of `layers` layers.

    With `deviations` it sees how each view of a question differs from their mean (`heads.mlp`).
    """
    wrap = functools.partial(parts.wrapped, bn=bn or m.bn, groups=m.bn_groups)
    widths = (m.hidden,) * (m.layers - 1) + (quiz.choices,)
    plain = {"hidden_bias": False, **parts.dtypes}
    views = len(quiz.asked[0]) if deviations else 0
    classifier = heads.mlp(widths, last_bias=True, parts=views, **plain)
    net = network(wrap(parts.encoder), wrap(projector or heads.mlp((), **parts.dtypes)))
    return classify(net, wrap(classifier), quiz)


def _rotation(m: ConfigDict, parts: Parts, facts: Facts) -> Method:
    del facts
    return classifying(m, parts, rotation(m.turns, every=m.every))


def _jigsaw(m: ConfigDict, parts: Parts, facts: Facts) -> Method:
    _check_tiles("jigsaw", parts)
    _check_input("jigsaw.normalise", m.normalise, parts)
    quiz = jigsaw(
        m.permutations,
        grid=m.grid,
        tile=m.tile,
        jitter=m.jitter,
        shift=m.shift,
        normalise=m.normalise,
        project=m.project,
        mean=facts.mean,
        std=facts.std,
    )
    return classifying(m, parts, quiz, heads.first_layer(m.out, bias=False, **parts.dtypes))


def _relative(m: ConfigDict, parts: Parts, facts: Facts) -> Method:
    _check_tiles("relative", parts)
    _check_input("relative.drop", m.drop, parts)
    quiz = relative(
        m.pairs,
        tile=m.tile,
        jitter=m.jitter,
        drop=m.drop,
        project=m.project,
        mean=facts.mean,
        std=facts.std,
    )
    return classifying(m, parts, quiz)


def _inpainting(m: ConfigDict, parts: Parts, facts: Facts) -> Method:
    wrap = functools.partial(parts.wrapped, bn="per_view", groups=m.bn_groups)
    options = {"size": m.size, "band": m.band, "band_weight": m.band_weight, "area": m.area}
    channels = parts.encoder.channels
    decoder = pixel_decoder(
        facts.image_size, channels, bottleneck=m.bottleneck, width=m.width, **parts.dtypes
    )
    task, seen = inpainting(m.region, **options), {"mean": facts.mean, "std": facts.std}
    return regress(wrap(parts.encoder), wrap(decoder), task, **seen)


def _colorization(m: ConfigDict, parts: Parts, facts: Facts) -> Method:
    if parts.encoder.channels == 3 and not parts.encoder.config.get("lightness"):
        raise ValueError(
            "method.name colorization asks for the colours of images, and the encoder sees them; "
            "set encoder.input=lightness."
        )
    wrap = functools.partial(parts.wrapped, bn="per_view", groups=m.bn_groups)
    side, channels = facts.image_size // m.sample, len(bins())
    decoder = pixel_decoder(side, channels, bottleneck=0, width=m.width, **parts.dtypes)
    prior, count = np.zeros(channels), m.images  # to be read from a checkpoint
    if facts.views and parts.encoder.channels == 3:  # else the task refuses them
        dots = (x[:, :: m.sample, :: m.sample] for x in facts.views(count))
        prior = counted_colours((to_lab(x)[..., 1:] for x in dots), m.neighbours, m.sigma)
    return colorize(
        wrap(parts.encoder),
        wrap(decoder),
        colorization(m.sample, mean=facts.mean, std=facts.std),
        prior,
        neighbours=m.neighbours,
        sigma=m.sigma,
        rebalance=m.rebalance,
        temperature=m.temperature,
        mean=facts.mean,
        std=facts.std,
    )


def _exemplar(m: ConfigDict, parts: Parts, facts: Facts) -> Method:
    quiz = exemplar(
        m.seeds or facts.examples,
        facts.examples,
        patch=m.patch,
        shift=m.shift,
        scale=m.scale,
        rotate=m.rotate,
        contrast=m.contrast,
        power=m.power,
        hue=m.hue,
        mean=facts.mean,
        std=facts.std,
    )
    # Its classes are images of the training part: no other image is of one of them.
    return classifying(m, parts, quiz, bn="per_view")._replace(answered=None)


def _check_tiles(method: str, parts: Parts) -> None:
    """Refuse an encoder that cannot see tiles.

    Raises:
      ValueError: it is a vision transformer, whose positions are those of whole images.
    """
    name = parts.encoder.config["name"]
    if name in SIZES:
        raise ValueError(
            f"method.name {method!r} shows the encoder tiles, and encoder.name {name!r} has "
            "positions of whole images; set it to a ResNet or tiny."
        )


def _check_input(key: str, value: bool, parts: Parts) -> None:
    """Refuse to change the colours of tiles of which the encoder needs the lightness.

    Raises:
      ValueError: says which key does.
    """
    if value and parts.encoder.config.get("lightness"):
        raise ValueError(
            f"{key} is True, after which the numbers of a tile are no colours, and encoder.input "
            "is 'lightness'; set one of them to its other value."
        )


METHODS = {
    "rotation": _rotation,
    "jigsaw": _jigsaw,
    "relative": _relative,
    "inpainting": _inpainting,
    "colorization": _colorization,
    "exemplar": _exemplar,
}
"""Method name -> its builder."""
