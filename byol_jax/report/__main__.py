"""A page about one run or several: what was trained, whether it is healthy, how good it is.

python -m byol_jax.report DIR [DIR ...] [--out FOLDER] [--images 1000] [--files_only]

docs/evaluation.md says what is on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from byol_jax import cli, log
from byol_jax.experiment.embeddings import Embeddings, embeddings
from byol_jax.report import maps
from byol_jax.report.charts import Chart
from byol_jax.report.health import Comparison
from byol_jax.report.page import Page, Seen, make_page, write_page
from byol_jax.report.record import read_record
from byol_jax.run_folder import keep_compiled
from byol_jax.writing import check_writable


def report(
    workdirs: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    images: int = 1000,
    files_only: bool = False,
) -> tuple[Path, Page]:
    """Write the page of some runs; works on a run that has only begun, and while it goes on.

    Args:
      workdirs: folders of the runs.
      out: folder of the page and its pictures; None: `report` in the folder of a single run.
      images: at most so many training and test images are embedded, to look at.
      files_only: compute nothing, use the files of the runs alone.

    Returns:
      The path of the page, and the page.

    Raises:
      ValueError: a folder is no run, or there is no place for the page.
      OSError: it could not be written after all.
    """
    folders = [Path(w).expanduser() for w in workdirs]
    if not folders:
        raise ValueError("No run is named; give the folder of one: python -m byol_jax.report DIR.")
    if out is None and len(folders) > 1:
        raise ValueError(
            f"--out is missing: a page of {len(folders)} runs belongs to none of their folders; "
            "name a folder for it."
        )
    if images < 10:
        raise ValueError(f"--images is {images}; expected at least 10.")
    records = [read_record(folder) for folder in folders]
    place = folders[0] / "report" if out is None else Path(out).expanduser()
    check_writable(place / "index.html", "--out")
    for problem in (p for r in records for p in r.problems):
        log.say(f"WARNING: {problem}")
    seen = []
    for i, folder in enumerate(folders):
        number = f"{i}-" if len(folders) > 1 else ""
        seen.append(Seen() if files_only else _look(folder, number, images, place))
    page = make_page(records, seen)
    return write_page(page, place), page


def _look(folder: Path, number: str, images: int, place: Path) -> Seen:
    """What is to be seen of a run's embeddings; or why nothing is, whatever the reason."""
    keep_compiled(place)
    try:
        with log.busy(f"{folder.name}: embeddings of up to {images} images"):
            found = embeddings(folder, images)
            return _seen(found, number)
    except Exception as error:  # the page is worth showing without them
        reason = " ".join(str(error).split())[:500] or type(error).__name__
        log.say(f"WARNING: no embeddings of {folder}: {reason}")
        return Seen(notes=[f"No embeddings could be computed: {reason}"])


def _seen(found: Embeddings, number: str) -> Seen:
    names = list(found.names)
    charts: list[Chart] = [maps.maps(f"{number}maps", found.h, found.z, found.labels, names)]
    counts = maps.confusion_counts(found.labels, found.predicted, len(names))
    charts.append(maps.confusion(f"{number}confusion", counts, names))
    crops = found.crops
    charts.append(maps.crop_colours(f"{number}crops", crops.plain, crops.changed))
    before, after = (maps.overlap(maps.histograms(x)) for x in (crops.plain, crops.changed))
    judged = Comparison(
        found.top1,
        found.untrained_top1,
        len(found.labels),
        f"kNN on {found.train_images:,} training images",
        found.train_images,
    )
    notes = [
        f"Of step {found.step:,}, {len(found.labels):,} test images. kNN on {found.train_images:,} "
        f"training images: {found.top1:.1f}%, untrained encoder {found.untrained_top1:.1f}%.",
        "Two crops of an image have "
        f"{before.same:.0f}% of their histogram in common, crops of different images "
        f"{before.other:.0f}%; as trained, with colours changed, {after.same:.0f}% and "
        f"{after.other:.0f}%. Where the first is far above the second after the change, crops can "
        "be matched by their colours alone (Chen et al. 2020, figure 6).",
    ]
    return Seen(charts, [*notes, *([found.why_no_z] if found.why_no_z else [])], judged)


def main(folders: Sequence[str]) -> int:
    """The command line."""
    f = flags.FLAGS
    path, page = report(folders, f.out or None, images=f.images, files_only=f.files_only)
    for folder, verdict in zip(folders, page.verdicts, strict=True):
        print(f"{folder}: {verdict.word}")
    print(path)
    return 0


if __name__ == "__main__":
    flags.DEFINE_string("out", "", "folder of the page; report in the run folder by default")
    flags.DEFINE_integer("images", 1000, "training and test images whose embeddings are looked at")
    flags.DEFINE_bool("files_only", False, "compute nothing: use the files of the runs alone")
    flags.DEFINE_bool("debug", False, "show tracebacks and the libraries' logs")
    cli.run(main, arguments=True)
