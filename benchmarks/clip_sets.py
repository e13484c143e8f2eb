"""Make the small sets of clips that docs/results.md measures on.

    python -m benchmarks.clip_sets small VIDEOS OUT          videos, shrunk to 120 px of width
    python -m benchmarks.clip_sets spoken RECORDINGS OUT     spoken digits beside written ones
    python -m benchmarks.clip_sets moving OUT                written digits that move: synthetic

VIDEOS: a folder of videos with sound, such as the GRID corpus; every tenth becomes the test part.
RECORDINGS: those of the free spoken digit data set (Jakobovski/free-spoken-digit-dataset):
{digit}_{speaker}_{number}.wav. The pictures are scikit-learn's digits. Recordings 0 to 4 of each
speaker, as its authors say, are the test part, and so are the digits that `data.name=digits` tests
on: no recording and no picture is in both parts.
"""

import shutil
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np

from byol_jax.data.media import VIDEOS
from byol_jax.data.opening import open_source


def small(videos: Path, out: Path, width: int = 120, rate: int = 8000) -> None:
    """Every video at a smaller size, MPEG-4 with a key frame each second, and mono sound."""
    import av

    paths = sorted(p for p in videos.rglob("*") if p.suffix.lower() in VIDEOS)
    for i, path in enumerate(paths):
        target = out / ("test" if i % 10 == 9 else "train") / f"{path.stem}.avi"
        target.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path)) as given, av.open(str(target), "w") as made:
            seen = given.streams.video[0]
            pace = seen.average_rate or Fraction(25)
            video = made.add_stream("mpeg4", rate=pace)
            video.width, video.height = width, round(width * seen.height / seen.width / 2) * 2
            video.pix_fmt, video.gop_size, video.bit_rate = "yuv420p", 25, 400_000
            heard = made.add_stream("pcm_s16le", rate=rate) if given.streams.audio else None
            if heard is not None:
                heard.layout = "mono"
            resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
            count = 0
            for frame in given.decode(*given.streams.video[:1], *given.streams.audio[:1]):
                if isinstance(frame, av.VideoFrame):
                    shrunk = frame.reformat(video.width, video.height, "yuv420p")
                    shrunk.pts, shrunk.time_base = count, 1 / pace
                    count += 1
                    made.mux(video.encode(shrunk))
                elif heard is not None and isinstance(frame, av.AudioFrame):
                    for piece in resampler.resample(frame):
                        made.mux(heard.encode(piece))
            made.mux(video.encode())
            if heard is not None:
                made.mux(heard.encode())


def spoken(recordings: Path, out: Path) -> None:
    """A folder of one frame and one recording for each recording, in a folder per digit."""
    from PIL import Image

    written = {"train": open_source("digits"), "test": open_source("digits", split="test")}
    random = np.random.RandomState(0)
    for path in sorted(recordings.glob("*.wav")):
        digit, _, number = path.stem.rsplit("_", 2)
        part = "test" if int(number) < 5 else "train"
        source = written[part]
        assert source.images is not None
        row = random.choice(np.flatnonzero(source.labels == int(digit)))
        folder = out / part / digit / path.stem
        folder.mkdir(parents=True, exist_ok=True)
        big = Image.fromarray(source.images[row, ..., 0]).resize((32, 32), Image.Resampling.BICUBIC)
        big.save(folder / "0.png")
        shutil.copy(path, folder / "sound.wav")


def moving(out: Path, frames: int = 24, side: int = 48) -> None:
    """Two digits each that fly through a picture and bounce off its borders."""
    from PIL import Image

    for part, count in (("train", 400), ("test", 100)):
        source = open_source("digits", split=part)
        assert source.images is not None
        random = np.random.RandomState(len(part))
        for clip in range(count):
            chosen = source.images[random.choice(len(source.images), 2), ..., 0]
            shapes = [np.kron(image, np.ones((2, 2), np.uint8)) for image in chosen]
            place = random.uniform(0, side - 16, (2, 2))
            speed = random.uniform(1, 3, (2, 2)) * random.choice([-1, 1], (2, 2))
            folder = out / part / f"{clip:04d}"
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(frames):
                picture = np.zeros((side, side), np.uint8)
                for shape, (y, x) in zip(shapes, place.round().astype(int), strict=True):
                    window = picture[y : y + 16, x : x + 16]
                    np.maximum(window, shape, out=window)
                Image.fromarray(picture).save(folder / f"{i}.png")
                place += speed
                out_of = (place < 0) | (place > side - 16)
                speed[out_of] *= -1
                place = np.clip(place, 0, side - 16)


if __name__ == "__main__":
    make: dict[str, Callable[..., None]] = {"small": small, "spoken": spoken, "moving": moving}
    make[sys.argv[1]](*map(Path, sys.argv[2:]))
