"""The peers of input_peers.py, in their own environment: one line per request, one per answer."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from typing import Any

IMAGES = 8
"""Images in a piece of work."""


def candidates(paths: list[str]) -> dict[str, Callable[[], None]]:
    """The pipelines that are installed, by name and version."""
    import PIL
    from PIL import Image

    def each(make: Callable[[Any], Any]) -> Callable[[], None]:
        files = itertools.cycle(paths)

        def work() -> None:
            for _ in range(IMAGES):
                make(Image.open(next(files)).convert("RGB"))

        return work

    found = {f"Pillow {PIL.__version__} decode": each(lambda x: x)}
    try:
        import torch
        import torchvision
        from torchvision.transforms import v2
    except ImportError:
        return found
    torch.set_num_threads(1)
    crop = v2.Compose(
        [v2.RandomResizedCrop(224, interpolation=v2.InterpolationMode.BICUBIC), v2.PILToTensor()]
    )
    found[f"torchvision {torchvision.__version__} crops"] = each(lambda x: (crop(x), crop(x)))
    try:
        import lightly
        from lightly.transforms import BYOLTransform
    except ImportError:
        return found
    found[f"lightly {lightly.__version__} BYOLTransform"] = each(BYOLTransform())
    return found


def main() -> None:
    """First line: the files, as JSON; answer: the names. Then one name per line; answer: images."""
    work = candidates(json.loads(sys.stdin.readline()))
    print(json.dumps(list(work)), flush=True)
    for line in sys.stdin:
        work[line.strip()]()
        print(IMAGES, flush=True)


if __name__ == "__main__":
    main()
