"""A tenth of the digits as a .npz file: ten steps per epoch, as of all of them, at batch 16."""

import atexit
import functools
import shutil
import tempfile

import numpy as np
from sklearn.datasets import load_digits

EXAMPLES, STEPS_PER_EPOCH = 167, 10


@functools.cache
def path():
    """The file, of 167 training and 33 test images; it goes with this process."""
    folder = tempfile.mkdtemp(prefix="byol_jax_digits_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    scans = load_digits()
    images, labels = (scans.images * 15).astype(np.uint8), scans.target
    train, test = slice(EXAMPLES), slice(EXAMPLES, 200)
    np.savez(
        f"{folder}/digits.npz",
        x_train=images[train],
        y_train=labels[train],
        x_test=images[test],
        y_test=labels[test],
    )
    return f"{folder}/digits.npz"


def flags():
    """What makes configs/digits.py read it."""
    return ("--config.data.name=npz", f"--config.data.dir={path()}", "--config.batch_size=16")
