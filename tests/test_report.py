"""`python -m byol_jax.report`: verdicts from figures, and a page that holds what the files hold."""

import base64
import html
import io
import json
import os
import re
import shutil
import subprocess
import time
from html.parser import HTMLParser

import fork_server
import numpy as np
import pytest
from few_digits import flags
from matplotlib.axes import Axes
from matplotlib.image import imread, imsave

from byol_jax.report import charts, health, maps, tables
from byol_jax.report.__main__ import report
from byol_jax.report.health import Comparison, judge
from byol_jax.report.record import read_record


def row(step=1, loss=1.0, std=0.9, rank=8.0, **more):
    values = {"train/loss": loss, "train/grad_norm": 1.0, "train/lr": 0.1, "features/h_std": 0.6}
    return {"step": step, **values, "features/z_std": std, "features/z_rank": rank, **more}


def write_run(folder, rows=(), events=(), config=None, **results):
    """A run folder as training leaves it."""
    (folder / "eval").mkdir(parents=True)
    values = {"method": {"name": "byol"}, "data": {"name": "digits"}, "batch_size": 8}
    (folder / "config.json").write_text(json.dumps(values | (config or {})))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    for name, result in results.items():
        (folder / "eval" / f"{name}.json").write_text(json.dumps(result))
    return folder


def event(kind, /, **more):
    return {"time": time.time(), "event": kind, **more}


GOOD = [row(step=i) for i in range(1, 7)]
KNN = {"top1": 97.0, "untrained_top1": 90.0, "test_images": 500, "method": "byol", "step": 6}
STOPPED = event("diverged", step=7, what="Step 7: train/loss is nan")
COLLAPSE = event("diverged", step=7, what="COLLAPSE at step 7: ...")


@pytest.mark.parametrize(
    ("rows", "events", "knn", "word"),
    [
        (GOOD, [], KNN, "healthy"),
        (GOOD, [], None, health.UNJUDGED),
        ([], [], None, health.NOTHING),
        # 0.1 is `collapse.threshold`: below it, not at it.
        ([row(std=0.1)], [], KNN, "healthy"),
        ([row(std=0.0999)], [], KNN, "collapsed"),
        # One batch decides nothing; three of the last five do.
        ([*GOOD, row(7, std=0.01)], [], KNN, "healthy"),
        ([*GOOD, *(row(7 + i, std=0.01) for i in range(3))], [], KNN, "collapsed"),
        # Few dimensions are no collapse while the encoder is better than an untrained one.
        ([row(rank=1.9)], [], KNN, "healthy"),
        ([row(rank=1.9)], [], None, "collapsed"),
        ([row(rank=2.0)], [], None, health.UNJUDGED),
        # By h where there is no z.
        ([{"step": 1, "features/h_std": 0.009}], [], None, "collapsed"),
        ([{"step": 1, "features/h_std": 0.05}], [], KNN, "healthy"),
        ([*GOOD, row(7, loss=None)], [], KNN, "diverged"),
        ([row(1, loss=None), *GOOD], [], KNN, "healthy"),  # it has recovered
        ([row(1), row(2, loss=1001.0), row(3, loss=1001.0)], [], KNN, "diverged"),
        ([row(1), row(2, loss=1000.0), row(3, loss=1000.0)], [], KNN, "healthy"),
        (GOOD, [event("start"), STOPPED], KNN, "diverged"),
        (GOOD, [event("start"), STOPPED, event("rollback", step=5), event("end")], KNN, "healthy"),
        (GOOD, [event("start"), COLLAPSE], KNN, "collapsed"),
        # 2 standard errors at 90% and 92.72%, 93% of 500: 3.542 and 3.512 points.
        (GOOD, [], KNN | {"top1": 93.4}, health.NOT_BETTER),
        (GOOD, [], KNN | {"top1": 93.6}, "healthy"),
        (GOOD, [], KNN | {"top1": 20.0}, health.NOT_BETTER),
    ],
)
def test_the_verdict(rows, events, knn, word, tmp_path):
    """Fails if a threshold is moved, or `<` becomes `<=`."""
    results = {} if knn is None else {"knn": knn}
    record = read_record(write_run(tmp_path / "run", rows, events, **results))
    assert judge(record).word == word


def test_the_margin_is_two_standard_errors():
    """Fails if the margin forgets one of the two accuracies.

    4 x (0.9 x 0.1 + 0.5 x 0.5) / 400 = 0.0034, whose root is 0.05831.
    """
    assert Comparison(90.0, 50.0, 400, "").margin == pytest.approx(5.8310, abs=1e-4)


def test_the_threshold_is_the_runs_own(tmp_path):
    """Fails if `collapse.threshold` of the config is not what counts."""
    own = {"collapse": {"threshold": 0.01}}
    record = read_record(write_run(tmp_path / "run", [row(std=0.05)], config=own, knn=KNN))
    assert judge(record).word == "healthy"


class Parsed(HTMLParser):
    """The texts, the tags and the images of a page."""

    def __init__(self, page):
        super().__init__()
        self.cells, self.tags, self.links, self.images, self.text = [], set(), [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        values = dict(attrs)
        self.links += [values[k] for k in ("src", "srcset", "href", "action") if k in values]
        self.images += [values] if tag == "img" else []
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data):
        self.text += data
        if self.cells and self.lasttag in ("td", "th"):
            self.cells[-1] += data


def parsed(folder):
    return Parsed((folder / "index.html").read_text())


def check_contained(folder):
    """Everything is in the page, and every image decodes; also those beside it."""
    page = parsed(folder)
    assert page.links
    assert not page.tags & {"script", "link", "iframe", "object"}
    assert "url(" not in (folder / "index.html").read_text()
    for link in page.links:
        kind, _, data = link.partition(";base64,")
        assert kind == "data:image/png"
        assert imread(io.BytesIO(base64.b64decode(data, validate=True))).size
    assert all(image["alt"] for image in page.images)
    for path in folder.glob("*.png"):
        assert imread(path).size
    assert not list(folder.glob("*.tmp*"))
    return page


STAGES = {"rows": {"untrained encoder": {"1": 71.25}, "byol": {"1": 83.75, "2": None}}}
FEWSHOT = {
    "rows": {
        "raw pixels": {"1": 64.4, "1_std": 6.6, "10": 90.94, "all": 98.2, "all_std": 0.0},
        "byol": {"1": 85.1, "1_std": 5.5, "10": 96.8, "all": 99.6, "all_std": 0.0},
    },
    "method": "byol",
}


GREYS = {colours[6] for colours in charts.COLOURS.values()}


@pytest.mark.parametrize(("names", "stages"), [((), 3), (("rotation", "byol", "untrained-x"), 5)])
def test_rows_by_stage_can_be_told_apart(names, stages, monkeypatch):
    """Fails if two rows look alike, or the numbers of many bars are written over each other."""
    drawn = {"bar": [], "plot": [], "bar_label": []}

    def spied(kind):
        real = getattr(Axes, kind)

        def spy(ax, *args, **options):
            style = args[2] if kind == "plot" else options.get("alpha")
            drawn[kind].append((options.get("color"), style, options.get("marker")))
            return real(ax, *args, **options)

        return spy

    for kind in drawn:
        monkeypatch.setattr(Axes, kind, spied(kind))
    own = ("byol", "untrained encoder")
    given = [f"{run}: {n}" for run in names for n in own] or own
    each = (*given, *(f"{n}, global mean" for n in given))
    rows = {n: {str(k): 10.0 * k for k in range(1, stages + 1)} for n in each}
    charts.stages("stages", rows)
    many = bool(names)
    looks = drawn["plot" if many else "bar"]
    assert len(looks) == 2 * len(rows)  # light and dark
    for theme in (looks[: len(rows)], looks[len(rows) :]):
        assert len(set(theme)) == len(rows)
        grey = [name for name, look in zip(rows, theme, strict=True) if look[0] in GREYS]
        assert grey == [name for name in rows if "untrained encoder" in name]
    assert len(drawn["bar" if many else "plot"]) == 0
    assert len(drawn["bar_label"]) == (0 if many else len(looks))


def test_the_page_holds_the_figures_of_the_files(tmp_path):
    """Fails if a figure is left out, rounded otherwise, or put into another run's row."""
    events = [
        event("start", step=0, total_steps=6, devices=4, kind="TPU v4", processes=2, host="h")
        | {"versions": {"jax": "9.9.9"}},
        event("end", step=6),
    ]
    last = row(7, **{"data/damaged": 13, "time/images_per_s": 4321.0})
    results = {"knn": KNN, "fewshot": FEWSHOT, "stages": STAGES}
    a = write_run(tmp_path / "a", [*GOOD, last], events, **results)
    b = write_run(tmp_path / "b", [row(std=0.02)], knn=KNN | {"top1": 21.5})
    _, page = report([a, b], tmp_path / "out", files_only=True)
    assert [v.word for v in page.verdicts] == ["healthy", "collapsed"]
    assert page.pictures.keys() >= {"curve-loss.png", "curve-spread.png", "stages.png"}
    found = check_contained(tmp_path / "out")
    cells = found.cells
    assert cells[cells.index("a: byol") :][:2] == ["a: byol", "97.0"]
    assert cells[cells.index("b: byol") :][:2] == ["b: byol", "21.5"]
    start = cells.index("a: raw pixels")
    assert cells[start - 4 : start] == ["", "1", "10", "all"]
    assert cells[start + 1 : start + 4] == ["64.4 ± 6.6", "90.9", "98.2"]
    assert {"71.2", "83.8", "13", "4,321", "4 x TPU v4", "jax 9.9.9"} <= set(cells)
    assert "nan" not in found.text.lower()


BROWSER = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
# Reads the page in a frame of a phone's width; the page itself has no scripts.
FRAME = """<iframe src="{page}" width="{width}" height="700"></iframe><pre></pre><script>
onload = () => {{
  const frame = document.querySelector("iframe"), page = frame.contentDocument;
  const images = [...page.images], style = frame.contentWindow.getComputedStyle(page.body);
  const found = {{
    across: page.documentElement.scrollWidth, wide: frame.clientWidth, images: images.length,
    broken: images.filter((i) => !i.complete || !i.naturalWidth).length,
    loaded: frame.contentWindow.performance.getEntriesByType("resource").map((r) => r.name),
    paper: style.backgroundColor, ink: style.color, headings: page.querySelectorAll("h2").length,
  }};
  document.querySelector("pre").textContent = JSON.stringify(found);
}};
</script>"""


def opened(page, folder, width, dark):
    """What a headless Chromium finds on a page."""
    frame = folder / "frame.html"
    frame.write_text(FRAME.format(page=page.as_uri(), width=width))
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/own",
            "--allow-file-access-from-files", "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--blink-settings=preferredColorScheme={int(not dark)}", "--window-size=1400,900",
            "--virtual-time-budget=20000", "--dump-dom", frame.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return json.loads(html.unescape(re.search(r"<pre>(.+?)</pre>", done.stdout).group(1)))


@pytest.mark.skipif(not BROWSER, reason="no Chromium: put one into PATH, or its path into CHROMIUM")
def test_the_page_in_a_browser(tmp_path):
    """Fails if the page is wider than a phone, a picture is broken, something is loaded from
    elsewhere, or dark and light are not what the reader asked for.
    """
    results = {"fewshot": FEWSHOT, "stages": STAGES, "knn": KNN}
    folder = write_run(tmp_path / "run", GOOD, [event("start", step=0)], **results)
    page, _ = report([folder], tmp_path / "out", files_only=True)
    for width, dark in ((360, False), (1280, True)):
        found = opened(page, tmp_path, width, dark)
        assert found["across"] <= found["wide"] == width
        assert found["images"] >= 3
        assert found["headings"] >= 3
        assert (found["broken"], found["loaded"]) == (0, [])
        ink, paper = (sum(map(int, re.findall(r"\d+", found[k])[:3])) for k in ("ink", "paper"))
        assert (ink > paper) == dark


def test_what_files_hold_is_text(tmp_path):
    """Fails if a name, a key or a figure of a file is not escaped."""
    evil = "<script>alert(1)</script>\"'&"
    a = write_run(
        tmp_path / "<b>$x$&",
        [row()],
        [event("start", kind=evil, host=evil), event("error", what=evil)],
        {"data": {"name": evil}, evil: evil},
        **{"<i>": {"rows": {evil: {evil: evil}}, "method": evil, "data": evil, "step": evil}},
    )
    _, page = report([a], files_only=True)
    assert not check_contained(a / "report").tags & {"b>$x$&", "i"}
    assert page.html.count(html.escape(evil)) >= 6
    assert "<script" not in page.html


def test_broken_files_are_named_and_skipped(tmp_path):
    """Fails if one broken file ends the report, or is passed over in silence."""
    run = write_run(tmp_path / "run", [row()], knn=KNN)
    rows = '{"step": 2, "train/loss": NaN, "train/lr": 1e999}\n[1]\n{"step": 3, "tra'
    (run / "metrics.jsonl").write_text(json.dumps(row()) + "\n" + rows)
    (run / "eval" / "fewshot.json").write_text('{"rows": {"byol": {"1": NaN}}}')
    (run / "eval" / "linear.json").write_text('{"rows": [1]}')
    (run / "eval" / "other.json").write_text("[]")
    (run / "eval" / "transfer.json").symlink_to("/etc/hostname")
    imsave(run / "views.png", np.zeros((4, 4, 3)))
    (run / "eval" / "retrieval.png").write_bytes((run / "views.png").read_bytes()[:-30])
    (run / "pictures").mkdir()
    (run / "pictures" / "5.png").write_text("<svg/>")
    (run / "pictures" / "20.png").write_bytes((run / "views.png").read_bytes())
    record = read_record(run)
    broken = ("fewshot.json", "linear.json", "other.json", "transfer.json", "retrieval.png")
    assert len(record.problems) == 6
    assert all(any(name in p for p in record.problems) for name in (*broken, "pictures/5.png"))
    report([run], files_only=True)
    page = check_contained(run / "report")
    assert all(name in page.text for name in broken)
    assert {"views.png", "pictures-20.png"} <= {p.name for p in (run / "report").glob("*.png")}
    (run / "config.json").write_text("{")
    assert any("config.json" in p for p in read_record(run).problems)


def test_a_run_that_has_just_begun(tmp_path):
    """Fails if rows, events and results are taken for granted."""
    (tmp_path / "config.json").write_text("{}")
    path, page = report([tmp_path])
    assert page.verdicts[0].word == health.NOTHING
    assert "No embeddings could be computed: " in path.read_text()
    assert "No protocol was run yet" in path.read_text()


def test_rows_of_a_result_without_rows():
    """Fails if the untrained encoder's figure is taken for the encoder's."""
    found = tables.rows_of({"top1": 2.0, "untrained_top1": 1.0, "method": "byol"})
    assert found == {"untrained encoder": {"top1": 1.0}, "byol": {"top1": 2.0}}


def test_histograms_and_confusion_by_loops():
    """Fails if a bin is off by one, rows and columns are swapped, or a pair meets itself."""
    crops = np.random.RandomState(0).rand(3, 2, 4, 4, 3)
    crops[0, 0, 0, 0] = 1.0  # belongs to the last bin
    found = maps.histograms(crops)
    expected = np.zeros((3, 2, maps.BINS))
    for i in range(3):
        for v in range(2):
            expected[i, v] = np.histogram(crops[i, v], maps.BINS, (0, 1))[0] / 48
    np.testing.assert_allclose(found, expected, atol=1e-12)
    shared = [
        [np.minimum(expected[i, 0], expected[j, 1]).sum() for j in range(3)] for i in range(3)
    ]
    same = [shared[i][i] for i in range(3)]
    other = [shared[i][j] for i in range(3) for j in range(3) if i != j]
    got = maps.overlap(found)
    assert got == pytest.approx((100 * np.mean(same), 100 * np.mean(other)))
    counts = maps.confusion_counts(np.array([0, 0, 1, -1]), np.array([0, 1, 1, 0]), 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]


def run(*args):
    env = fork_server.environment()
    return fork_server.run("-m", "byol_jax.report", *args, timeout=120, env=env)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "No run is named"),
        (("{}",), "is not a run"),
        (("{}/missing",), "is not a run"),
        (("{}", "{}"), "--out is missing"),
        (("{}", "--images=3"), "--images is 3"),
    ],
)
def test_mistakes_are_one_line(args, said, tmp_path):
    """Fails if the error is a traceback, or something is written."""
    done = run(*(a.format(tmp_path) for a in args))
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert not list(tmp_path.iterdir())


def test_the_command_on_a_real_run(tmp_path):
    """Fails if the embeddings cannot be computed from a checkpoint, or are not those of the run."""
    work = str(tmp_path / "run")
    options = ("--config.epochs=1", "--config.log_every=5", "--config.evaluate_every=1")
    trained = fork_server.run(
        *("-m", "byol_jax.train", "--config", "configs/digits.py:simclr", "--workdir", work),
        *(*flags(), *options),
        timeout=120,
        env=fork_server.environment(),
    )
    assert trained.returncode == 0, trained.stderr
    done = run(work)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "run" / "report"
    assert str(folder / "index.html") in done.stdout
    page = check_contained(folder)
    there = {p.name for p in folder.glob("*.png")}
    assert there >= {"maps.png", "confusion.png", "crops.png", "views.png", "curve-accuracy.png"}
    # The same figure as training found, on the same images, by another way.
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    own = float(re.search(r"kNN on 167 training images: ([\d.]+)%", page.text).group(1))
    assert own == pytest.approx(last["knn/test_top1"], abs=0.06)
    assert "jax" in page.text
    assert "could not be computed" not in page.text
