"""The twelve sets that features are transferred to, as far as they are at hand, and others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from byol_jax import log
from byol_jax.data.contents import look_at_split
from byol_jax.data.facts import TRANSFER, TransferSet
from byol_jax.data.source import counted, shown
from byol_jax.data.voc import is_voc
from byol_jax.experiment.cache import Cache
from byol_jax.experiment.evaluation import EvalData, limited, open_eval_data
from byol_jax.experiment.frozen import UNTRAINED
from byol_jax.experiment.trained import check_trainable, train_classifiers
from byol_jax.experiment.transfer import run_transfer
from byol_jax.faults import Damage, Diverged
from byol_jax.run_folder import RunEncoder

OTHER, SEVERAL = "top1", "map11"  # figures of sets of one label per image, and of several
SCRATCH = "from scratch"
DIVERGED = "with the chosen learning rate the loss is not finite; set smaller eval.finetune_lrs"


class Suite(NamedTuple):
    """What is judged: the data of each set by its title. missing: titles, each with the reason."""

    sets: dict[str, EvalData]
    missing: dict[str, str]

    @property
    def damage(self) -> tuple[Damage, ...]:
        """The counts of images that could not be read."""
        return tuple(d for data in self.sets.values() for d in data.damage)

    def summary(self) -> str:
        """How many of the twelve there are, and how many others."""
        known = {facts.title for facts in TRANSFER.values()}
        others = len(self.sets.keys() - known)
        more = f" and {counted(others, 'other')}" if others else ""
        return f"{len(self.sets.keys() & known)} of {len(TRANSFER)} sets{more}"


def open_suite(run: RunEncoder, cache: Cache | None = None) -> Suite:
    """Open the sets that are in the folder `data.dir`; features are kept in `cache`.

    A set is a folder of class folders, DIR/NAME/train and DIR/NAME/test with NAME of `TRANSFER`, or
    prepared by tfds, DIR/TFDS_NAME/VERSION, or, of images with several labels, a folder of VOC's
    form, DIR/NAME/JPEGImages. Any further folder of these forms is one more.

    Raises:
      ValueError: the folder does not exist, has no set, or one that cannot be opened.
    """
    top = Path(run.config.data.dir).expanduser() if run.config.data.dir else None
    if top is None or not top.is_dir():
        raise ValueError(
            f"{run.config.data.dir!r} is not a folder; expected data.dir to name one that holds a "
            "folder for each data set (docs/evaluation.md)."
        )
    sets: dict[str, EvalData] = {}
    missing: dict[str, str] = {}
    for name, facts in TRANSFER.items():
        place = _place(top, name, facts)
        if place is None:
            missing[facts.title] = "not found"
        else:
            sets[facts.title] = _opened(run, *place, cache)
            _compare(facts, sets[facts.title])
    for folder in sorted(p for p in top.iterdir() if p.is_dir() and not p.name.startswith(".")):
        form = "" if folder.name in TRANSFER else _form(folder)
        if form:
            sets[shown(folder.name)] = _opened(run, form, str(folder), cache)
    if not sets:
        raise ValueError(
            f"{shown(top)} has none of the data sets {', '.join(TRANSFER)}, and no other folder "
            "with train/ and test/ in it, or of VOC's form; each set is a folder of that name."
        )
    return Suite(sets, missing)


def _form(folder: Path) -> str:
    """The data.name by which a folder is read: folder, voc, or "" if it is no data set."""
    if is_voc(folder):
        return "voc"
    return "folder" if all((folder / part).is_dir() for part in ("train", "test")) else ""


def _place(top: Path, name: str, facts: TransferSet) -> tuple[str, str] | None:
    """data.name and data.dir of a set; None if it is not there."""
    form = _form(top / name)
    if form and (form == "voc") == (facts.metric == SEVERAL):
        return form, str(top / name)
    if facts.tfds and any((top / facts.tfds).glob("*/dataset_info.json")):
        return facts.tfds, str(top)
    return None


def _opened(run: RunEncoder, name: str, folder: str, cache: Cache | None) -> EvalData:
    config = run.config.copy_and_resolve_references()
    config.data.name, config.data.dir, config.data.ids_file = name, folder, ""
    data = open_eval_data(run._replace(config=config, data={}), several=True)
    try:
        train = limited(data.train, config.eval.train_examples)
        if config.eval.suite_finetune and train.marks is None:
            check_trainable(run, train, data.mesh)
    except ValueError as e:
        raise ValueError(f"{name}, {shown(folder)}: {e}") from e
    return dataclasses.replace(data, cache=cache)


def _compare(facts: TransferSet, data: EvalData) -> None:
    """Say where a set is not of the published size."""
    found = data.train.num_examples, data.test.num_examples
    if found != (facts.train, facts.test):
        log.say(
            f"WARNING: {facts.title} has {found[0]:,} training and {found[1]:,} test images; "
            f"published: {facts.train:,} and {facts.test:,}"
        )


def run_suite(
    run: RunEncoder, suite: Suite, save: Callable[[dict[str, Any]], None] = lambda result: None
) -> dict[str, Any]:
    """`run_transfer` on each set, with the set's own figure; fine-tuning too if that is asked for.

    Args:
      run: the encoder and the config.
      suite: the sets.
      save: is given the result so far after each set but the last, without means; "to_do" names the
        other sets.

    Returns:
      "rows": by what was judged, the figure of each set, and "mean" where it has all of them.
      "sets": by title, all that was found. Where fine-tuning fails, its rows lack the set.

    Raises:
      TrainingError: more images than `data.max_damaged` cannot be read.
    """
    rows: dict[str, dict[str, float]] = {}
    details: dict[str, Any] = {}
    titles = list(suite.sets)
    for title, data in suite.sets.items():
        log.say(f"{title}:")
        details[title], figures = _run_set(run, title, data)
        log.say(f"{title}: " + ", ".join(f"{name} {x:.1f}" for name, x in figures.items()))
        for subject, figure in figures.items():
            rows.setdefault(subject, {})[title] = figure
        to_do = titles[len(details) :]
        if to_do:
            save(_result(run, suite, rows, details, to_do))
    return _result(run, suite, rows, details, [])


def _run_set(
    run: RunEncoder, title: str, data: EvalData
) -> tuple[dict[str, Any], dict[str, float]]:
    """All that is found of a set, and its own figure by what was judged."""
    facts = {f.title: f for f in TRANSFER.values()}.get(title)
    found = run_transfer(run, data)
    metric = facts.metric if facts else OTHER if data.train.marks is None else SEVERAL
    figures = {subject: row[metric] for subject, row in found["rows"].items()}
    if run.config.eval.suite_finetune and data.train.marks is None:
        log.say(f"{title}: fine-tuning")
        train = limited(data.train, run.config.eval.train_examples)
        try:
            trained = train_classifiers(run, data, train, frozen=False)
        except (Diverged, ValueError) as e:  # the other sets are not to be lost
            why = DIVERGED if isinstance(e, Diverged) else str(e)
            log.say(f"WARNING: {title} is not fine-tuned: {why}")
            found["finetune"] = {"failed": why}
        else:
            figures[f"{run.info.method}, fine-tuned"] = trained[metric]
            figures[SCRATCH] = trained[f"untrained_{metric}"]
            found["finetune"] = trained
    elif run.config.eval.suite_finetune:
        log.say(f"{title}: no fine-tuning, since its images have several labels each")
    split = look_at_split(data.train, data.test)  # when penalty and learning rate are fixed
    pairs = [list(pair) for pair in split.named]
    about = split._asdict() | {"named": pairs, "recorded": facts.split if facts else ""}
    if _is_other(about):
        log.say(f"WARNING: {title} is divided otherwise than the recorded split, or has others")
    if split.warning():
        log.say(f"WARNING: {title}: {split.warning()}")
    return {"metric": metric, "split": about, **found}, figures


def _is_other(split: Mapping[str, Any]) -> bool:
    """Whether a split is known not to be the recorded one."""
    return bool(split["sha256"]) and split["recorded"] not in ("", split["sha256"])


def _result(
    run: RunEncoder,
    suite: Suite,
    rows: dict[str, dict[str, float]],
    details: dict[str, Any],
    to_do: list[str],
) -> dict[str, Any]:
    whole = {} if to_do else {k: v for k, v in rows.items() if len(v) == len(details)}
    means = {name: sum(row.values()) / len(row) for name, row in whole.items()}
    overall = {"mean": run.info.method, "untrained_mean": UNTRAINED}
    return {
        "summary": suite.summary(),
        "missing": suite.missing,
        "to_do": to_do,
        "other_splits": [t for t, found in details.items() if _is_other(found["split"])],
        **{name: means[row] for name, row in overall.items() if row in means},
        "rows": {k: row | ({"mean": means[k]} if k in means else {}) for k, row in rows.items()},
        "sets": details,
    }
