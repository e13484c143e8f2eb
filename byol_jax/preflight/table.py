"""The figures as text: one topology, several side by side, or one that does not fit."""

from __future__ import annotations

from typing import Any


def report(f: dict[str, Any]) -> str:
    """The figures of one topology as a table.

    Args:
      f: from `model.figures`.
    """
    rows = [("memory, all", f"{f['hbm_gib']:.3f} GiB of {f['hbm_limit_gib']:.2f}")]
    rows += [(f"  {k}", f"{v:.3f} GiB") for k, v in f["memory_gib"].items() if abs(v) >= 5e-4]
    if f["tflop"] is not None:
        rows += [("arithmetic", f"{f['tflop']:.3f} TFLOP"), ("moved", f"{f['gb_moved']:.3f} GB")]
        for kind, c in f["collectives"].items():
            rows.append((f"{kind}, {c['count']:.0f}", f"{c['mb']:.1f} MB, {c['ms']:.2f} ms"))
        rows += _times(f)
    title = f"{f['step']}, batch {f['batch']} on {f['topology']}"
    where = f"{f['devices']} x {f['device']}, {f['hosts']} host{'s' * (f['hosts'] > 1)}"
    lines = [title, f"{where}: {verdict(f)}", "MODELLED, not measured; per device:"]
    if f["stand_in"]:
        lines.insert(2, f"STAND-IN: {f['stand_in']}.")
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join([*lines, *(f"  {name:<{width}}{value}" for name, value in rows)])


def verdict(f: dict[str, Any]) -> str:
    """Whether it fits, in words."""
    gap = f["hbm_limit_gib"] - f["hbm_gib"]
    return f"fits, {gap:.2f} GiB left" if f["fits"] else f"DOES NOT FIT, {-gap:.2f} GiB too much"


def _times(f: dict[str, Any]) -> list[tuple[str, str]]:
    labels = {
        "compiler": "the compiler's optimal time",
        "schedule": "the scheduler's cycles",
        "roofline": "roofline",
        "network": "network, added to each",
    }
    rows = [
        (f"step: {labels[k]}", "not given" if v is None else f"{v:.2f} ms")
        for k, v in f["ms"].items()
    ]
    if f["modelled_ms"] is None:
        return [*rows, ("step, modelled", "unknown: no figures for this device")]
    feed = f"{f['pairs_per_s_host']:,.0f}"
    if f["data"] == "resident":
        feed += ", 4 bytes each: the images are on the device"
    return [
        *rows,
        ("step, modelled", f"{f['modelled_ms']:.2f} ms"),
        ("share of peak, modelled", f"{f['share_of_peak']:.1%}"),
        ("pairs/s, all devices", f"{f['pairs_per_s']:,.0f}"),
        ("pairs/s that each host must feed", feed),
        ("steps of the run", f"{f['steps']:,}"),
        ("hours of the run, modelled", f"{f['hours']:,.2f}"),
        ("device-hours, modelled", f"{f['device_hours']:,.0f}"),
    ]


def comparison(found: list[dict[str, Any]]) -> str:
    """Several topologies side by side, one per line.

    Args:
      found: figures of each.
    """
    heads: tuple[str, ...] = ("topology", "devices", "fits", "GiB", "of", "TFLOP", "GB")
    heads += ("network ms", "step ms", "of peak", "pairs/s per host", "hours", "device-h")
    keys = ("tflop", "gb_moved")
    lines = [heads]
    for f in found:
        network = (f.get("ms") or {}).get("network")
        cells = [f["topology"], str(f["devices"]), "yes" if f["fits"] else "NO"]
        cells += [f"{f['hbm_gib']:.2f}", f"{f['hbm_limit_gib']:.2f}"]
        cells += [_cell(f[k], "{:.2f}") for k in keys]
        cells += [_cell(network, "{:.2f}"), _cell(f["modelled_ms"], "{:.2f}")]
        cells += [_cell(f.get("share_of_peak"), "{:.1%}")]
        cells += [_cell(f.get(k), "{:,.0f}") for k in ("pairs_per_s_host",)]
        cells += [_cell(f.get("hours"), "{:.2f}"), _cell(f.get("device_hours"), "{:,.0f}")]
        lines.append(tuple(cells))
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    text = ["  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in lines]
    return "\n".join(["MODELLED, not measured; memory, arithmetic, bytes per device:", *text])


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def remedies(tried: list[dict[str, Any]]) -> str:
    """What was tried for a config that does not fit, and what helps.

    Args:
      tried: from `remedies.search`.
    """
    lines = ["What the compiler says about other options:"]
    for t in tried:
        f = t["figures"]
        after = "skipped: " + t["skipped"] if f is None else verdict(f)
        if f is not None and f["fits"] and f["modelled_ms"] is not None:
            after += f", {f['modelled_ms']:.1f} ms per step (modelled)"
        lines.append(f"  {t['change']:<52} {after}")
    if not any(t["figures"] and t["figures"]["fits"] for t in tried):
        lines.append("  none of these fits; try a smaller batch_size or encoder.")
    return "\n".join(lines)
