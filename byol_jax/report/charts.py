"""The charts of a report, each as two PNGs: for a light page and for a dark one."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from byol_jax.report.record import Record

THEMES: dict[str, dict[str, Any]] = {
    "light": {"ink": "#1f2328", "paper": "#ffffff", "grid": "#d8dee4"},
    "dark": {"ink": "#e6edf3", "paper": "#161b22", "grid": "#3d444d"},
}
# Okabe and Ito's colours, which colour-blind readers can tell apart; lighter ones on dark.
COLOURS = {
    "light": ("#0072b2", "#d55e00", "#009e73", "#b0558b", "#8a6d00", "#3a8fc0", "#555555"),
    "dark": ("#56b4e9", "#ff9d5c", "#2bc496", "#e59ac2", "#f0e442", "#9aa5ff", "#bbbbbb"),
}
MARKERS = "osD^vPX"  # of untrained encoders, which are all grey
_MOST_BARS = 12  # the numbers above more of them would overlap
STYLES: tuple[Literal["-", "--", ":"], ...] = ("-", "--", ":")


class Chart(NamedTuple):
    """One chart, as PNGs; `words` say what it shows to those who cannot see it."""

    name: str
    title: str
    words: str
    light: bytes
    dark: bytes


Draw = Callable[[Any, Sequence[str]], None]
"""(figure, colours): draws on a matplotlib figure."""


def chart(name: str, title: str, words: str, size: tuple[float, float], draw: Draw) -> Chart:
    """Draw a figure once for each theme.

    Args:
      name: of the file. title: for people. words: what it shows.
      size: width and height in inches of 110 px.
      draw: see `Draw`.
    """
    # The object interface: pyplot would keep global state and might look for a display.
    from matplotlib import rc_context, rcsetup
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = {}
    for theme, c in THEMES.items():
        ink = dict.fromkeys(
            ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.titlecolor"),
            c["ink"],
        )
        paper = dict.fromkeys(("figure.facecolor", "axes.facecolor"), c["paper"])
        rest = {"axes.edgecolor": c["grid"], "grid.color": c["grid"], "font.size": 10}
        rest |= {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
        cycle = {"axes.prop_cycle": rcsetup.cycler(color=COLOURS[theme])}
        with rc_context(ink | paper | rest | cycle):
            figure = Figure(figsize=size, layout="constrained")
            FigureCanvasAgg(figure)
            draw(figure, COLOURS[theme])
            file = io.BytesIO()
            figure.savefig(file, dpi=110, format="png")
            found[theme] = file.getvalue()
    return Chart(name, title, words, **found)


# name -> title and the metrics that are drawn, the first as a line, the others in other styles.
PANELS: dict[str, tuple[str, dict[str, str]]] = {
    "loss": ("Loss", {"train/loss": "loss"}),
    "rate": ("Learning rate", {"train/lr": "learning rate"}),
    "spread": (
        "Spread: 1 is uniform, 0 is collapsed",
        {"features/z_std": "z", "features/h_std": "h"},
    ),
    "rank": ("Effective rank of z", {"features/z_rank": "z"}),
    "accuracy": (
        "Test top-1, %",
        {
            "knn/test_top1": "kNN",
            "probe/test_top1": "linear probe",
            "classifier/test_top1": "classifier",
        },
    ),
}


def curves(
    records: Sequence[Record], untrained: Mapping[str, float], threshold: float
) -> list[Chart]:
    """The metrics of one run or several over the steps; those that no run has are left out.

    Args:
      records: the runs.
      untrained: kNN top-1 of the untrained encoder in percent, by the name of the run.
      threshold: of the spread, below which a run is collapsed.
    """
    found = []
    size = (4.6, 3.2 + 0.1 * (len(records) - 1))  # the legend of several is longer
    for name, (title, metrics) in PANELS.items():
        lines = _lines(records, metrics)
        if not any(np.isfinite(values).any() for _, _, _, values in lines):
            continue

        def draw(figure: Any, colours: Sequence[str], name: str = name, lines: Any = lines) -> None:
            ax = figure.subplots()
            for run, metric, steps, values in lines:
                one = len(records) == 1
                colour = colours[(metric if one else run) % len(colours)]
                marker = "o" if name == "accuracy" or len(steps) < 3 else None
                ax.plot(steps, values, STYLES[metric], color=colour, marker=marker, markersize=4)
            if name == "spread":
                ax.axhline(threshold, color=colours[3], linewidth=1, linestyle="-.")
                ax.set_ylim(0, max(1.1, ax.get_ylim()[1]))
            if name == "accuracy":
                _untrained(ax, records, untrained, colours)
            ax.set_xlabel("step")
            ax.grid(alpha=0.6)
            _legend(figure, records, PANELS[name][1], {m for _, m, _, _ in lines}, colours)

        what = ", ".join(label for label in metrics.values())
        words = f"{title} over the steps: {what}, of {', '.join(r.name for r in records)}"
        found.append(chart(f"curve-{name}", title, words, size, draw))
    return found


Line = tuple[int, int, list[int], np.ndarray]
"""Number of the run, number of the metric, steps, values; a value that was not finite is NaN."""


def _lines(records: Sequence[Record], metrics: Mapping[str, str]) -> list[Line]:
    lines: list[Line] = []
    for run, record in enumerate(records):
        for metric, key in enumerate(metrics):
            rows = [r for r in record.rows if key in r]
            values = [_number(r[key]) for r in rows]
            if rows:
                lines.append((run, metric, [r["step"] for r in rows], np.array(values)))
    return lines


def _number(value: Any) -> float:
    """A number that can be drawn, else NaN: axes do not take everything that is finite."""
    good = isinstance(value, int | float) and abs(value) < 1e30
    return float(value) if good else float("nan")


def _untrained(
    ax: Any, records: Sequence[Record], untrained: Mapping[str, float], colours: Sequence[str]
) -> None:
    for run, record in enumerate(records):
        if record.name in untrained:
            colour = colours[6] if len(records) == 1 else colours[run % len(colours)]
            ax.axhline(untrained[record.name], color=colour, linewidth=1, linestyle="-.")


def _legend(
    figure: Any,
    records: Sequence[Record],
    metrics: Mapping[str, str],
    there: set[int],
    colours: Sequence[str],
) -> None:
    """Names for colours and styles: of the metrics of one run, or of the runs."""
    from matplotlib.lines import Line2D

    one, names = len(records) == 1, list(metrics.values())
    handles = [
        Line2D([], [], linestyle=STYLES[m], label=names[m], color=colours[m if one else 6])
        for m in sorted(there)
        if len(metrics) > 1
    ]
    if not one:
        handles += [
            Line2D([], [], color=colours[i % len(colours)], label=plain_text(r.name))
            for i, r in enumerate(records)
        ]
    if "knn/test_top1" in metrics:
        handles.append(
            Line2D([], [], linestyle="-.", color=colours[6], label="kNN of the untrained encoder")
        )
    if "features/z_std" in metrics:
        handles.append(Line2D([], [], linestyle="-.", color=colours[3], label="collapsed below"))
    if handles:
        columns = 2 if len(records) > 1 else 3
        figure.legend(handles=handles, fontsize=8, loc="outside lower center", ncols=columns)


def plain_text(text: str) -> str:
    """A name as matplotlib prints it, without its mathematics, and not too long."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    short = text if len(text) <= 32 else text[:31] + "…"
    return short.replace("$", r"\$")


def stages(name: str, rows: Mapping[str, Mapping[str, Any]]) -> Chart:
    """Top-1 (or mAP) by stage of the encoder, beside the untrained one: bars, or lines if many."""
    labels = sorted({s for row in rows.values() for s in row}, key=lambda s: (len(s), s))
    found = {row: np.array([_number(v.get(s)) for s in labels]) for row, v in rows.items()}
    at = np.arange(len(labels))
    few = len(rows) * len(labels) <= _MOST_BARS

    def draw(figure: Any, colours: Sequence[str]) -> None:
        ax, width = figure.subplots(), 0.8 / max(len(rows), 1)
        seen = {True: 0, False: 0}
        for i, (row, values) in enumerate(found.items()):
            untrained = row.rpartition(": ")[2].startswith("untrained")  # a run may be called so
            turn, label = seen[untrained], plain_text(row)
            seen[untrained] += 1
            colour = colours[6 if untrained else turn % 6]
            if few:
                x = at + (i - (len(rows) - 1) / 2) * width
                pale = 0.6**turn if untrained else 1.0
                heights = np.nan_to_num(values)
                bars = ax.bar(x, heights, width, label=label, color=colour, alpha=pale)
                ax.bar_label(bars, fmt="%.1f", fontsize=8)
            else:
                style = STYLES[(1 + turn % 2) if untrained else turn // 6 % 3]
                marker = MARKERS[turn % len(MARKERS) if untrained else 0]
                look = {"color": colour, "marker": marker, "markersize": 4}
                ax.plot(at, values, style, label=label, **look)
        ax.set_xticks(at, [f"stage {plain_text(s)}" for s in labels])
        ax.set_ylabel("%")
        if few:
            ax.set_ylim(0, 112)
        else:
            ax.grid(alpha=0.6)
        figure.legend(fontsize=8, ncols=2, loc="outside lower center")

    title = "By stage of the encoder, %"
    height = 3.2 if few else 3.2 + 0.1 * len(rows)  # the legend of many is longer
    return chart(name, title, title, (4.6, height), draw)
