"""Whether a run is healthy, from its metrics alone, in words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from byol_jax.events import Event
from byol_jax.report.record import Record

RECENT = 5
"""Rows at the end of metrics.jsonl of which the median counts: one batch decides nothing."""

SPREAD = 0.1
"""`features/z_std` below which all images look alike: the default of `collapse.threshold`."""

SPREAD_OF_H = 0.01
"""The same of `features/h_std`, for methods without projections. The features of an untrained
network are close together without being collapsed: 0.05 was seen in a masked autoencoder on digits
whose kNN rose."""

RANK = 2.0
"""Effective rank of z below which the embeddings lie on about one line. A participation ratio of 1
is a line (Jing et al. 2022 call it dimensional collapse)."""

EXPLODED = 1000.0
"""The loss is called diverged above so many times its value at the start. Losses of contrastive
methods may rise as a queue fills, from about 0.05 to ln(65,537) = 11, a factor of 220."""

SIGMAS = 2.0
"""Standard errors by which a kNN accuracy must be above that of the untrained encoder."""

HEALTHY, UNJUDGED = "healthy", "no sign of trouble, not yet judged"
COLLAPSED, DIVERGED = "collapsed", "diverged"
NOT_BETTER = "not yet better than the untrained encoder"
NOTHING = "nothing to judge yet"


class Comparison(NamedTuple):
    """An accuracy beside that of the untrained encoder, in percent, on `images` test images."""

    top1: float
    untrained: float
    images: int
    by: str
    train_images: int = 0

    @property
    def margin(self) -> float:
        """Percentage points of difference that chance explains: `SIGMAS` standard errors."""
        shares = [min(max(x / 100, 0.0), 1.0) for x in (self.top1, self.untrained)]
        return 100 * SIGMAS * math.sqrt(sum(p * (1 - p) for p in shares) / max(self.images, 1))


class Verdict(NamedTuple):
    """The verdict in words, and the figures that it follows from, one sentence each."""

    word: str
    reasons: list[str]


def recent(rows: Sequence[dict[str, Any]], key: str) -> float | None:
    """The median of a metric over the last `RECENT` rows that have it; None if none has."""
    values = _finite(rows, key)[-RECENT:]
    return statistics.median(values) if values else None


def _finite(rows: Sequence[dict[str, Any]], key: str) -> list[float]:
    values = [row.get(key) for row in rows]
    return [v for v in values if isinstance(v, int | float) and math.isfinite(v)]


def comparison(results: dict[str, dict[str, Any]]) -> Comparison | None:
    """The trained and the untrained accuracy of a protocol on frozen features, kNN first.

    Args:
      results: by protocol. Those without both figures, and the number of test images, do not count.
    """
    for protocol in ("knn", "transfer", "linear", "fewshot", "retrieval", "lowshot", "stages"):
        found = results.get(protocol, {})
        figures = [found.get(k) for k in ("top1", "untrained_top1", "test_images")]
        if all(isinstance(v, int | float) for v in figures):
            top1, untrained, images = (float(v) for v in figures if v is not None)
            train = found.get("train_images")
            by, train = f"eval/{protocol}.json", train if isinstance(train, int) else 0
            return Comparison(top1, untrained, int(images), by, train)
    return None


def judge(record: Record, compared: Comparison | None = None) -> Verdict:
    """Tell a collapsed or diverged run from a good one.

    Args:
      record: of the run.
      compared: the figures of the encoder and of an untrained one, for a run without a result of a
        protocol; None: not known.

    Returns:
      The first that holds: diverged, collapsed, nothing to judge, not yet better than the untrained
      encoder, no sign of trouble (no comparison is known), healthy.
    """
    rows = record.rows
    compared = comparison(record.results) or compared
    said, better = _compared(compared)
    diverged, collapsed = _diverged(rows, record.events), _collapsed(record, better)
    figures = [s for s in (_loss(rows), said) if s]
    if diverged:
        return Verdict(DIVERGED, [*diverged, *figures])
    if collapsed:
        return Verdict(COLLAPSED, [*collapsed, *figures])
    if not rows:
        return Verdict(NOTHING, ["metrics.jsonl has no row yet.", *figures])
    sound = [*_sound(rows), *figures]
    if compared is None:
        how = "run `python -m byol_jax.evaluate --protocol knn` to compare it with an untrained one"
        return Verdict(UNJUDGED, [*sound, f"Whether the encoder is any good is not known: {how}."])
    return Verdict(HEALTHY if better else NOT_BETTER, sound)


def _diverged(rows: Sequence[dict[str, Any]], events: Sequence[Event]) -> list[str]:
    """Why the run has diverged; a rollback after which it went on does not count."""
    reasons = []
    for event in events:
        if event["event"] == "diverged" and "COLLAPSE" not in str(event.get("what")):
            reasons = [f"It was stopped: {event.get('what')}"]
        elif event["event"] in ("rollback", "start", "end"):
            reasons = []
    last = rows[-1] if rows else {}
    reasons += [
        f"{key} is not finite at step {last['step']:,}."
        for key in ("train/loss", "train/grad_norm")
        if key in last and last[key] is None
    ]
    losses, now = _finite(rows, "train/loss"), recent(rows, "train/loss")
    if now is not None and abs(now) > EXPLODED * max(abs(losses[0]), 0.01):
        reasons.append(f"The loss has grown from {losses[0]:.4g} to {now:.4g}.")
    return reasons


def _collapsed(record: Record, better: bool) -> list[str]:
    """Why the embeddings have collapsed.

    The projections count if there are any: the features of an untrained network are all positive
    and close together without being collapsed. Few dimensions alone are no collapse while the
    encoder is better than an untrained one: a method that uses labels needs one fewer than classes.
    """
    last = record.events[-1] if record.events else {}
    reasons = [str(e.get("what")) for e in (last,) if "COLLAPSE" in str(e.get("what"))]
    name = "z" if recent(record.rows, "features/z_std") is not None else "h"
    std, rank = (recent(record.rows, f"features/{k}") for k in (f"{name}_std", "z_rank"))
    limit = record.config.get("collapse.threshold")
    limit = limit if isinstance(limit, float) and limit > 0 else SPREAD
    limit = limit if name == "z" else SPREAD_OF_H
    if std is not None and std < limit:
        reasons.append(
            f"The spread of {name} is {std:.3f}, below {limit:g}: 1 is uniform on the sphere, 0 is "
            f"the same {name} for every image."
        )
    if rank is not None and rank < RANK and (reasons or not better):
        reasons.append(
            f"The effective rank of z is {rank:.2f}, below {RANK:g}: the embeddings lie on a line."
        )
    return reasons


def _sound(rows: Sequence[dict[str, Any]]) -> list[str]:
    names = {
        "z_std": "The spread of z is {:.3f} (1 is uniform on the sphere, 0 is collapsed).",
        "h_std": "The spread of h is {:.3f}.",
        "z_rank": "The effective rank of z is {:.1f}.",
    }
    found = {text: recent(rows, f"features/{name}") for name, text in names.items()}
    return [text.format(value) for text, value in found.items() if value is not None]


def _loss(rows: Sequence[dict[str, Any]]) -> str:
    """What the loss did; no verdict, because healthy losses may rise (docs/methods.md)."""
    losses = _finite(rows, "train/loss")
    if len(losses) < 2:
        return ""
    return f"The loss went from {losses[0]:.4g} to {statistics.median(losses[-RECENT:]):.4g}."


def _compared(found: Comparison | None) -> tuple[str, bool]:
    if found is None:
        return "", False
    gain = found.top1 - found.untrained
    better = gain > found.margin
    how = "above" if gain >= 0 else "below"
    chance = "more" if abs(gain) > found.margin else "no more"
    return (
        f"Top-1 is {found.top1:.1f}%, {abs(gain):.1f} points {how} the untrained encoder's "
        f"{found.untrained:.1f}% ({found.by}, {found.images:,} test images): {chance} than chance "
        f"explains ({found.margin:.1f} points, {SIGMAS:g} standard errors)."
    ), better
