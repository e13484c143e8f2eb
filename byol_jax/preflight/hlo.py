"""Facts read from a compiled module's text: collectives, estimated cycles, missing memory."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

BYTES = {"pred": 1}  # all other names end in their number of bits
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_OPERATION = re.compile(r"\s*(?:ROOT )?%?[\w.-]+ = (.*?) ([a-z-]+)\(")
_CALLED = re.compile(r"(?:calls|body|condition|to_apply)=%?([\w.-]+)")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Collective(NamedTuple):
    """One collective of a step.

    size: bytes of the whole array, without the padding of its layout: the input of every device to
    an all-reduce or reduce-scatter, or its output from an all-gather.
    group: number of participating devices. in_loop: in the loop over micro-batches.
    """

    kind: str
    size: int
    group: int
    in_loop: bool = False


def _sizes(text: str) -> list[int]:
    found = []
    for kind, dims in _SHAPE.findall(text):
        digits = re.sub(r"\D", "", kind)
        size = BYTES.get(kind, int(digits) // 8 if digits else 0)
        found.append(size * math.prod(int(d) for d in dims.split(",") if d))
    return found


def shape_bytes(text: str) -> int:
    """Bytes of all array shapes in a piece of HLO text, without the padding of their layouts."""
    return sum(_sizes(text))


def _computations(text: str) -> dict[str, list[str]]:
    """The lines of each computation by its name."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        header = re.match(r"(?:ENTRY )?%?([\w.-]+) .*\{$", line)
        if header and not line.startswith(" "):
            lines = found.setdefault(header[1], [])
        else:
            lines.append(line)
    return found or {"": lines}


def _in_loops(computations: dict[str, list[str]]) -> set[str]:
    """Names of the computations that run inside a while loop."""
    joined = {name: "\n".join(lines) for name, lines in computations.items()}
    todo = [body for text in joined.values() for body in re.findall(r"body=%?([\w.-]+)", text)]
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += _CALLED.findall(joined.get(name, ""))
    return seen


def group_size(line: str, devices: int) -> int:
    """How many devices take part in a collective, from its line in any of XLA's three notations."""
    match = re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", line)
    if match:
        sides = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        return math.prod(int(sides[name]) for name in re.findall(r"'(\w+)'", match[2]))
    match = re.search(r"replica_groups=\[\d+,(\d+)\]", line)
    if match:
        return int(match[1])
    match = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
    return len(match[1].split(",")) if match else devices


def collectives(text: str, devices: int) -> list[Collective]:
    """The collectives of a compiled module, each once.

    A start counts, its done does not; parts of one that was split among fusions share a channel. An
    all-reduce of which each device keeps only its shard (on TPU: a computation of that name) is a
    reduce-scatter.

    Args:
      text: of the module.
      devices: of the program, all of which take part in a collective without groups.
    """
    found: list[Collective] = []
    channels: set[tuple[str, str]] = set()
    computations = _computations(text)
    loops = _in_loops(computations)
    for name, lines in computations.items():
        for line in lines:
            match = _OPERATION.match(line)
            kind = match[2].removesuffix("-start") if match else ""
            if not match or kind not in COLLECTIVES:
                continue
            channel = re.search(r"channel_id=(\d+)", line)
            if channel and (kind, channel[1]) in channels:
                continue
            channels |= {(kind, channel[1])} if channel else set()
            sizes, group = _sizes(match[1]), group_size(line, devices)
            if match[2] == "all-gather-start":  # (operands, results)
                sizes = sizes[len(sizes) // 2 :]
            if match[2] == "collective-permute-start":  # (operand, result, contexts)
                sizes = sizes[1:2]
            size = sum(sizes) * (group if kind == "reduce-scatter" else 1)
            if name.startswith("all-reduce-scatter"):
                kind = "reduce-scatter"
            found.append(Collective(kind, size, group, name in loops))
    return found


def summary(found: list[Collective], rounds: int = 1) -> dict[str, dict[str, float]]:
    """Count and MB per step of each kind.

    Args:
      found: from `collectives`.
      rounds: how often a loop runs.
    """
    table: dict[str, dict[str, float]] = {}
    for c in found:
        entry = table.setdefault(c.kind, {"count": 0, "mb": 0.0})
        times = rounds if c.in_loop else 1
        entry["count"] += times
        entry["mb"] += times * c.size / 1e6
    return table


def estimated_cycles(text: str, rounds: int = 1) -> int:
    """Cycles that the TPU's scheduler estimates for all instructions, 0 if it gives none.

    It gives none for collectives and a few others (the gradient of a max-pool).
    """
    computations = _computations(text)
    loops = _in_loops(computations)
    total = 0
    for name, lines in computations.items():
        cycles = sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', "\n".join(lines))))
        total += cycles * (rounds if name in loops else 1)
    return total


def out_of_memory(message: str) -> tuple[float, float] | None:
    """(GiB that a program's own arrays need, GiB available) from the compiler's error.

    Returns:
      None if it is another error. What is needed does not include the arguments.
    """
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    size = r"([\d.]+)([KMGT]?)"
    for form in (
        rf"required for HLO temporaries \({size}\) exceeds available HBM \({size}\)",
        rf"Used {size} of {size} hbm",
    ):
        match = re.search(form, message)
        if match:
            needed, available = (
                float(n) * _UNITS[u] for n, u in (match.groups()[:2], match.groups()[2:])
            )
            return needed / 2**30, available / 2**30
    return None
