"""Detection as a protocol: a detector on an encoder of ours, beside one on an untrained encoder."""

from __future__ import annotations

import dataclasses
import hashlib
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import byol_jax
from byol_jax import log
from byol_jax.convert.info import EncoderInfo
from byol_jax.convert.load import read_encoder
from byol_jax.convert.timm import to_state_dict
from byol_jax.data.boxes import BoxData, Boxed, decoded, open_boxes, same_images
from byol_jax.data.source import MAX_BYTES, counted, shown
from byol_jax.detect.model import NORMS, Network, check_encoder, detector, libraries
from byol_jax.detect.picture import SHOWN, draw_found
from byol_jax.detect.training import Training, find, train_detector, with_objects
from byol_jax.evals.detection import Found, scores
from byol_jax.faults import TrainingError
from byol_jax.models import make_encoder
from byol_jax.untrusted import read_bytes
from byol_jax.writing import check_writable, write_json

UNTRAINED = "untrained encoder"
INITS = {"both": ("none", "encoder"), "encoder": ("encoder",), "none": ("none",)}


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a detection is asked for.

    encoder: folder of an export. data: folders. out: folder of the result. init: one of `INITS`,
    what the detectors start from. test_share, split_seed, max_damaged: see `open_boxes` and
    `_check_damage`. network, training: see there.
    """

    encoder: str
    data: tuple[str, ...]
    out: str
    init: str
    test_share: float
    split_seed: int
    max_damaged: float
    network: Network
    training: Training


def check(asked: Asked) -> None:
    """Refuse what cannot be, before anything is read.

    Raises:
      ValueError: names the option, its value and what was expected.
    """
    n, t = asked.network, asked.training
    for option, chosen, choices in (("init", asked.init, INITS), ("bn", n.bn, NORMS)):
        if chosen not in choices:
            raise ValueError(f"--{option} is {chosen!r}; expected {' or '.join(choices)}.")
    for name in ("encoder", "out"):
        if not getattr(asked, name):
            raise ValueError(f"--{name} is missing; give a folder.")
    if not asked.data or not all(asked.data):
        raise ValueError("--data is missing; give the folder of a data set with boxes.")
    bounds: dict[str, tuple[float, float, float | None]] = {
        "steps": (t.steps, 1, None),
        "batch": (t.batch, 1, None),
        "save_every": (t.save_every, 1, None),
        "warmup": (t.warmup, 0, None),
        "seed": (t.seed, 0, 2**32),
        "split_seed": (asked.split_seed, 0, 2**32),
        "freeze": (n.freeze, 0, 5),
        "anchor": (n.anchor, 1, None),
        "rois": (n.rois, 1, None),
        "proposals": (n.proposals, 1, None),
        "lr": (t.lr, 0, None),
        "decay": (t.decay, 0, None),
        "max_damaged": (asked.max_damaged, 0, 1),
    }
    for name, (value, low, high) in bounds.items():
        above = f" to {high}" if high is not None else " or more"
        if not np.isfinite(value) or value < low or (high is not None and value > high):
            raise ValueError(f"--{name} is {value:g}; expected {low}{above}.")
    if not n.sides or min(n.sides) < 32 or max(n.sides) > n.longest:
        raise ValueError(
            f"--sides is {','.join(map(str, n.sides))}; expected sides of 32 px to --longest, "
            f"which is {n.longest}."
        )


def detect(asked: Asked) -> dict[str, Any]:
    """Train a detector on an encoder and on an untrained one; writes detect.json and detect.png.

    Args:
      asked: what to do.

    Returns:
      What was written: figures in percent by what the backbone started from (`rows`), by class,
      and what they were measured on.

    Raises:
      ValueError: an option, the export or the data set is wrong; before anything is trained.
      ImportError: torch and torchvision are not there.
      TrainingError: too many images cannot be read, or the loss is not finite.
    """
    check(asked)
    libraries()
    device = _device(asked.training.device)
    asked = dataclasses.replace(asked, training=dataclasses.replace(asked.training, device=device))
    _, params, stats, info = read_encoder(Path(asked.encoder))
    check_encoder(info)
    state = to_state_dict(params, stats, info.encoder)
    folder = Path(asked.out).expanduser()
    check_writable(folder / "detect.json", "--out")
    with log.busy("opening the data"):
        folders = [str(Path(f).expanduser()) for f in asked.data]
        data = open_boxes(folders, asked.test_share, asked.split_seed)
    _check_damage(data, asked.max_damaged)
    _say(data)
    settings = _settings(asked, state)
    method = info.method or "encoder"
    judged: dict[str, _Judged] = {}
    for init in INITS[asked.init]:
        name = method if init == "encoder" else UNTRAINED
        log.say(f"{name}:")
        start = state if init == "encoder" else _untrained(info.encoder, asked)
        judged[name] = _judge(asked, info, start, data, folder / f"{init}.safetensors", settings)
    result = {
        "protocol": "detect",
        "method": method,
        "step": info.step,
        "data": ", ".join(Path(f).name for f in folders),
        **_counts(data),
        **_figures(judged, method, data.classes),
        "settings": settings,
        "versions": _versions(),
    }
    _draw(folder / "detect.png", data, {name: j.found for name, j in judged.items()})
    write_json(folder / "detect.json", result)
    for init in INITS[asked.init]:
        (folder / f"{init}.safetensors").unlink(missing_ok=True)
    return result


class _Judged(NamedTuple):
    """What a detector found, its figures by class [K], its loss curve, and how long it took."""

    found: list[Found]
    figures: dict[str, np.ndarray]
    curve: list[tuple[int, float]]
    seconds: float


def _judge(
    asked: Asked,
    info: EncoderInfo,
    start: Mapping[str, np.ndarray],
    data: BoxData,
    place: Path,
    settings: dict[str, Any],
) -> _Judged:
    """Train a detector from given weights of the backbone, and test it."""
    torch, _ = libraries()
    begun = time.monotonic()
    torch.manual_seed(asked.training.seed)  # the same new layers whatever the backbone
    model = detector(info, start, len(data.classes), asked.network)
    train, _ = with_objects(data.train)
    curve = train_detector(model, train, asked.network, asked.training, place, settings)
    with log.busy(f"finding objects in {counted(data.test.num_examples, 'test image')}"):
        found = find(model, data.test, asked.training.device)
    figures = scores(found, data.test.boxes, len(data.classes))
    return _Judged(found, figures, curve, time.monotonic() - begun)


def _counts(data: BoxData) -> dict[str, Any]:
    """What was trained and tested on, and what was left out."""
    train, without = with_objects(data.train)
    return {
        "damaged": len(data.train.damaged) + len(data.test.damaged),
        "split": data.split,
        "train_images": train.num_examples,
        "train_images_without_objects": without,
        "test_images": data.test.num_examples,
        "train_boxes": train.num_boxes,
        "test_boxes": data.test.num_boxes,
        "test_difficult": sum(int(b.difficult.sum()) for b in data.test.boxes),
        "empty_boxes": data.train.empty + data.test.empty,
        "same_images": len(same_images(data)),
    }


def _figures(judged: Mapping[str, _Judged], method: str, classes: Sequence[str]) -> dict[str, Any]:
    """The figures in percent: means over the classes that occur, and by class."""
    rows = {
        name: {k: float(np.nanmean(v)) for k, v in j.figures.items()} for name, j in judged.items()
    }
    by_class = {
        name: {
            c: {k: None if np.isnan(v[i]) else float(v[i]) for k, v in j.figures.items()}
            for i, c in enumerate(classes)
        }
        for name, j in judged.items()
    }
    return {
        "classes": list(classes),
        **_tops(rows, method),
        "rows": rows,
        "by_class": by_class,
        "loss": {name: [[step, loss] for step, loss in j.curve] for name, j in judged.items()},
        "time/seconds": {name: j.seconds for name, j in judged.items()},
    }


def _versions() -> dict[str, str]:
    torch, torchvision = libraries()
    return {
        "byol_jax": byol_jax.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _tops(rows: Mapping[str, Mapping[str, float]], method: str) -> dict[str, float]:
    """The figures to begin with: of the encoder, and of the untrained one."""
    names = {"": method, "untrained_": UNTRAINED}
    shown_in = ("ap50", "ap75", "ap")
    return {p + k: rows[name][k] for p, name in names.items() if name in rows for k in shown_in}


def _device(name: str) -> str:
    torch, _ = libraries()
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as e:  # torch without CUDA asserts that it has it
        raise ValueError(f"--device is {name!r}, which torch cannot use; give auto or cpu.") from e
    return name


def _untrained(config: Mapping[str, Any], asked: Asked) -> dict[str, np.ndarray]:
    """The weights of the same encoder before training, drawn from the seed."""
    # NOTE: branches whose last scale starts at 0 would stay off for good where norms are frozen.
    changed = {**config, "zero_init_last": False} if asked.network.bn == "frozen" else config
    encoder = make_encoder(**changed)
    image = jax.ShapeDtypeStruct((1, 1, 64, 64, encoder.channels), np.float32)
    draw = jax.jit(lambda key: encoder.init(key, image))
    params, stats = jax.tree.map(np.asarray, draw(jax.random.key(asked.training.seed)))
    return to_state_dict(params, stats, encoder.config)


def _settings(asked: Asked, state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """All that the result depends on, as plain JSON."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + state[name].tobytes())
    training = dataclasses.asdict(asked.training)
    del training["save_every"]
    return {
        "encoder_sha256": digest.hexdigest(),
        "data": [Path(f).name for f in asked.data],
        "test_share": asked.test_share,
        "split_seed": asked.split_seed,
        **dataclasses.asdict(asked.network),
        "sides": list(asked.network.sides),
        **training,
    }


def _check_damage(data: BoxData, share: float) -> None:
    for what, part in (("training", data.train), ("test", data.test)):
        bad, count = part.damaged, part.num_examples + len(part.damaged)
        for name, why in bad[:20]:
            log.say(f"WARNING: {shown(name)} is left out: {why}")
        if len(bad) > share * count:
            raise TrainingError(
                f"{len(bad)} of {counted(count, f'{what} image')} cannot be read, more than "
                f"--max_damaged={share:g} allows; the first is {shown(bad[0][0])} ({bad[0][1]})."
            )


def _say(data: BoxData) -> None:
    def part(p: Boxed) -> str:
        return f"{counted(p.num_examples, 'image')} with {counted(p.num_boxes, 'object')}"

    names = ", ".join(data.classes[:20]) + (" ..." if len(data.classes) > 20 else "")
    log.say(f"training: {part(data.train)}; test: {part(data.test)} ({data.split})")
    log.say(f"{counted(len(data.classes), 'class', 'classes')}: {shown(names)}")
    _, without = with_objects(data.train)
    if without:
        log.say(f"{counted(without, 'training image')} without objects left out")
    empty = data.train.empty + data.test.empty
    if empty:
        log.say(f"{counted(empty, 'object')} whose box has no area left out")
    same = same_images(data)
    if same:
        log.say(
            f"WARNING: {counted(len(same), 'test image')} are training images too, the first of "
            f"them {shown(same[0])}"
        )


def _draw(path: Path, data: BoxData, found: Mapping[str, Sequence[Found]]) -> None:
    """Draw some images from all over the test part."""
    count = data.test.num_examples
    chosen = sorted({i * count // SHOWN for i in range(SHOWN)})
    images = [decoded(read_bytes(data.test.files[i], MAX_BYTES)) for i in chosen]
    truth = [data.test.boxes[i] for i in chosen]
    by_name = {name: [of[i] for i in chosen] for name, of in found.items()}
    try:
        draw_found(path, images, truth, by_name, data.classes)
        log.say(f"picture: {path}")
    except OSError as e:  # the figures are worth more than the picture
        log.say(f"WARNING: {path} could not be written ({e.strerror or e})")


def table(result: Mapping[str, Any]) -> str:
    """The result as a table in plain text, in percent."""
    names = {"ap50": "AP50", "ap75": "AP75", "ap": "AP"}
    columns = {**names, **{f"voc_{k}": f"VOC {v}" for k, v in names.items()}}
    width = max(20, *(len(name) + 1 for name in result["rows"]))
    lines = ["detect".ljust(width) + "".join(c.rjust(11) for c in columns.values())]
    for name, row in result["rows"].items():
        lines.append(name.ljust(width) + "".join(f"{row[c]:11.1f}" for c in columns))
    return "\n".join(lines)
