"""Frames and sound of one clip: a video, read by PyAV, or a folder of frames. No TensorFlow.

What is read is bounded: the size of a frame, all frames of a clip together, and how many are
decoded on the way to the first that is asked for. Files are opened here and handed over, so that a
playlist or a reference in one of them does not lead to others.

Shape key: T frames, H W C image.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import itertools
import math
import os
import re
import wave
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from byol_jax.data.formats import MAX_PIXELS
from byol_jax.data.source import MAX_BYTES, Clip, counted
from byol_jax.untrusted import one_error, read_bytes, size_of

VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg")
FRAMES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm")
SOUNDS = (".wav",)
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo"
_IMAGES = ("JPEG", "PNG", "WEBP", "BMP", "PPM")

MAX_DECODED, MAX_PACKETS = 20_000, 2_000_000
"""Frames that are decoded from one key frame on, and packets of sound, at most."""
MAX_CUT = 8
"""Packets of sound that may be damaged right after a seek."""
LOUD = 1e-3
"""A clip of which no sample is larger is silent: -60 dB of the largest possible value."""
_BEFORE = 0.25  # seconds of sound that a decoder is given to start with


class Media(NamedTuple):
    """A clip that was opened.

    length: frames, as the header says; counted: () -> as many as there are. rate: per second.
    seconds: of sound, 0.0 for none.
    frames: (their numbers, ascending) -> uint8 [T, H, W, C]; of a number that the file does not
      reach, fewer. sound: (first second, samples, samples per second) -> float32 in -1..1, fewer at
      the end. pieces: the sound from the beginning, in pieces.
    """

    length: int
    counted: Callable[[], int]
    rate: float
    seconds: float
    frames: Callable[[Sequence[int]], np.ndarray]
    sound: Callable[[float, int, int], np.ndarray]
    pieces: Callable[[], Iterator[np.ndarray]]


def has_av() -> bool:
    """Whether PyAV, which reads videos, is installed."""
    return importlib.util.find_spec("av") is not None


def read_clip(
    path: str, clip: Clip, channels: int, at: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Read frames and sound of a clip.

    Args:
      path: of a video, or of a folder of frames.
      clip: what is read.
      channels: 1 or 3.
      at: numbers in [0, 1): where in the clip, and, of frames and sound, where the shorter lies in
        the longer of the two.

    Returns:
      (frames uint8 [T, H, W, C], sound float32 [samples] in -1..1, zeros after its end).

    Raises:
      ValueError: it cannot be read, or has too few frames, or no sound; a phrase.
      OSError: the file cannot be read.
    """
    with opened(path, channels) as media:
        if clip.sound and not media.seconds:
            raise ValueError("it has no sound")
        count = media.length
        for _ in range(2):
            first, start = window(clip, count, media.rate, media.seconds, at)
            frames = media.frames([first + i * clip.stride for i in range(clip.frames)])
            if len(frames) == clip.frames:
                break
            count = media.counted()  # it ends before its header says
        else:
            raise ValueError("it ends too early")
        sound = np.zeros(clip.samples, np.float32)
        if clip.sound:
            found = media.sound(start, clip.samples, clip.rate)
            sound[: len(found)] = found
    return frames, sound


def window(
    clip: Clip, count: int, rate: float, seconds: float, at: tuple[float, float]
) -> tuple[int, float]:
    """Where frames and sound begin.

    Args:
      clip: what is read.
      count, rate: of the frames. seconds: of sound.
      at: see `read_clip`.

    Returns:
      (number of the first frame, first second of the sound). Of frames and sound, the longer lies
      anywhere in the clip, with equal probability; the shorter anywhere in the longer.

    Raises:
      ValueError: there are too few frames.
    """
    if count < clip.span:
        raise ValueError(
            f"it has {counted(count, 'frame')}, fewer than the {clip.span} that data.frames and "
            "data.stride ask for"
        )
    if not clip.sound:
        return int(at[0] * (count - clip.span + 1)), 0.0
    seen = clip.span / rate
    longer = max(seen, clip.sound)
    begin = at[0] * max(0.0, count / rate - longer)
    inner = at[1] * (longer - min(seen, clip.sound))
    first, start = (begin, begin + inner) if seen > clip.sound else (begin + inner, begin)
    start = min(start, max(0.0, seconds - clip.sound))
    return min(int(first * rate), count - clip.span), start


def is_silent(path: str) -> bool:
    """Whether a clip has no sound, or none that is louder than `LOUD`.

    What cannot be read is not silent: it is damaged, and will be counted when it is its turn.
    """
    try:
        with opened(path, 1) as media:
            return not any(np.abs(piece).max(initial=0) > LOUD for piece in media.pieces())
    except Exception:  # decoders raise many kinds
        return False


def what_is_wrong(path: str, clip: Clip, channels: int) -> str:
    """Why a clip is refused, as a phrase."""
    try:
        for at in (0.0, 0.5, 1 - 1e-6):
            read_clip(path, clip, channels, (at, at))
    except OSError as e:
        return f"cannot be read: {e.strerror or e}"
    except ValueError as e:
        return str(e)
    except Exception as e:  # decoders raise many kinds
        return f"does not decode: {type(e).__name__}"
    return "it decodes now; was it changed?"


@contextlib.contextmanager
def opened(path: str, channels: int) -> Iterator[Media]:
    """A clip, closed at the end.

    Raises:
      ValueError, OSError: see `read_clip`.
    """
    if os.path.isdir(path):
        yield _folder(Path(path), channels)
        return
    size_of(path)  # a pipe would never end
    if not has_av():
        raise ValueError("a video, which PyAV reads: pip install 'byol_jax[video]'")
    import av

    try:
        yield _video(path, channels)
    except av.error.FFmpegError as e:
        raise ValueError(f"does not decode: {e.strerror or type(e).__name__}") from e


# Videos.


@contextlib.contextmanager
def _container(path: str) -> Iterator[Any]:
    import av

    limits = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
    with open(path, "rb") as file, av.open(file, options=limits) as container:
        yield container


def _video(path: str, channels: int) -> Media:
    with _container(path) as container:
        if not container.streams.video:
            raise ValueError("it has no video")
        stream = container.streams.video[0]
        _check_size(stream.codec_context.width, stream.codec_context.height)
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        if not 0 < rate < 1e4:
            raise ValueError("its frames per second are not known")
        seconds = _seconds(stream) or (container.duration or 0) / 1e6
        count = stream.frames or math.floor(seconds * rate + 0.5)
        spoken = container.streams.audio[:1]
        count = count or _count(path)
        length = max((_seconds(s) or count / rate for s in spoken), default=0.0)

    def frames(numbers: Sequence[int]) -> np.ndarray:
        for origin in _origins(numbers[0], 16):
            found: list[np.ndarray] = []
            for number, frame in _seen(path, origin, rate):
                if not found and origin and number > numbers[0]:
                    break  # the file led to a place behind it
                if number < numbers[len(found)]:
                    continue
                image = _pixels(frame, channels)
                _check_room(len(numbers), image)
                found += [image for n in numbers[len(found) :] if n <= number]
                if len(found) == len(numbers):
                    break
            if found:
                return np.stack(found)
        return np.zeros((0, 0, 0, channels), np.uint8)

    def sound(start: float, samples: int, rate: int) -> np.ndarray:
        for origin in _origins(start, _BEFORE):
            parts: list[np.ndarray] = []
            skip, have = 0, 0
            for second, piece in _heard(path, origin, rate):
                if not parts:
                    skip = round((start - second) * rate)
                    if skip < 0 and origin:
                        break
                parts.append(piece)
                have += len(piece)
                if have >= skip + samples:
                    break
            if parts:
                return np.concatenate(parts)[max(skip, 0) :][:samples]
        return np.zeros(0, np.float32)

    def pieces() -> Iterator[np.ndarray]:
        if spoken:
            for _, piece in _heard(path, 0.0, 8_000):
                yield piece

    return Media(count, lambda: _count(path), rate, length, frames, sound, pieces)


def _count(path: str) -> int:
    """Frames of a video, from its packets, which are not decoded."""
    with _container(path) as container:
        packets = container.demux(container.streams.video[0])
        return sum(1 for packet in itertools.islice(packets, MAX_PACKETS) if packet.size)


def _seconds(stream: Any) -> float:
    return float(stream.duration * stream.time_base) if stream.duration else 0.0


def _origins(start: Any, step: Any) -> Iterator[Any]:
    """Where to seek to for what is at `start`: further and further before it, and 0 at last."""
    while start > step:
        yield start - step
        step *= 5
    yield 0


def _seen(path: str, start: int, rate: float) -> Iterator[tuple[int, Any]]:
    """Numbered frames from the last key frame before a number on; 0: from the beginning."""
    with _container(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"  # clips are read in parallel
        begin, unit = stream.start_time or 0, float(stream.time_base)
        if start:
            container.seek(begin + round(start / rate / unit), stream=stream)
        for done, frame in enumerate(container.decode(stream)):
            if frame.pts is None:
                raise ValueError("a frame has no time")
            if done >= MAX_DECODED:
                raise ValueError(f"more than {MAX_DECODED:,} frames from one key frame on")
            yield math.floor((frame.pts - begin) * unit * rate + 0.5), frame


def _heard(path: str, start: float, rate: int) -> Iterator[tuple[float, np.ndarray]]:
    """Pieces of sound, mono, from about `start` on, with the second at which the first begins."""
    import av

    with _container(path) as container:
        stream = container.streams.audio[0]
        begin, unit = stream.start_time or 0, float(stream.time_base)
        if start:
            container.seek(begin + int(start / unit), stream=stream)
        resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
        second = None
        for done, packet in enumerate(container.demux(stream)):
            if done >= MAX_PACKETS:
                raise ValueError(f"more than {MAX_PACKETS:,} packets of sound")
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                if start and second is None and done < MAX_CUT:
                    continue  # the file may lead into the middle of a packet
                raise
            for frame in frames:
                if second is None:
                    second = float(((frame.pts or begin) - begin) * frame.time_base)
                for piece in resampler.resample(frame):
                    yield second, piece.to_ndarray()[0]
        if second is not None:
            for piece in resampler.resample(None):
                yield second, piece.to_ndarray()[0]


def _pixels(frame: Any, channels: int) -> np.ndarray:
    _check_size(frame.width, frame.height)
    image = frame.to_ndarray(format="rgb24" if channels == 3 else "gray")
    return image.reshape(*image.shape[:2], channels)


def _check_size(width: int, height: int) -> None:
    if not 0 < width * height <= MAX_PIXELS:
        raise ValueError(f"{width}x{height} px, more than {MAX_PIXELS}")


def _check_room(count: int, image: np.ndarray) -> None:
    if count * image.size > MAX_BYTES:
        raise ValueError(
            f"{counted(count, 'frame')} of {image.shape[1]}x{image.shape[0]} px are more than "
            f"{MAX_BYTES / 2**20:.0f} MiB; lower data.frames"
        )


# Folders of frames.


def in_order(names: Sequence[str]) -> list[str]:
    """File names sorted, numbers in them by value: 2.jpg is before 10.jpg."""
    return sorted(
        names, key=lambda n: [(len(d), d) if d.isdigit() else (0, d) for d in re.split(r"(\d+)", n)]
    )


def contents(folder: Path) -> tuple[list[str], list[str]]:
    """The names of the frames of a folder, in order, and of its sounds."""
    names = [n for n in os.listdir(folder) if not n.startswith(".")]

    def ending(suffixes: tuple[str, ...]) -> list[str]:
        return in_order([n for n in names if n.lower().endswith(suffixes)])

    return ending(FRAMES), ending(SOUNDS)


def _folder(folder: Path, channels: int) -> Media:
    """Frames in a folder, spread evenly over the sound that lies beside them, if there is any."""
    names, sounds = contents(folder)
    if not names:
        raise ValueError("it has no frames")
    seconds = 0.0
    if sounds:
        with _wav(folder / sounds[0]) as file:
            seconds = file.getnframes() / file.getframerate()

    def frames(numbers: Sequence[int]) -> np.ndarray:
        images = []
        for number in numbers:
            images.append(_image(folder / names[number], channels))
            _check_room(len(numbers), images[-1])
            if images[-1].shape != images[0].shape:
                raise ValueError("its frames have several sizes")
        return np.stack(images)

    def sound(start: float, samples: int, rate: int) -> np.ndarray:
        from scipy.signal import resample_poly

        with _wav(folder / sounds[0]) as file:
            own = file.getframerate()
            file.setpos(min(int(start * own), file.getnframes()))
            values = _values(file, math.ceil(samples * own / rate))
        common = math.gcd(rate, own)
        found = resample_poly(values, rate // common, own // common) if rate != own else values
        return found[:samples].astype(np.float32)

    def pieces() -> Iterator[np.ndarray]:
        if sounds:
            with _wav(folder / sounds[0]) as file:
                while len(piece := _values(file, 2**16)):
                    yield piece

    rate = len(names) / (seconds or len(names))
    return Media(len(names), lambda: len(names), rate, seconds, frames, sound, pieces)


@contextlib.contextmanager
def _wav(path: Path) -> Iterator[wave.Wave_read]:
    size_of(path)
    with one_error("its sound does not decode: {}"), wave.open(str(path), "rb") as file:
        if not 0 < file.getframerate() <= 2**20 or not file.getnframes():
            raise ValueError("it is empty")
        yield file


def _values(file: wave.Wave_read, count: int) -> np.ndarray:
    """The next samples of a .wav file, float32 in -1..1, the mean of its channels."""
    width = file.getsampwidth()
    data = file.readframes(count)
    if width not in (1, 2, 4):
        raise ValueError(f"{8 * width} bits per sample; expected 8, 16 or 32")
    raw = np.frombuffer(data[: len(data) // width * width], {1: "u1", 2: "<i2", 4: "<i4"}[width])
    raw = raw[: len(raw) // file.getnchannels() * file.getnchannels()]
    values = (raw.astype(np.float64) - 128 * (width == 1)) / 2 ** (8 * width - 1)
    return values.reshape(-1, file.getnchannels()).mean(1).astype(np.float32)


def _image(path: Path, channels: int) -> np.ndarray:
    if importlib.util.find_spec("PIL") is None:
        raise ValueError("an image, which Pillow reads: pip install pillow")
    from PIL import Image

    with one_error(f"{path.name} does not decode: {{}}"):
        image = Image.open(io.BytesIO(read_bytes(path, MAX_BYTES)), formats=_IMAGES)
        _check_size(*image.size)
        found = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return found.reshape(*found.shape[:2], channels)
