"""Build the views for training and evaluation from a config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from byol_jax.core import Method
from byol_jax.data.facts import facts_of
from byol_jax.views.recipes import RECIPES, one_branch
from byol_jax.views.spec import (
    FRAMES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    OF_COLOUR,
    EvalSpec,
    Recipe,
    typed_override,
)
from byol_jax.views.tasks import TAKES


def normalisation(config: ConfigDict, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std per channel: the config's, else the recipe's or the data set's."""
    if config.views.mean or config.views.std:
        return tuple(config.views.mean), tuple(config.views.std)
    if config.views.recipe == "simclr":
        return (0.0,) * channels, (1.0,) * channels
    facts = facts_of(config.data.name)
    mean, std = (facts.mean, facts.std) if facts else (IMAGENET_MEAN, IMAGENET_STD)
    if len(mean) == channels:
        return mean, std
    return (float(np.mean(mean)),) * channels, (float(np.mean(std)),) * channels


def build_views(config: ConfigDict, channels: int) -> tuple[Recipe, EvalSpec]:
    """The recipe of the training views, and the centre crop for evaluation.

    Of images of one channel the colour is left alone, whatever the recipe does with it.

    Raises:
      ValueError: an override is not a field of a view, or its value is not allowed.
    """
    name, size = config.views.recipe, config.image_size
    mean, std = normalisation(config, channels)
    options = config.get(name, ConfigDict()).to_dict() if name == "multi_crop" else {}
    given = config.views.overrides.to_dict()
    overrides: dict[str, Any] = dict.fromkeys(OF_COLOUR, 0.0) if channels == 1 else {}
    overrides |= {field: typed_override(field, value) for field, value in given.items()}
    # Small images are not cropped in evaluation: a border of 2 px of 32 may be part of the object.
    resize = config.eval.resize or (size if size < 64 else round(size * 8 / 7))
    recipe = RECIPES[name](size, mean=mean, std=std, **options, **overrides)
    if config.views.one_branch:
        recipe = one_branch(recipe)
    if config.data.name == "clips" and config.data.frames:
        recipe = _of_frames(name, recipe, config.data.frames)
    return recipe, EvalSpec(size, resize, mean, std, config.eval.antialias)


def _of_frames(name: str, recipe: Recipe, count: int) -> Recipe:
    """The recipe of `count` frames that are cropped and changed alike.

    Raises:
      ValueError: the recipe makes more than one view.
    """
    if list(recipe) != ["views"] or len(recipe["views"]) != 1:
        raise ValueError(
            f"data.frames is {count}, for frames that all become the same view, but "
            f"views.recipe={name} makes several; set it to crop_flip or npid, or data.frames to 0: "
            "one frame, as an image."
        )
    return {FRAMES: recipe["views"] * count}


def check_takes(
    name: str, method: Method, recipe_name: str, recipe: Recipe, sound: bool = False
) -> None:
    """Refuse a recipe that does not make the views that a method, or its task, reads.

    Args:
      name: of the method.
      method: its task, where it has one, makes the views that `method.takes` counts.
      recipe_name: its name.
      recipe: the views of each group.
      sound: whether the batches have sound.

    Raises:
      ValueError: says what is made and what is read.
    """
    takes = (method.reads or TAKES) if method.task else method.takes
    made = {group: len(views) for group, views in recipe.items()} | ({"sound": 1} if sound else {})
    if made == dict(takes):
        return

    def say(counts: Mapping[str, Any]) -> str:
        return " and ".join(f"{n} {group!r}" for group, n in counts.items())

    hint = "views.recipe byol, simclr, cifar, digits, moco_v1 and moco_v2 make two"
    if sound != ("sound" in takes):
        hint = f"set data.sound to {'0.0' if sound else 'the seconds to read (data.name=clips)'}"
    elif dict(takes) == {"views": 1}:
        hint = "views.recipe=npid and views.recipe=crop_flip make one view"
    elif FRAMES in made:
        hint = "data.frames=0 makes a view of one frame of each clip"
    elif "local" in takes:
        hint = "views.recipe=multi_crop makes multi_crop.count local views"
    raise ValueError(
        f"method.name={name} takes {say(takes)} of each image, but views.recipe={recipe_name} "
        f"makes {say(made)}; {hint}."
    )
