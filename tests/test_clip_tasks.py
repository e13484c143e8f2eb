"""Tasks of clips: the order of frames, and frames beside sound, each undone by another program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from conftest import mini_encoder, start_state
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from byol_jax import optim
from byol_jax.config import default_config
from byol_jax.experiment.build import batch_shapes, build
from byol_jax.experiment.questions import judged
from byol_jax.losses import auc
from byol_jax.methods.correspond import correspond
from byol_jax.models import heads
from byol_jax.train_step import make_train_step
from byol_jax.views import device
from byol_jax.views.spec import ViewSpec
from byol_jax.views.tasks.avc import avc, log_spectrogram
from byol_jax.views.tasks.shuffle import motion, shuffle

KEY = jax.random.key(3)


def test_the_area_under_the_curve_is_scikit_learns():
    """Fails if ties count as won or lost, or examples that do not count do; seen with both."""
    random = np.random.RandomState(0)
    score = random.randint(0, 9, 60).astype(np.float32)
    label = (random.rand(60) < 0.3).astype(np.int32)
    weight = (random.rand(60) < 0.8).astype(np.float32)
    found = jax.jit(auc)(score, label, weight)
    counted = weight > 0
    np.testing.assert_allclose(found, roc_auc_score(label[counted], score[counted]), rtol=1e-6)
    assert auc(jnp.arange(4.0), jnp.ones(4), jnp.ones(4)) == 0.5
    logits = np.stack([np.zeros(60), score], -1)[:, None]
    metrics = judged(weight, logits=logits, target=label[:, None])
    np.testing.assert_allclose(metrics["auc"], found, rtol=1e-6)
    hits = ((score > 0) == label)[counted].mean()
    np.testing.assert_allclose(metrics["top1"], 100 * hits)
    assert metrics["questions"] == counted.sum()


# --- shuffle and learn ---------------------------------------------------------------------------

FRAMES, SPAN, APART = 14, 4, 2


def numbered(rows=512):
    """Frames of 2 px that tell their number, and which clip they are of."""
    frames = np.zeros((rows, FRAMES, 2, 2, 3), np.float32)
    frames[..., 0, 0, :] = np.arange(FRAMES)[:, None]
    frames[..., 1, 1, :] = np.arange(rows)[:, None, None]
    return frames


def test_triples_are_in_order_if_the_label_says_so():
    """An independent program reads the frames' numbers; fails if the ends are exchanged alone, the
    middle of a positive is one of the ends, or the label is of another row.

    Seen with c drawn from b on, and with e in place of a.
    """
    quiz = shuffle(FRAMES, span=SPAN, apart=APART)
    batch = {"frames": numbered(), "mask": np.ones(512, np.float32)}
    made = jax.jit(quiz.task)(batch, KEY)
    assert set(made) == {"views", "mask", "target"}
    views, target = np.asarray(made["views"]), np.asarray(made["target"])[:, 0]
    assert (views[:, :, 1, 1, 0] == np.arange(512)[:, None]).all()
    seen = views[:, :, 0, 0, 0].astype(int)
    backwards = seen[:, 0] > seen[:, 2]
    b, middle, d = np.where(backwards[:, None], seen[:, ::-1], seen).T
    assert (d - b == SPAN).all()
    ordered = (b < middle) & (middle < d)
    np.testing.assert_array_equal(ordered, target == 1)
    outside = np.where(middle < b, b - middle, middle - d)[~ordered]
    assert (outside == APART).all()
    assert set(middle[ordered] - b[ordered]) == {1, 2, 3}

    def is_share(values, share):
        return abs(values.mean() - share) < 3.5 * (share * (1 - share) / len(values)) ** 0.5

    assert is_share(ordered, 0.25)
    assert is_share((middle < b)[~ordered], 0.5)
    assert is_share(backwards, 0.5)
    # The differences are alike everywhere, and so is each of the windows that fit.
    starts = np.bincount(b - APART, minlength=FRAMES - SPAN - 2 * APART)
    assert len(starts) == FRAMES - SPAN - 2 * APART
    assert ((starts - 512 / len(starts)) ** 2 / (512 / len(starts))).sum() < 25


def test_windows_are_where_something_moves():
    """Fails if motion is not that between b and d, of a clip that moves at its end only.

    Seen with the motion from a on.
    """
    frames = np.zeros((64, FRAMES, 2, 2, 3), np.float32)
    frames[:, 10:] = np.arange(1, 5)[:, None, None, None]  # b is 6 to 8, and d 10 to 12
    np.testing.assert_array_equal(motion(jnp.asarray(frames))[0], [0.0] * 9 + [1.0] * 4)
    frames[:, :, 0, 0, 0] += 1e-3 * np.arange(FRAMES)
    made = jax.jit(shuffle(FRAMES, span=SPAN, apart=APART).task)(
        {"frames": frames, "mask": np.ones(64, np.float32)}, KEY
    )
    seen = np.rint(1e3 * (made["views"][:, :, 0, 0, 0] % 0.5)).astype(int)
    first = seen[:, [0, 2]].min(1)
    assert set(first) <= {6, 7, 8}


def guessed(features, target):
    """Share of held-out answers that the 15 nearest of a half tell of the other half."""
    x, half = (features - features.mean(0)) / features.std(0), len(target) // 2
    reader = KNeighborsClassifier(15).fit(x[:half], target[:half])
    return reader.score(x[half:], target[half:])


def is_chance(found, target):
    """Whether a share of right answers is no more than the commonest answer has, but for chance."""
    target = target[len(target) // 2 :]
    share = max(target.mean(), 1 - target.mean())
    return found < share + 3 * (share * (1 - share) / len(target)) ** 0.5


def test_a_clock_in_the_corner_does_not_tell_the_order():
    """Fails if crops that leave the corners out keep a clock there, or the ends alone tell.

    A reader of the clock finds the answer where whole frames are shown. Seen with crops of 99%.
    """
    random, rows, side = np.random.RandomState(0), 1600, 16
    still = random.rand(rows, 1, side, side, 3).astype(np.float32)
    frames = np.tile(still, (1, FRAMES, 1, 1, 1))
    began = random.rand(rows, 1)
    clock = (np.arange(FRAMES) / FRAMES + began) / 2
    frames[:, :, :2, :2] = clock[..., None, None, None]
    quiz = shuffle(FRAMES, span=SPAN, apart=APART)
    u_NU = device.uniforms(KEY, rows, 1)[:, 0]
    read, targets = {}, {}
    for area in (1.0, 0.4):
        spec = ViewSpec(side, area=(area, area), aspect=(1.0, 1.0), flip=0.0)
        crop = jax.vmap(lambda x, spec=spec: device.crop_batch(x, spec, u_NU), 1, 1)
        batch = {"frames": crop(jnp.asarray(frames)), "mask": np.ones(rows, np.float32)}
        made = jax.jit(quiz.task)(batch, KEY)
        targets[area] = np.asarray(made["target"])[:, 0]
        read[area] = np.asarray(made["views"])[:, :, 0, 0, 0]
    assert guessed(read[1.0], targets[1.0]) > 0.97
    assert is_chance(guessed(read[1.0][:, [0, 2]], targets[1.0]), targets[1.0])
    assert is_chance(guessed(read[0.4], targets[0.4]), targets[0.4])


# --- audio-visual correspondence -----------------------------------------------------------------


def test_the_spectrogram_is_scipys():
    """Fails if windows, frequencies or decibels differ; seen with a symmetric window."""
    random = np.random.RandomState(0)
    sound = random.randn(2, 4000).astype(np.float32)
    sound[1] = 0.01 * np.sin(2 * np.pi * 1000 * np.arange(4000) / 8000)
    made = jax.jit(lambda x: log_spectrogram(x, fft=512, window=480, hop=240))(sound)
    _, _, power = scipy.signal.spectrogram(
        sound.astype(np.float64),
        window=scipy.signal.get_window("hann", 480),
        nperseg=480,
        noverlap=240,
        nfft=512,
        detrend=False,
        scaling="spectrum",
        mode="complex",
    )
    level = 20 * np.log10(np.maximum(np.abs(power) * 240, 1e-5))  # scaled by the window's sum
    want = np.maximum(level - level.max((1, 2), keepdims=True), -80)
    assert made.shape == want.shape == (2, 257, 15)
    np.testing.assert_allclose(made, want / 40 + 1, atol=2e-3)
    assert np.asarray(made)[1].mean(1).argmax() == 64  # 1 kHz of 4
    louder = log_spectrogram(jnp.asarray(7 * sound), fft=512, window=480, hop=240)
    np.testing.assert_allclose(louder[0], made[0], atol=2e-4)
    assert log_spectrogram(jnp.zeros((1, 48_000)), fft=512, window=480, hop=240).shape[1:] == (
        257,
        199,
    )


def tones(rows, samples=256):
    """Sounds that tell their clip: a tone each; and views that do."""
    at = np.arange(samples) / samples
    sound = np.sin(2 * np.pi * (4 + np.arange(rows)[:, None]) * at).astype(np.float32)
    views = np.broadcast_to(np.arange(rows)[:, None, None, None, None], (rows, 1, 4, 4, 3))
    return {"views": views.astype(np.float32), "sound": sound, "mask": np.ones(rows, np.float32)}


def test_pairs_are_of_one_clip_if_the_label_says_so():
    """An independent program reads which tone is heard; fails if a negative is the clip's own
    sound, or pairs with what was not read count.

    Seen with an offset of 0 among those of the negatives, and without the partner's mask.
    """
    pairs, found, rows = avc(256, fft=256, window=256, hop=1), [], 48
    task = jax.jit(pairs.task)
    batch = tones(rows)
    batch["mask"][5] = 0
    for i in range(8):
        made = task(batch, jax.random.fold_in(KEY, i))
        assert set(made) == {"views", "spectrogram", "target", "mask"}
        tone = np.asarray(made["spectrogram"])[:, 0, :, 0, 0].argmax(1) - 4
        seen = np.asarray(made["views"])[:, 0, 0, 0, 0]
        np.testing.assert_array_equal(tone == seen, np.asarray(made["target"]) == 1)
        np.testing.assert_array_equal(made["mask"], (tone != 5) & (seen != 5))
        found.append(made["target"])
    share = np.mean(found)
    assert abs(share - 0.5) < 3.5 * (0.25 / len(np.ravel(found))) ** 0.5


def test_loudness_does_not_tell_the_clip():
    """Fails if how loud a clip is, which its frames may tell too, is in its spectrogram.

    A reader of the raw sound's loudness finds the pairs. Seen with decibels below a fixed level.
    """
    random, rows = np.random.RandomState(0), 2400
    loud = np.exp(random.uniform(-5, 0, rows)).astype(np.float32)
    sound = loud[:, None] * random.randn(rows, 64).astype(np.float32)
    views = np.broadcast_to(loud[:, None, None, None, None], (rows, 1, 2, 2, 3))
    batch = {"views": views, "sound": sound, "mask": np.ones(rows, np.float32)}
    made = jax.jit(avc(64, fft=16, window=16, hop=8).task)(batch, KEY)
    target, spectrogram = np.asarray(made["target"]), np.asarray(made["spectrogram"])
    away = jax.random.randint(jax.random.split(KEY)[1], (rows,), 1, rows, jnp.int32)
    heard = np.where(target == 1, np.arange(rows), (np.arange(rows) + away) % rows)
    own = np.log(sound.std(1))
    assert guessed(np.stack([np.log(loud), own[heard]], 1), target) > 0.85
    level = spectrogram[:, 0, :, :, 0]
    figures = [level.mean((1, 2)), level.std((1, 2))]
    assert is_chance(guessed(np.stack([np.log(loud), *figures], 1), target), target)


def small(dtype="float32"):
    options = {"dtype": jnp.dtype(dtype), "param_dtype": jnp.dtype(dtype)}
    head = heads.mlp((8, 2), hidden_bias=False, last_bias=True, **options)
    pairs = avc(64, fft=16, window=16, hop=8)
    return correspond(mini_encoder(dtype), mini_encoder(dtype, channels=1), head, pairs)


def test_it_learns_what_belongs_together_and_where_it_is(quick):
    """Fails if the two encoders do not see the same clip, or the picture is of another sound.

    Two kinds of clips: somewhere a red square with a low tone, or a blue one with a high tone. Seen
    with the sounds of other rows, and with the gradient's sign changed.
    """
    method = small()
    random = np.random.default_rng(0)

    def batch_of(rows=32):
        kind, side = random.integers(0, 2, (2, rows))
        views = 0.3 * random.standard_normal((rows, 1, 8, 8, 3))
        for i in range(rows):
            views[i, 0, 2:6, 4 * side[i] + 1 : 4 * side[i] + 3, 2 * kind[i]] += 2
        at = np.arange(64) / 64
        sound = np.sin(2 * np.pi * (6 + 12 * kind[:, None]) * at + random.uniform(0, 6, (rows, 1)))
        given = {"views": views, "sound": sound, "mask": np.ones(rows)}
        return {k: v.astype(np.float32) for k, v in given.items()}, side

    first = jax.eval_shape(method.task, batch_of()[0], KEY)
    state = start_state(method, optim.adamw(optim.constant(0.01)), first)
    step = jax.jit(make_train_step(method, optim.adamw(optim.constant(0.01)), method.task))
    right = []
    for _ in range(60):
        state, metrics = step(state, batch_of()[0], KEY)
        right.append((float(metrics["task/top1"]), float(metrics["task/auc"])))
    # A negative may be of the same kind: no one can do better than 75%.
    top1, area = np.mean(right[40:], 0)
    assert 66 < top1 < 84
    assert 0.68 < area < 0.9
    shown, side = batch_of(16)
    pictures = jax.jit(method.pictures)(
        state.params, state.extra, {k: shown[k] for k in ("views", "sound")}, KEY
    )
    share = np.abs(np.asarray(pictures["where"]) / shown["views"][:, 0]).mean((1, 3))
    bright = np.where(side == 0, share[:, 1:3].mean(1), share[:, 5:7].mean(1))
    dark = np.where(side == 0, share[:, 5:7].mean(1), share[:, 1:3].mean(1))
    assert (bright > dark).mean() > 0.8
    assert pictures["sound"].shape == (16, 8, 8, 3)


# --- from the config -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four clips of eight frames, with sound."""
    from test_clips import write_folder

    top = tmp_path_factory.mktemp("some")
    for part in ("train/a", "train/b", "test/a", "test/b"):
        for i in range(4):
            write_folder(top / part / str(i), 8)
    return top


def config_of(method, folder, **keys):
    c = default_config()
    c.data.name, c.data.dir, c.image_size, c.batch_size = "clips", str(folder), 8, 4
    c.views.recipe, c.encoder.name, c.method.name = "crop_flip", "tiny", method
    if method == "shuffle":
        c.data.frames = 8
        c.shuffle.update(span=2, apart=1)
    if method == "avc":
        c.data.sound, c.data.rate = 0.1, 1000
        c.avc.update(fft=32, window=32, hop=16, hidden=8)
    for key, value in keys.items():
        group, name = key.split("__")
        c[group][name] = value
    return c


@pytest.mark.parametrize(
    ("method", "keys", "message"),
    [
        ("shuffle", {"data__frames": 0}, r"data\.frames is 1; .* window of 5 frames: set .* to 5"),
        ("shuffle", {"data__sound": 0.1}, r"makes 8 'frames' and 1 'sound'; set data\.sound to 0"),
        ("shuffle", {"views__recipe": "byol"}, r"data\.frames is 8, .* set it to crop_flip"),
        ("avc", {"data__sound": 0.0}, r"avc\.window is 32 samples, .* 0 samples of sound"),
        ("avc", {"data__frames": 4}, "takes 1 'views' and 1 'sound' .* makes 4 'frames'"),
        ("avc", {"encoder__name": "vit_tiny", "vit__patch": 4}, "has positions of square"),
        ("avc", {"data__placement": "resident", "views__placement": "device"}, "clips are read"),
        ("rotation", {"data__sound": 0.1}, r"and 1 'sound'; set data\.sound to 0\.0"),
        ("avc", {"data__name": "digits"}, r"data\.sound is 0\.1, but data\.name is 'digits'"),
    ],
)
def test_what_does_not_fit_is_refused(folder, method, keys, message):
    """Fails if data and method that do not fit are found out later, or not at all."""
    with pytest.raises(ValueError, match=message):
        build(config_of(method, folder, **keys), devices=jax.devices()[:1])


def test_deviations_are_seen_if_they_are_asked_for(folder):
    """Fails if the key does nothing, or the classifier is told a wrong number of frames."""
    widths = {}
    for asked in (False, True):
        config = config_of("shuffle", folder, shuffle__deviations=asked)
        built = build(config, devices=jax.devices()[:1])
        batch = {"views": jnp.zeros((4, 3, 8, 8, 3))}
        params, extra = jax.eval_shape(built.method.init, KEY, batch)
        norm = extra["stats"]["classifier"].get("bn0")
        widths[asked] = params["classifier"]["fc1"]["kernel"].shape[0], norm and norm["mean"].shape
    assert widths == {False: (3 * 128, None), True: (4 * 128, (4 * 128,))}


def test_batches_before_and_after_the_task(folder):
    """Fails if the step is compiled for other shapes than the data have."""
    shapes = batch_shapes(build(config_of("shuffle", folder), devices=jax.devices()[:1]))
    assert shapes["views"].shape == (4, 3, 8, 8, 3)
    assert shapes["target"].shape == (4, 1)
    shapes = batch_shapes(build(config_of("avc", folder), devices=jax.devices()[:1]))
    assert shapes["views"].shape == (4, 1, 8, 8, 3)
    assert shapes["spectrogram"].shape == (4, 1, 17, 5, 1)
