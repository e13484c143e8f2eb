"""Features of SimCLR v2's ResNet with selective kernels by the authors' code, in float64.

    python tests/oracles/simclr_resnet.py CHECKOUT   of google-research/simclr at 383d414

One bottleneck per stage, in inference mode on images of an even side, in training mode of an odd.
Needs TensorFlow and tf_keras. Prints literals for tests/test_selective.py.
"""

import os
import pprint
import sys
import zlib

import numpy as np

SIDES, WIDTH, RATIO = (32, 35), 0.25, 0.5
STEM = ("stem_conv1", "stem_bn1", "stem_conv2", "stem_bn2", "conv1", "bn1")
BLOCK = (
    *("downsample_conv", "downsample_bn", "conv1", "bn1", "conv2/conv", "conv2/bn"),
    *("conv2/mix1", "conv2/mix_bn", "conv2/mix2", "conv3", "bn3"),
)
NAMES = (*STEM, *(f"layer{stage}_0/{part}" for stage in (1, 2, 3, 4) for part in BLOCK))
"""Our names of the convolutions and norms, in the order in which the authors' code makes theirs."""


def value(name, shape):
    """The weights of both sides: a function of their name."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("kernel"):
        return random.randn(*shape) / np.sqrt(np.prod(shape[:-1]))
    if name.endswith(("scale", "var")):
        return 1 + 0.3 * random.rand(*shape)
    return 0.3 * random.randn(*shape)


def images(side):
    """Two images [2, H, W, 3]."""
    return np.random.RandomState(side).rand(2, side, side, 3)


def weighted(features):
    """Features [2, D] as a few numbers in which each of them counts."""
    waves = np.cos(np.outer(np.arange(features.shape[1]), (0.0, 1.0, 2.5)))
    return (np.asarray(features) @ waves).ravel().tolist()


def main(checkout):
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tensorflow as tf
    from absl import flags

    for name, of_flag in {"sk_ratio": RATIO, "se_ratio": 0.0, "batch_norm_decay": 0.9}.items():
        flags.DEFINE_float(name, of_flag, "")
    flags.DEFINE_bool("global_bn", False, "")
    flags.DEFINE_string("train_mode", "pretrain", "")
    flags.DEFINE_integer("fine_tune_after_block", -1, "")
    flags.FLAGS(["resnet"])
    tf.keras.backend.set_floatx("float64")
    sys.path.insert(0, os.path.join(checkout, "tf2"))
    import resnet

    network = resnet.Resnet(resnet.BottleneckBlock, [1, 1, 1, 1], WIDTH)
    network(tf.constant(images(SIDES[0])), training=False)
    kinds = (tf.keras.layers.Conv2D, tf.keras.layers.BatchNormalization)
    layers = [layer for layer in network._flatten_layers() if isinstance(layer, kinds)]
    for name, layer in zip(NAMES, layers, strict=True):
        leaves = ("kernel",) if len(layer.weights) == 1 else ("scale", "bias", "mean", "var")
        pairs = zip(leaves, layer.weights, strict=True)
        layer.set_weights([value(f"{name}/{leaf}", tuple(w.shape)) for leaf, w in pairs])
    pprint.pprint(
        {
            (side, train): weighted(network(tf.constant(images(side)), training=train))
            for side, train in zip(SIDES, (False, True), strict=True)
        }
    )


if __name__ == "__main__":
    main(sys.argv[1])
