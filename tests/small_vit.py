"""A transformer of the oracles' size behind the encoder contract."""

from oracles.small_vit import DEPTH, DIM, HEADS, PATCH, SIDE

from byol_jax import models


def small_vit(dtype="float64", **options):
    """For images of 6 px: 9 patches, 16 features, 2 blocks."""
    sizes = {"image_size": SIDE, "patch": PATCH, "dim": DIM, "depth": DEPTH, "heads": HEADS}
    return models.make_vit("vit_tiny", **{**sizes, "maps": 1, "dtype": dtype, **options})
