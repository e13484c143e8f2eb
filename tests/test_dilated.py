"""Encoders with finer maps and the same parameters."""

import jax
import numpy as np
import pytest
from conftest import compiled, filled
from small_vit import small_vit

from byol_jax.models import make_encoder, output_strides, with_output_stride


def shapes_of(encoder, images):
    return jax.eval_shape(encoder.init, jax.random.key(0), images)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("config", "stride", "finer"),
    [
        ({"name": "resnet18", "width": 0.25}, 8, (1, 1, 2, 4)),
        ({"name": "resnet50", "width": 0.25, "padding": "same"}, 16, (1, 1, 1, 2)),
        ({"name": "tiny", "width": 0.25}, 1, (1, 2, 4)),
        ({"name": "tiny", "width": 0.25, "stages": 5}, 2, (1, 1, 2, 2, 2)),
        ({"name": "tiny", "width": 0.25, "padding": "same", "channels": 3}, 2, (1, 1, 2)),
    ],
    ids=lambda v: v["name"] if isinstance(v, dict) else str(v),
)
def test_a_dilated_encoder_is_the_plain_one_at_its_positions(config, stride, finer):
    """Fails if a tap is one off, padding is another's, or a block keeps the old distance."""
    plain = make_encoder(**config)
    side = (42, 35) if config["name"] != "tiny" else (14, 11)
    images = np.random.RandomState(0).randn(1, 1, *side, 3).astype(np.float32)
    dilated = with_output_stride(plain, stride)
    params, stats = filled(shapes_of(plain, images))
    assert shapes_of(dilated, images) == shapes_of(plain, images)
    assert dilated.config == plain.config

    def features(encoder):
        apply = jax.jit(lambda *a: encoder.apply(*a, False)[0])
        return compiled(apply, params, stats, images)(params, stats, images)

    few, many = features(plain), features(dilated)
    for coarse, fine, times in zip(few.maps, many.maps, finer, strict=True):
        at = np.asarray(fine)[:, :, ::times, ::times]
        assert at.shape == coarse.shape
        np.testing.assert_allclose(at, coarse, rtol=1e-5, atol=1e-5 * np.abs(coarse).max())
    last = -(-np.array(side) // stride)
    assert many.maps[-1].shape[2:4] == tuple(last)
    assert np.abs(many.pooled - few.pooled).max() > 1e-4  # the positions between count too


def test_the_strides_that_an_encoder_can_have():
    """Fails if a stride is refused that is possible, or one that is not becomes another."""
    assert output_strides(make_encoder("resnet50")) == (4, 8, 16, 32)
    assert output_strides(make_encoder("resnet18", stem="cifar")) == (1, 2, 4, 8)
    assert output_strides(make_encoder("tiny")) == (1, 2, 4)
    assert output_strides(make_encoder("resnet50", sk_ratio=0.0625)) == (32,)
    vit = small_vit().encoder
    assert with_output_stride(vit, vit.config["patch"]) is vit
    with pytest.raises(
        ValueError, match=r"eval\.output_stride is 64; expected one of 4, 8, 16, 32"
    ):
        with_output_stride(make_encoder("resnet50"), 64)
