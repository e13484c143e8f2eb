"""The host pipeline compared with lightly's and torchvision's, on one core, on the same files.

    python benchmarks/input_peers.py --data FOLDER_OF_JPEGS --python PEERS/bin/python [--json FILE]

PEERS is an environment with lightly and torchvision (`pip install lightly torchvision`); what is
not installed is left out. Images per second, all pinned to one core, in turns; a training image
counts once for its two views. The peers' CPU time is not counted: compare the wall times.

  raw decode          tf.io.decode_jpeg of the whole image: the limit
  lightly             Image.open, lightly.transforms.BYOLTransform with its defaults (two views)
  torchvision crops   Image.open, two RandomResizedCrop(224, bicubic) to uint8 tensors
  device              byol_jax, views.placement=device: one decode, two bicubic crops, uint8
  device, bilinear    the same with bilinear crops, for comparison: not what the papers use
  host                byol_jax, views.placement=host: the whole augmentation, float32
  evaluation          byol_jax, the centre crop of `EvalSpec`, float32; one view
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from byol_jax.bench.input import ROWS, only, pull, raw_decode
from byol_jax.bench.measure import machine, plain, rates, table
from byol_jax.data.opening import open_source
from byol_jax.data.pipeline import eval_batches, train_batches
from byol_jax.data.source import Source
from byol_jax.views.recipes import byol
from byol_jax.views.spec import EvalSpec


@contextlib.contextmanager
def bilinear() -> Iterator[None]:
    """Pipelines traced in this context resize bilinearly, which is not an option of ours."""
    import tensorflow as tf

    bicubic = tf.raw_ops.ResizeBicubic
    tf.raw_ops.ResizeBicubic = tf.raw_ops.ResizeBilinear
    try:
        yield
    finally:
        tf.raw_ops.ResizeBicubic = bicubic


def ours(source: Source) -> dict[str, Callable[[], int]]:
    """Our pipelines, with one thread each."""
    run: dict[str, Any] = {"batch_size": ROWS, "seed": 0, "threads": 1}
    linear = train_batches(source, byol(224), on_device=True, **run)
    with bilinear():
        next(linear)  # traced now
    many = source.take(np.arange(50_000) % source.num_examples)
    views = byol(224)
    return {
        "raw decode": pull(raw_decode(source, 1)),
        "device": pull(train_batches(source, views, on_device=True, **run)),
        "device, bilinear": pull(linear),
        "host": pull(train_batches(source, views, **run)),
        "evaluation": pull(eval_batches(many, EvalSpec(224, 256), batch_size=ROWS)),
    }


class Peers:
    """The others' pipelines, in a separate process: TensorFlow and PyTorch do not share one well.

    It is pinned to the same core as ours, and works only on request.
    """

    def __init__(self, python: str, source: Source) -> None:
        paths = [str(Path(source.root) / str(p)) for p in source.paths]  # type: ignore[union-attr]
        self.process = subprocess.Popen(
            [python, str(Path(__file__).with_name("input_peers_worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.names = self._ask(json.dumps(paths))

    def _ask(self, line: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def candidates(self) -> dict[str, Callable[[], int]]:
        """The pipelines that are installed there."""

        def work(name: str) -> Callable[[], int]:
            return lambda: int(self._ask(name))

        return {name: work(name) for name in self.names}


def main() -> None:
    """Measure all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder of full-size JPEGs")
    parser.add_argument("--python", default=sys.executable, help="where the peers are installed")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--json", default="")
    args = parser.parse_args()
    source = open_source("folder", args.data, "train")
    with only(1):
        others = Peers(args.python, source)
        candidates = ours(source) | others.candidates()
        found = rates(candidates, args.rounds, args.seconds, settle=6)
    others.process.terminate()
    print(machine())
    print(table("one core, two views of 224 px", "images/s", found))
    if args.json:
        result = {"machine": machine(), "rates": plain(found)}
        Path(args.json).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
