"""The small network, images and checksums that oracles and tests share, in NumPy alone.

The encoder is fc1, bn1, ReLU, fc2 on flat images; projectors are the same with their own widths.
"""

import itertools

import numpy as np

ROWS, PIXELS, HIDDEN, STEPS = 12, 6, 16, 3


def mlp(random, widths, norm=True, hidden_bias=False, last_bias=False):
    """Parameters of a perceptron, {"fc1": {"kernel", "bias"}, "bn1": {"scale", "bias"}, ...}."""
    tree = {}
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths), 1):
        last = i == len(widths) - 1
        tree[f"fc{i}"] = {"kernel": random.randn(inputs, outputs) / np.sqrt(inputs)}
        if last_bias if last else hidden_bias:
            tree[f"fc{i}"]["bias"] = 0.1 * random.randn(outputs)
        if norm and not last:
            scale, bias = 1 + 0.1 * random.randn(outputs), 0.1 * random.randn(outputs)
            tree[f"bn{i}"] = {"scale": scale, "bias": bias}
    return tree


def weights(features, widths, **options):
    """Parameters of the encoder, and of a projector with these widths."""
    random = np.random.RandomState(0)
    encoder = mlp(random, (PIXELS, HIDDEN, features))
    return {"encoder": encoder, "projector": mlp(random, (features, *widths), **options)}


def images(step):
    """Two views of each image [ROWS, 2, PIXELS], and their labels in 0..3."""
    random = np.random.RandomState(100 + step)
    image = random.randn(ROWS, 1, PIXELS)
    return image + 0.5 * random.randn(ROWS, 2, PIXELS), random.randint(0, 4, ROWS)


def moved(before, after):
    """Checksums of how far the kernels, and all other parameters, are from where they began."""
    sums = {True: 0.0, False: 0.0}
    for part in sorted(before):
        for layer in sorted(before[part]):
            for name in sorted(before[part][layer]):
                change = (after[part][layer][name] - before[part][layer][name]).ravel()
                sums[name == "kernel"] += (change * np.cos(1 + np.arange(change.size))).sum()
    return sums[True], sums[False]
