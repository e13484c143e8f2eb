"""The training of a detector, which goes on where it was stopped, and what it finds afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from byol_jax import log
from byol_jax.data.boxes import Boxed, Boxes, decoded
from byol_jax.data.order import epoch_permutation, generator
from byol_jax.data.source import MAX_BYTES
from byol_jax.detect.model import Network, libraries, set_training
from byol_jax.evals.detection import Found
from byol_jax.faults import TrainingError
from byol_jax.untrusted import one_error, parse_json, read_bytes
from byol_jax.writing import to_json, write_bytes

_FLIPS, _TORCH = 11, 12  # what numbers of the generator are for
WARM_FROM = 1e-3  # of the learning rate, at the first step
DROPS = (18, 22, 24)  # of 24 thousand steps: MoCo's schedule


@dataclasses.dataclass(frozen=True)
class Training:
    """How a detector is trained.

    steps: of SGD with momentum 0.9. batch: images per step. lr: learning rate, for this batch; it
    rises over `warmup` steps and falls tenfold at 3/4 and at 11/12 of the steps. decay: of weights.
    seed: of the new layers, the order, the flips and what torchvision draws. save_every: steps.
    device: torch's name.
    """

    steps: int
    batch: int
    lr: float
    warmup: int
    decay: float
    seed: int
    save_every: int
    device: str


def learning_rate(step: int, plan: Training) -> float:
    """The learning rate of a step, counted from 0."""
    warm = min(1.0, step / plan.warmup) if plan.warmup else 1.0
    drops = sum(step * DROPS[-1] >= drop * plan.steps for drop in DROPS[:-1])
    return plan.lr * (WARM_FROM + (1 - WARM_FROM) * warm) * 0.1**drops


def batch_of(step: int, plan: Training, images: int) -> tuple[np.ndarray, np.ndarray]:
    """(indices [B], whether they are mirrored [B]) of a step: a function of seed and step alone."""
    positions = step * plan.batch + np.arange(plan.batch)
    epochs, places = np.divmod(positions, images)
    orders = {e: epoch_permutation(plan.seed, e, images) for e in np.unique(epochs).tolist()}
    indices = np.array([orders[e][p] for e, p in zip(epochs.tolist(), places, strict=True)])
    return indices, generator(plan.seed, step, _FLIPS).random(plan.batch) < 0.5


def with_objects(part: Boxed) -> tuple[Boxed, int]:
    """The images of a part that have objects, and how many have none.

    Reference: detectron2 trains on the former alone (FILTER_EMPTY_ANNOTATIONS).
    """
    kept = [i for i, b in enumerate(part.boxes) if len(b.labels)]
    taken = Boxed(
        tuple(part.files[i] for i in kept),
        tuple(part.boxes[i] for i in kept),
        tuple(part.digests[i] for i in kept),
        part.empty,
        part.damaged,
    )
    return taken, part.num_examples - len(kept)


def _example(part: Boxed, index: int, mirror: bool) -> tuple[np.ndarray, Boxes]:
    """An image, uint8 [H, W, 3], and its boxes."""
    image = decoded(read_bytes(part.files[index], MAX_BYTES))
    return mirrored(image, part.boxes[index]) if mirror else (image, part.boxes[index])


def mirrored(image: np.ndarray, boxes: Boxes) -> tuple[np.ndarray, Boxes]:
    """An image [H, W, C] and its boxes with left and right exchanged."""
    left, top, right, bottom = boxes.boxes.T
    width = image.shape[1]
    turned = np.stack([width - right, top, width - left, bottom], 1)
    return image[:, ::-1], boxes._replace(boxes=turned)


def _batches(part: Boxed, plan: Training, start: int) -> Iterator[list[tuple[np.ndarray, Boxes]]]:
    """Batches from a step on; the next one is decoded while one is trained on."""

    def make(step: int) -> list[tuple[np.ndarray, Boxes]]:
        drawn = zip(*batch_of(step, plan, part.num_examples), strict=True)
        return [_example(part, int(i), bool(m)) for i, m in drawn]

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(make, start)
        for step in range(start, plan.steps):
            batch = ahead.result()
            if step + 1 < plan.steps:
                ahead = pool.submit(make, step + 1)
            yield batch


def train_detector(
    model: Any, part: Boxed, network: Network, plan: Training, place: Path, settings: dict[str, Any]
) -> list[tuple[int, float]]:
    """Train a detector, from the beginning or from where it was stopped.

    Args:
      model: of `model.detector`; changed in place.
      part: with objects in each image.
      network: what the model was made with.
      plan: how to train.
      place: of the file that keeps its state.
      settings: what the result depends on; another one's state is refused.

    Returns:
      (step, mean loss since the one before) of about twenty steps, the last included.

    Raises:
      ValueError: the state is of other settings, or damaged.
      TrainingError: the loss is not finite.
    """
    torch, _ = libraries()
    model.to(plan.device)
    names = {p: n for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(list(names), lr=plan.lr, momentum=0.9, weight_decay=plan.decay)
    step, curve, total, count = _restored(model, optimizer, names, place, settings)
    if step:
        log.say(f"resumed from step {step}")
    every = max(1, plan.steps // 20)
    set_training(model, network)
    for batch in _batches(part, plan, step):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, plan)
        # A seed per step: what is drawn does not depend on where the training was stopped.
        torch.manual_seed(int(generator(plan.seed, step, _TORCH).integers(2**63)))
        images = [_tensor(image, plan.device) for image, _ in batch]
        losses = model(images, [_target(boxes, plan.device) for _, boxes in batch])
        loss = sum(losses.values())
        value = loss.item()
        if not np.isfinite(value):
            parts = ", ".join(f"{k} {v.item():g}" for k, v in losses.items())
            raise TrainingError(
                f"The loss of step {step + 1} is not finite ({parts}); lower --lr, which is "
                f"{plan.lr:g}, or raise --warmup, which is {plan.warmup}."
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step, total, count = step + 1, total + value, count + 1
        if step % every == 0 or step == plan.steps:
            curve.append((step, total / count))
            log.say(f"step {step:,}/{plan.steps:,}  loss {total / count:.4f}")
            total, count = 0.0, 0
        if step % plan.save_every == 0 or step == plan.steps:
            progress = {"step": step, "curve": curve, "total": total, "count": count}
            _save(model, optimizer, names, place, {"settings": settings, **progress})
    return curve


def _tensor(image: np.ndarray, device: str) -> Any:
    torch, _ = libraries()
    pixels = torch.from_numpy(np.array(image)).to(device)
    return pixels.permute(2, 0, 1).float() / 255


def _target(boxes: Boxes, device: str) -> dict[str, Any]:
    torch, _ = libraries()
    return {
        "boxes": torch.from_numpy(boxes.boxes.astype(np.float32)).to(device),
        "labels": torch.from_numpy(boxes.labels + 1).to(device),  # 0 is the background
    }


def find(model: Any, part: Boxed, device: str) -> list[Found]:
    """What a detector finds in each image of a part, images one by one.

    Returns:
      Boxes in px of the stored image, at most 100 in each, of scores above 0.05.
    """
    torch, _ = libraries()
    model.to(device).eval()
    out = []
    with torch.no_grad():
        for index in range(part.num_examples):
            image, _ = _example(part, index, False)
            found = model([_tensor(image, device)])[0]
            boxes, labels, scores = (found[k].cpu().numpy() for k in ("boxes", "labels", "scores"))
            out.append(Found(boxes.astype(np.float64), labels - 1, scores.astype(np.float64)))
    return out


# The state: tensors under names, and JSON. Nothing is pickled.


def _save(
    model: Any, optimizer: Any, names: dict[Any, str], place: Path, progress: dict[str, Any]
) -> None:
    from safetensors.torch import save

    momentum = {
        f"momentum/{name}": optimizer.state[p]["momentum_buffer"]
        for p, name in names.items()
        if "momentum_buffer" in optimizer.state[p]
    }
    tensors = {f"model/{k}": v for k, v in model.state_dict().items()} | momentum
    host = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    write_bytes(place, save(host, metadata={"progress": to_json(progress)}))


def _restored(
    model: Any, optimizer: Any, names: dict[Any, str], place: Path, settings: dict[str, Any]
) -> tuple[int, list[tuple[int, float]], float, int]:
    """(step, curve, sum of the losses since its last point, their number) of a saved state, put
    into the model and the optimizer; (0, [], 0, 0) if there is none.
    """
    if not place.is_file():
        return 0, [], 0.0, 0
    damaged = f"{place} is damaged ({{}}); remove it to begin again."
    with one_error(damaged):
        with safetensors.safe_open(place, "pt") as file:
            progress = parse_json(file.metadata()["progress"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        theirs = progress["settings"]
    different = [k for k in settings if to_json(settings[k]) != to_json(theirs.get(k))]
    if different:
        shown = "; ".join(f"{k} is {settings[k]!r}, was {theirs.get(k)!r}" for k in different)
        raise ValueError(
            f"{place} was begun with other settings ({shown}); give them again, or another --out, "
            "or remove the file."
        )
    with one_error(damaged):
        state = {k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")}
        model.load_state_dict(state)
        for p, name in names.items():
            if f"momentum/{name}" in tensors:
                buffer = tensors[f"momentum/{name}"].to(p.device)
                optimizer.state[p]["momentum_buffer"] = buffer
        curve = [(int(s), float(v)) for s, v in progress["curve"]]
        return int(progress["step"]), curve, float(progress["total"]), int(progress["count"])
