"""Strong and weak scaling on TPU v3, modelled: compiles, tables, and docs/scaling.png.

    python -m benchmarks.scaling [--compile] [--figures benchmarks/scaling.json]

--compile compiles what is missing in the file of figures, one topology after another with
`byol_jax.preflight` (minutes for ResNet-50, up to half an hour for ResNet-200 of width 2), and adds
each to the file. Without it, only the tables are printed and the plot is drawn.

A point of weak scaling that was not compiled is derived: the program of a device depends only on
its share of the batch, except for the number of devices in its collectives, whose time is a
formula.

Strong scaling has two more columns: batch norm over groups of 64 and of 128 rows (`byol.bn_groups`)
instead of the whole batch.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from absl import app, flags
from matplotlib import pyplot as plt

from byol_jax.preflight import network
from byol_jax.preflight.hardware import KINDS, Topology, sides_of, slice_devices

ENCODERS = {
    "R50": ("resnet50 x1", {}),
    "R200x2": ("resnet200 x2", {"encoder.name": "resnet200", "encoder.width": 2.0}),
}
STRONG = ("8x8", "8x16", "16x16", "16x32", "32x32", "32x64")  # 128 to 4,096 cores
WEAK = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")  # 8 to 512 cores
BATCH = 4096  # for strong scaling
PER_CORE = {"R50": 32, "R200x2": 8}  # for weak scaling: the batch of 4,096 on 128 and 512 cores
TO_COMPILE = {"strong": STRONG, "weak": ("2x2", "16x16")}
CONFIG = "configs/byol_imagenet_r50.py:1000"
ROWS = (64, 128)  # per group for batch norm
GROUPED = {"R50": STRONG, "R200x2": ("16x16",)}  # strong scaling with groups: where compiled

Figures = dict[str, Any]


def topology_of(shape: str) -> Topology:
    """A slice of v3 as needed by the network's formula, without libtpu."""
    devices = [None] * slice_devices("v3", shape)
    return Topology(f"v3:{shape}", KINDS["v3"], devices, len(devices) // 8, sides_of("v3", shape))


def find(
    found: list[Figures], encoder: str, shape: str, batch: int, rows: int = 0
) -> Figures | None:
    """The figures of a point if it was compiled; rows: per group for batch norm, 0 for all."""
    for f in found:
        same = (f["topology"], f["batch"]) == (f"v3:{shape}", batch)
        same = same and f.get("bn_rows", 0) == rows
        if same and ENCODERS[encoder][0] in f["step"] and "remedies" not in f and not f.get("keys"):
            return f
    return None


def point(found: list[Figures], encoder: str, shape: str, batch: int) -> Figures | None:
    """The figures of a point: compiled, or derived from one with the same batch per device."""
    exact = find(found, encoder, shape, batch)
    if exact is not None:
        return exact | {"how": "compiled"}
    where = topology_of(shape)
    for f in found:
        alike = (
            f["batch_per_device"] * len(where.devices) == batch
            and f["fits"]
            and not (f.get("keys") or f.get("bn_rows"))
        )
        if alike and ENCODERS[encoder][0] in f["step"]:
            ms = 0.0
            for kind, c in f["collectives"].items():
                group = len(where.devices)
                once = network.seconds(kind, 0, group, where)
                ms += 1e3 * network.seconds(kind, 1e6 * c["mb"], group, where)
                ms += 1e3 * once * (c["count"] - 1)
            base = f["modelled_ms"] - f["ms"]["network"]
            times = {**f["ms"], "network": ms}
            rate = batch / (base + ms) * 1e3
            changed = {"ms": times, "modelled_ms": base + ms, "pairs_per_s": rate}
            return {**f, **changed, "devices": group, "topology": where.name, "how": "derived"}
    return None


def compile_missing(file: Path, found: list[Figures]) -> None:
    """Compile the points missing in the file, and add each to it."""
    wanted = [(e, s, BATCH, 0) for e in ENCODERS for s in TO_COMPILE["strong"]]
    wanted += [
        (e, s, PER_CORE[e] * slice_devices("v3", s), 0)
        for e in ENCODERS
        for s in TO_COMPILE["weak"]
    ]
    wanted += [(e, s, BATCH, rows) for e in ENCODERS for s in GROUPED[e] for rows in ROWS]
    for encoder, shape, batch, rows in wanted:
        if find(found, encoder, shape, batch, rows) is not None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "figures.json"
            command = [sys.executable, "-m", "byol_jax.preflight", "--config", CONFIG]
            command += ["--topology", f"v3:{shape}", "--json", str(out), "--tries=0"]
            keys = {"batch_size": batch, "views.placement": "device", **ENCODERS[encoder][1]}
            keys |= {"byol.bn_groups": batch // rows} if rows else {}
            command += [f"--config.{k}={v}" for k, v in keys.items()]
            subprocess.run(command, check=True)
            found.append(json.loads(out.read_text())[0] | {"keys": {}, "bn_rows": rows})
        file.write_text(json.dumps(found, indent=1) + "\n")


def table(found: list[Figures], encoder: str, kind: str) -> list[Figures]:
    """Print one table in Markdown, and return its points."""
    shapes = STRONG if kind == "strong" else WEAK
    heads: tuple[str, ...] = (
        "v3 slice",
        "cores",
        "per core",
        "GiB",
        "schedule ms",
        "network ms",
        "step ms",
    )
    heads = (*heads, "pairs/s", "efficiency", "hours of 1000 epochs", "")
    if kind == "strong":
        heads = (*heads, *(f"step ms, groups of {rows}" for rows in ROWS))
    print(f"\n{encoder}, {kind} scaling\n\n| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    points: list[Figures] = []
    for shape in shapes:
        cores = slice_devices("v3", shape)
        batch = BATCH if kind == "strong" else PER_CORE[encoder] * cores
        f = point(found, encoder, shape, batch)
        share = f"{batch / cores:g}"
        if f is None or f["modelled_ms"] is None:
            how = "not compiled" if f is None else f"does not fit: {f['hbm_gib']:.1f} GiB"
            print(f"| {shape} | {cores:,} | {share} |{' | ' * 7}| {how} |")
            continue
        points.append(f)
        first = points[0]
        rate = f["pairs_per_s"] / f["devices"]
        efficiency = rate / (first["pairs_per_s"] / first["devices"])
        hours = 1000 * (1281167 // batch) * f["modelled_ms"] / 3.6e6
        cells = [shape, f"{cores:,}", share, f"{f['hbm_gib']:.2f}"]
        cells += [f"{f['ms']['schedule']:.1f}", f"{f['ms']['network']:.1f}"]
        cells += [f"{f['modelled_ms']:.1f}", f"{f['pairs_per_s']:,.0f}", f"{efficiency:.0%}"]
        cells += [f"{hours:.1f}", f["how"]]
        if kind == "strong":
            cells += [_grouped(found, encoder, shape, batch, rows) for rows in ROWS]
        print(f"| {' | '.join(cells)} |")
    return points


def _grouped(found: list[Figures], encoder: str, shape: str, batch: int, rows: int) -> str:
    """Time of a step with batch norm over groups of `rows` rows, and the network's part."""
    f = find(found, encoder, shape, batch, rows)
    if f is None or f["modelled_ms"] is None:
        return "not compiled"
    return f"{f['modelled_ms']:.1f} ({f['ms']['network']:.1f})"


def plot(found: dict[tuple[str, str], list[Figures]], file: Path) -> None:
    """Plot strong scaling as time per step, and weak scaling as efficiency."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2))
    for i, encoder in enumerate(ENCODERS):
        colour, shape = f"C{i}", "os"[i]
        strong, weak = found[encoder, "strong"], found[encoder, "weak"]
        if strong:
            x = [f["devices"] for f in strong]
            left.plot(
                x, [f["modelled_ms"] for f in strong], f"{shape}-", color=colour, label=encoder
            )
            alone = [f["modelled_ms"] - f["ms"]["network"] for f in strong]
            left.plot(x, alone, "--", color=colour, label=f"{encoder}, without network")
            ideal = [strong[0]["modelled_ms"] * x[0] / n for n in x]
            left.plot(x, ideal, ":", color=colour, alpha=0.6, label=f"{encoder}, ideal")
        if weak:
            x = [f["devices"] for f in weak]
            share = [100 * weak[0]["modelled_ms"] / f["modelled_ms"] for f in weak]
            label = f"{encoder}, {PER_CORE[encoder]} images per core"
            right.plot(x, share, "-", color=colour, label=label)
            for n, y, f in zip(x, share, weak, strict=True):
                face = colour if f["how"] == "compiled" else "white"
                right.plot(n, y, shape, color=colour, markerfacecolor=face)
    left.set(yscale="log", ylabel="ms per step, modelled", title=f"Strong scaling, batch {BATCH:,}")
    right.set(ylim=(0, 105), ylabel="% of the rate per core on 8 cores", title="Weak scaling")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xlabel("TPU v3 cores")
        axes.xaxis.set_major_formatter(lambda n, _: f"{n:,.0f}")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="lower left")
    right.plot([], [], "o", color="grey", markerfacecolor="white", label="derived, not compiled")
    right.legend(fontsize=8, loc="lower left")
    figure.suptitle("BYOL, modelled by the TPU compiler and a formula of the network", fontsize=11)
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def main(_: list[str]) -> None:
    """The command line."""
    file = Path(flags.FLAGS.figures)
    found: list[Figures] = json.loads(file.read_text()) if file.exists() else []
    if flags.FLAGS.compile:
        compile_missing(file, found)
    points = {(e, k): table(found, e, k) for e in ENCODERS for k in ("strong", "weak")}
    plot(points, Path(flags.FLAGS.plot))


if __name__ == "__main__":
    flags.DEFINE_bool("compile", False, "compile missing figures")
    flags.DEFINE_string("figures", "benchmarks/scaling.json", "figures of preflight, added to")
    flags.DEFINE_string("plot", "docs/scaling.png", "the picture")
    app.run(main)
