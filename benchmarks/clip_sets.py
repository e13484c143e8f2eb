"""Make the small sets of clips that docs/results.md measures on.

    python -m benchmarks.clip_sets small VIDEOS OUT          videos, shrunk to 120 px of width
    python -m benchmarks.clip_sets spoken RECORDINGS OUT     spoken digits beside written ones
    python -m benchmarks.clip_sets paired SOUNDS PICTURES OUT     ESC-10 beside Caltech-101
    python -m benchmarks.clip_sets moving OUT                written digits that move: synthetic

VIDEOS: a folder of videos, such as the GRID corpus; every tenth becomes the test part. Where a file
videos.txt names their sources (an address, then the names of its videos line by line, as that of
seymanurakti/fight-detection-surv-dataset), every fifth source does; videos with two sources or
none are left out.
RECORDINGS: those of the free spoken digit data set (Jakobovski/free-spoken-digit-dataset):
{digit}_{speaker}_{number}.wav. The pictures are scikit-learn's digits. Recordings 0 to 4 of each
speaker, as its authors say, are the test part, and so are the digits that `data.name=digits` tests
on: no recording and no picture is in both parts.
SOUNDS: ESC-10 (karolpiczak/ESC-10), a folder per class; its fold 5 is the test part. PICTURES:
Caltech-101 as train/CLASS and test/CLASS.
"""

import shutil
import sys
import wave
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from byol_jax.data.media import VIDEOS
from byol_jax.data.opening import open_source

# ESC-10 -> Caltech-101.
HEARD = {
    "001 - Dog bark": "dalmatian",
    "003 - Sea waves": "ketch",
    "005 - Clock tick": "watch",
    "006 - Person sneeze": "Faces_easy",
    "007 - Helicopter": "helicopter",
    "009 - Rooster": "rooster",
}


def small(videos: Path, out: Path, width: int = 120, rate: int = 8000) -> None:
    """Every video at a smaller size, MPEG-4 with a key frame each second, and mono sound."""
    import av

    paths = sorted(p for p in videos.rglob("*") if p.suffix.lower() in VIDEOS)
    parts = _parts(videos / "videos.txt", paths)
    for path in (p for p in paths if p.stem in parts):
        target = out / parts[path.stem] / f"{path.stem}.avi"
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


def _parts(listed: Path, paths: Sequence[Path]) -> dict[str, str]:
    """The part that each video belongs to, by its name.

    Args:
      listed: videos.txt, which may be missing.
      paths: of all videos, sorted.

    Raises:
      ValueError: it lists a video that is not there.
    """
    if not listed.is_file():
        return {p.stem: "test" if i % 10 == 9 else "train" for i, p in enumerate(paths)}
    sources: dict[str, set[int]] = {p.stem: set() for p in paths}
    names, source = list(sources), -1
    for line in listed.read_text().splitlines():
        if line.startswith("http"):
            source += 1
            continue
        first, _, last = line.split(":")[0].strip().partition(" - ")  # one name, or a range
        if first:
            if not {first, last or first} <= sources.keys():
                raise ValueError(f"{listed} lists {first!r}, which is not among the videos.")
            for name in names[names.index(first) : names.index(last or first) + 1]:
                sources[name].add(source)
    one = {name: min(of) for name, of in sources.items() if len(of) == 1}
    return {name: "train" if of % 5 else "test" for name, of in one.items()}


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


def paired(sounds: Path, pictures: Path, out: Path, most: int = 60, rate: int = 8000) -> None:
    """A folder of a picture and a recording of its class, for at most `most` pictures."""
    from PIL import Image

    for heard, seen in HEARD.items():
        recordings = sorted((sounds / heard).glob("*.ogg"))
        for part in ("train", "test"):
            held = [p for p in recordings if p.name.startswith("5") == (part == "test")]
            for i, path in enumerate(sorted((pictures / part / seen).iterdir())[:most]):
                folder = out / part / seen / path.stem
                folder.mkdir(parents=True, exist_ok=True)
                with Image.open(path) as image:
                    image.convert("RGB").resize((64, 64), Image.Resampling.BICUBIC).save(
                        folder / "0.png"
                    )
                _write_wav(_audible(held[i % len(held)], rate), rate, folder / "sound.wav")


def _audible(path: Path, rate: int) -> np.ndarray:
    """The samples of a recording without the silence that it is padded with, int16.

    What is shorter than two seconds is repeated.
    """
    import av

    resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
    with av.open(str(path)) as given:
        pieces = [p for frame in given.decode(audio=0) for p in resampler.resample(frame)]
    samples = np.concatenate([p.to_ndarray()[0] for p in pieces])
    loud = np.flatnonzero(np.abs(samples) > np.abs(samples).max() // 100)
    samples = samples[loud[0] : loud[-1] + 1]
    return np.resize(samples, max(len(samples), 2 * rate))


def _write_wav(samples: np.ndarray, rate: int, path: Path) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, samples.itemsize, rate, len(samples), "NONE", ""))
        file.writeframes(samples.tobytes())


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
    make: dict[str, Callable[..., None]] = {
        "small": small,
        "spoken": spoken,
        "paired": paired,
        "moving": moving,
    }
    make[sys.argv[1]](*map(Path, sys.argv[2:]))
