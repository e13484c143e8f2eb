"""Clips: which frames and which sound are read, in the same order and from the same files."""

import wave
from fractions import Fraction

import av
import jax
import numpy as np
import pytest
from PIL import Image

from byol_jax.data import media
from byol_jax.data.opening import open_source
from byol_jax.data.pipeline import eval_batches, train_batches
from byol_jax.data.rows import why_damaged
from byol_jax.data.source import Clip
from byol_jax.views import device
from byol_jax.views.recipes import crop_flip
from byol_jax.views.spec import EvalSpec

COUNT, FPS, RATE = 60, 20, 8000
SECONDS = COUNT / FPS


def picture(number):
    """32 x 48 px that tell their number: a block for each binary digit."""
    blocks = np.array([number >> bit & 1 for bit in range(6)])
    return np.repeat(np.repeat(blocks[None], 32, 0), 8, 1).astype(np.uint8) * 160 + 40


def number_of(image):
    return int(sum((image[8:24, 8 * b + 2 : 8 * b + 6].mean() > 120) << b for b in range(6)))


def ramp(loud=0.8):
    """Sound that tells its time: it rises all along."""
    return (np.linspace(-loud, loud, int(SECONDS * RATE)) * 32767).astype(np.int16)


def write_video(path, codec="ffv1", count=COUNT, sound="ramp", number=picture):
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as file:
        video = file.add_stream(codec, rate=FPS)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        video.gop_size, video.time_base = 12, Fraction(1, FPS)
        if sound:
            heard = file.add_stream("pcm_s16le", rate=RATE)
            heard.layout = "mono"
        for i in range(count):
            grey = number(i)
            frame = av.VideoFrame.from_ndarray(np.stack([grey] * 3, -1), "rgb24")
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            file.mux(video.encode(frame))
        file.mux(video.encode())
        if sound:
            values = ramp() if sound == "ramp" else np.zeros_like(ramp())
            for at in range(0, len(values), 1000):
                frame = av.AudioFrame.from_ndarray(values[None, at : at + 1000], "s16", "mono")
                frame.pts, frame.rate, frame.time_base = at, RATE, Fraction(1, RATE)
                file.mux(heard.encode(frame))
            file.mux(heard.encode())


def write_folder(path, count=COUNT, sound=True, number=picture):
    path.mkdir(parents=True)
    for i in range(count):
        Image.fromarray(number(i)).save(path / f"{i}.png")  # 10.png is not between 1 and 2
    if sound:
        with wave.open(str(path / "sound.wav"), "wb") as file:
            file.setparams((1, 2, RATE, 0, "NONE", ""))
            file.writeframes(ramp().tobytes())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Videos of two containers, and a folder of frames, with sound; class a and b."""
    top = tmp_path_factory.mktemp("clips")
    (top / "a").mkdir()
    write_video(top / "a" / "lossless.mkv")
    write_video(top / "a" / "predicted.avi", "mpeg4")
    write_folder(top / "b" / "frames")
    return top


def times(sound, rate):
    """When each of its samples was recorded, seconds."""
    return (sound / 0.8 + 1) / 2 * SECONDS


@pytest.mark.parametrize("name", ["a/lossless.mkv", "a/predicted.avi", "b/frames"])
def test_frames_and_sound_are_those_of_the_window(folder, name):
    """Fails if a frame is off by one, or the sound begins too early or late.

    Seen with `>` for `>=` where frames are picked, with files in alphabetical order, and with the
    sound that is decoded from before its beginning on kept.
    """
    clip = Clip(5, 4, 0.5, RATE // 2)
    for at in [(0.0, 0.0), (0.37, 0.8), (0.61, 0.3), (0.999, 0.999)]:
        frames, sound = media.read_clip(str(folder / name), clip, 3, at)
        assert frames.shape == (5, 32, 48, 3)
        # The frames take 17 / 20 s, in which half a second of sound lies.
        begin = at[0] * (SECONDS - 17 / FPS)
        first = min(int(begin * FPS), COUNT - 17)
        assert [number_of(f[..., 0]) for f in frames] == [first + 4 * i for i in range(5)]
        start = begin + at[1] * (17 / FPS - 0.5)
        want = start + np.arange(len(sound)) / (RATE // 2)
        inner = slice(50, -50)  # filters of the resampling
        assert np.abs(times(sound, RATE // 2) - want)[inner].max() < 2e-3
    image, nothing = media.read_clip(str(folder / name), Clip(), 1, (0.5, 0.0))
    assert number_of(image[0, ..., 0]) == 30
    assert image.shape == (1, 32, 48, 1)
    assert nothing.shape == (0,)


def test_windows_are_anywhere_and_the_shorter_lies_in_the_longer():
    """Fails if the ends of a clip are left out, or frames and sound are drawn apart."""
    random = np.random.RandomState(0)
    clip = Clip(2, 4, 1.0, 100)
    found = [media.window(clip, 75, 25.0, 2.95, tuple(random.rand(2))) for _ in range(2000)]
    first, start = np.array(found).T
    assert (first / 25 >= start - 0.1).all()
    assert (first / 25 + 5 / 25 <= start + 1 + 0.1).all()
    assert 0 <= first.min() <= 2
    assert 66 <= first.max() <= 70
    assert start.min() < 0.05
    assert start.max() > 1.9
    numbers = [media.window(Clip(3, 2), 10, 1.0, 0.0, (u, 0.5))[0] for u in np.arange(60) / 60]
    assert np.bincount(numbers).tolist() == [10] * 6


RECIPE = {"frames": crop_flip(8, jitter=1.0, hue=0.1)["views"] * 4}


def opened(folder, split="train", clip=Clip(4, 2, 0.25, 1000), **options):  # noqa: B008
    return open_source("clips", str(folder), split, clip=clip, **options)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Twelve folders of frames: of each all frames are equal, but its own."""
    top = tmp_path_factory.mktemp("many")
    for i in range(12):
        values = np.random.RandomState(i).randint(0, 256, (12, 12)).astype(np.uint8)
        write_folder(top / "train" / str(i), 8, number=lambda _, values=values: values)
    write_folder(top / "val" / "other", 8, number=lambda _: values)
    return top


def batches(source, count=3, **options):
    options = {"batch_size": 4, "seed": 3, **options}
    found = train_batches(source, options.pop("recipe", RECIPE), **options)
    taken = [next(found) for _ in range(count)]
    found.close()
    return taken


def equal(a, b):
    assert a.keys() == b.keys()
    for k in a:
        np.testing.assert_array_equal(a[k], b[k], err_msg=k)


def test_batches_do_not_depend_on_threads_starts_and_processes(many):
    """Fails if an example's draws depend on anything but seed, epoch and index.

    Seen with the epoch left out of the draws.
    """
    source = opened(many)
    whole = batches(source, 5)
    for k, shape in {"frames": (4, 4, 8, 8, 3), "sound": (4, 250), "index": (4,)}.items():
        assert whole[0][k].shape == shape
    assert sorted(np.concatenate([b["index"] for b in whole[:3]])) == list(range(12))
    again = [(b, i) for b in whole[:3] for i in np.flatnonzero(b["index"] == whole[3]["index"][0])]
    ((before, row),) = again
    assert (before["frames"][row] != whole[3]["frames"][0]).any()
    later = batches(source, 2, position=12, threads=1)
    for a, b in zip(whole[3:], later, strict=True):
        equal(a, b)
    halves = [batches(source, 1, process_index=p, process_count=2)[0] for p in (0, 1)]
    equal(whole[0], {k: np.concatenate([h[k] for h in halves]) for k in whole[0]})


def test_frames_of_a_clip_are_changed_alike(many):
    """Fails if each frame has its own crop, flip or colours; seen with draws of their own."""
    source = opened(many)
    for on_device in (False, True):
        frames = batches(source, 1, on_device=on_device)[0]["frames"]
        assert (frames == frames[:, :1]).all()
        assert len({f.tobytes() for f in frames[:, 0]}) == 4
    views = device.make_views(RECIPE, cropped=True)
    made = views({"frames": frames, "mask": np.ones(4, np.float32)}, jax.random.key(0))["frames"]
    np.testing.assert_array_equal(made, np.repeat(made[:, :1], 4, 1))
    assert np.abs(made[0, 0] - frames[0, 0] / 255).max() > 0.1


def test_host_and_device_make_the_same_frames(many):
    """Fails if the host's augmentation takes other draws than its crop, or the device's differ."""
    source = opened(many)
    host = batches(source, 1)[0]["frames"]
    cropped = batches(source, 1, on_device=True)[0]["frames"]
    plain = {"frames": crop_flip(8, flip=0.0)["views"] * 4}
    made = device.make_views(plain, cropped=True)(
        {"frames": batches(source, 1, on_device=True, recipe=plain)[0]["frames"]},
        jax.random.key(0),
    )
    unchanged = batches(source, 1, recipe=plain)[0]["frames"]
    np.testing.assert_allclose(made["frames"], unchanged, atol=0.5 / 255 / 0.2)
    assert cropped.dtype == np.uint8
    assert host.dtype == np.float32


def test_one_frame_is_an_image(many):
    """Fails if methods for images cannot read clips; the views of a frame differ."""
    recipe = {"views": crop_flip(8)["views"] * 2}
    batch = batches(opened(many, clip=Clip()), 1, recipe=recipe)[0]
    assert batch["views"].shape == (4, 2, 8, 8, 3)
    assert (batch["views"][:, 0] != batch["views"][:, 1]).any((1, 2, 3)).all()
    assert "sound" not in batch


def test_evaluation_reads_the_frame_in_the_middle(folder):
    """Fails if another frame is taken, or padded rows are counted."""
    spec = EvalSpec(32, 32, (0.0,), (1.0,), False)
    source = opened(folder, clip=Clip(4, 2, 0.25, 1000), channels=1, seed=5)
    found = next(eval_batches(source, spec, batch_size=4))
    good = found["mask"] > 0
    assert good.sum() == source.num_examples
    middle = picture(30)[:, 8:40] / 255
    for view in found["views"][good, 0]:
        assert np.abs(view[..., 0] - middle).max() < 0.1
    assert (found["label"][good] == source.labels).all()


def test_damaged_clips_are_counted_and_named(folder, tmp_path):
    """Fails if a damaged file ends the batches, or a list of files leads to them.

    Seen without the list of containers: the list of files plays the other one.
    """
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
        write_video(tmp_path / part / "good.mkv", count=20)
    whole = (folder / "a" / "lossless.mkv").read_bytes()
    bad = {
        "cut.mkv": whole[:3000],
        "empty.mkv": b"",
        "list.mp4": b"ffconcat version 1.0\nfile good.mkv\n",
        "noise.avi": bytes(range(256)) * 20,
    }
    for name, data in bad.items():
        (tmp_path / "train" / name).write_bytes(data)
    with pytest.raises(ValueError, match="does not decode"):
        media.read_clip(str(tmp_path / "train" / "list.mp4"), Clip(), 3, (0.0, 0.0))
    write_video(tmp_path / "train" / "short.mkv", count=5)
    source = opened(tmp_path, clip=Clip(4, 2))
    whys = [why_damaged(source, i) for i in range(source.num_examples)]
    names = [source.describe(i) for i in range(source.num_examples)]
    said = dict(zip([n.rsplit("/", 1)[-1] for n in names], whys, strict=True))
    batch = batches(source, 1, batch_size=source.num_examples)[0]
    order = np.argsort(batch["index"])
    left = [n for n, m in zip(names, batch["mask"][order], strict=True) if m]
    assert [n.rsplit("/", 1)[-1] for n in left] == ["good.mkv"]
    assert np.isfinite(batch["frames"]).all()
    for name, count in {"short.mkv": 5, "cut.mkv": 2}.items():
        reason = f"it has {count} frames, fewer than the 7 that data.frames and data.stride ask for"
        assert said.pop(name) == reason
    assert said.pop("good.mkv") == "it decodes now; was it changed?"
    assert said.keys() == bad.keys() - {"cut.mkv"}
    assert all(why.startswith("does not decode") for why in said.values()), said


def test_silent_clips_are_left_out_and_counted(tmp_path):
    """Fails if a clip without sound, or with zeros for it, stays; a damaged one must."""
    write_video(tmp_path / "zeros.mkv", count=20, sound="zeros")
    write_video(tmp_path / "none.mkv", count=20, sound="")
    write_folder(tmp_path / "still", 2, sound=False)
    (tmp_path / "damaged.mkv").write_bytes(b"no video")
    (tmp_path / "notes.txt").write_text("")
    for i in range(3):
        write_folder(tmp_path / f"loud{i}", 2, number=lambda _, i=i: picture(i))
    source = opened(tmp_path, seed=1)
    left = "left out 3 silent clips: none.mkv, still, zeros.mkv"
    assert left in source.notes
    assert any("left out 1 file (1 .txt)" in note for note in source.notes)
    assert set(source.paths) <= {"damaged.mkv", "loud0", "loud1", "loud2"}
    assert opened(tmp_path, clip=Clip(), seed=1).num_examples > source.num_examples
    for path in tmp_path.glob("loud*"):
        (path / "sound.wav").unlink()
    (tmp_path / "damaged.mkv").unlink()
    with pytest.raises(ValueError, match=r"All \d clips of .* are silent, and data\.sound asks"):
        opened(tmp_path)


def test_parts_and_classes(many, folder, tmp_path, monkeypatch):
    """Fails if parts or classes are not those of the folders, or clips are in both parts."""
    test = opened(many, "test")
    assert test.num_examples == 1
    assert (opened(many).num_examples, opened(many).classes) == (12, 0)
    train = opened(folder, seed=6)
    assert train.class_names == ("a", "b")
    assert [*train.paths] == ["a/lossless.mkv", "a/predicted.avi", "b/frames"]
    with pytest.raises(ValueError, match="too few to hold out a tenth as the test part"):
        opened(folder, "test", seed=6)
    with pytest.raises(ValueError, match=r"has no clips \(it has no files\); expected videos"):
        opened(tmp_path)
    with pytest.raises(ValueError, match="is not a folder"):
        opened(tmp_path / "none")
    monkeypatch.setattr(media, "has_av", lambda: False)
    with pytest.raises(ValueError, match=r"2 \.(mkv|avi).*pip install 'byol_jax\[video\]'|has no"):
        opened(folder / "a")
    with pytest.raises(ValueError, match=r"pip install 'byol_jax\[video\]'"):
        media.read_clip(str(folder / "a" / "lossless.mkv"), Clip(), 3, (0, 0))
