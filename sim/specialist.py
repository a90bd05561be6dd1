"""A panel for traffic of one's own: what to train on, what to choose by, and what is held out for the report.

A trace on a clock is cut in the order of its requests: the past trains, the future judges. Between the parts lie gaps,
so that what was running at the end of one is mostly over when the next begins. Sessions without a clock are cut by the
hash of their names, and their starts are drawn from a window as much shorter, so that as many run at a time.

Knows panels and their marks. Must not know policies that evolve. Nothing is replayed on what is held out: it is only
cut, and its sizes checked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from sim.marks import Marks, load_marks
from sim.tables import table
from workloads import loading
from workloads.atomic import atomic_write
from workloads.errors import TraceError
from workloads.panel import load_panel
from workloads.panel_overlap import placed
from workloads.panel_schema import NAME

PARTS = {"train": (0.0, 0.6), "validation": (0.6, 0.8), "test": (0.8, 1.0)}
GAP = 0.02
"""Share of the requests left out at the end of the first two parts, if parts follow one another."""
MIN_REQUESTS = 50
"""Fewest requests of a part: a gap over fewer is luck."""
CAPACITIES = "1%,2%,5%,10%,20%"


@dataclass(frozen=True)
class Traffic:
    """What the user asks for.

    Attributes:
        traces: See `workloads.load`.
        capacities: Cache sizes, separated by commas: shares of a part's distinct blocks, blocks, or memory.
        model: For capacities in memory.
        cut: "requests", "sessions", or "auto": by sessions where the trace is sessions without a clock.
    """

    traces: tuple[str, ...]
    capacities: str = CAPACITIES
    model: str | None = None
    cut: str = "auto"


def panel_text(traffic: Traffic) -> str:
    """Return a panel for the traffic as YAML, after making sure that there is something to win on it.

    Raises:
        ValueError: If a trace cannot be read, is too short, or leaves no policy anything to win; says what would help.
    """
    names = [re.sub(r"[^A-Za-z0-9_.-]+", "-", _name(spec)).strip("-.") or "trace" for spec in traffic.traces]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two traces are called {name!r}; fix: give each once, or name one: FILE?name=other")
    splits: dict[str, list[dict[str, Any]]] = {split: [] for split in PARTS}
    how = []
    for name, spec in zip(names, traffic.traces, strict=True):
        entries, said = _parts(name, spec, traffic.cut)
        how.append(f"{name}: {said}")
        entries["train"]["note"] = entries["validation"]["note"] = said
        for split, entry in entries.items():
            splits[split].append(entry)
    slug = re.sub(r"[^a-z0-9_-]+", "-", names[0].lower())[:40].strip("-_")
    content: dict[str, Any] = {
        "format": "kvevolve-panel/1",
        "name": f"own-{slug}" + f"-and-{len(names) - 1}-more" * (len(names) > 1) + "-v1",
        "about": "Traffic of one's own. " + "; ".join(how),
        "capacities": [_capacity(text.strip()) for text in traffic.capacities.split(",")],
        **({"model": traffic.model} if traffic.model else {}),
        "splits": splits,
    }
    assert NAME.fullmatch(content["name"])
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
    with TemporaryDirectory(prefix="kvevolve-") as folder:
        path = Path(folder).resolve() / "panel.yaml"
        path.write_text(text)
        try:
            for split in ("train", "validation"):
                _refuse_hopeless(load_marks(load_panel(split, str(path))))
            load_panel("test", str(path), purpose="report")
        except TraceError as error:
            said = str(error).replace(str(path), "the panel made of --trace, --capacities and --model")
            raise ValueError(said) from None
    return text


def write_panel(text: str, path: Path) -> None:
    """Write a panel's file, whole or not at all."""
    with atomic_write(path) as file:
        file.write(text.encode())


def _name(spec: str) -> str:
    target, _, query = spec.partition("?")
    given = dict(pair.partition("=")[::2] for pair in query.split("&"))
    return given.get("name") or re.sub(r"(\.\w+)+$", "", Path(target.rpartition(":")[2]).name)


def _capacity(text: str) -> str | int:
    return int(text) if text.isdigit() else text


def _parts(name: str, spec: str, cut: str) -> tuple[dict[str, dict[str, Any]], str]:
    """Return the entry of each split, and how the trace was cut, in words."""
    generated = spec.partition(":")[0] in ("synthetic", "fitted", "spec")
    laying = None if generated else loading.file_of(spec)[3]
    if cut == "sessions" and laying is None:
        raise ValueError(f"{spec}: its requests are on a clock, not sessions; fix: cut it by requests, or auto")
    source = placed(spec, Path.cwd())
    if laying is not None and cut != "requests":
        window_s = laying.get("window_s")
        said = "sessions by the hash of their names, 60/20/20%"
        if isinstance(window_s, int | float):
            said += f", started within as much of {window_s:g} s"
        entries = {
            split: _sessions(f"{name}_{split}", spec, source, (low, high), window_s)
            for split, (low, high) in PARTS.items()
        }
        return entries, said
    trace = loading.load(spec)
    _refuse_short(spec, trace.n_requests, trace.n_refs, trace.n_blocks)
    entries = {}
    for split, (low, high) in PARTS.items():
        end = high - GAP * (high < 1)
        rows = [round(low * trace.n_requests), round(end * trace.n_requests)]
        entries[split] = {"name": f"{name}_{split}", "source": source, "cut": {"requests": rows}}
    return entries, f"requests in order of arrival, 60/20/20%, the last {GAP:.0%} before each cut left out"


def _sessions(name: str, spec: str, source: str, part: tuple[float, float], window_s: object) -> dict[str, Any]:
    found = loading.load(spec, sessions=part)
    if found.n_requests < MIN_REQUESTS:
        raise ValueError(
            f"{spec}: too short: {name} has {found.n_requests} requests, and {MIN_REQUESTS} are the least that mean "
            "something; fix: record more sessions"
        )
    entry: dict[str, Any] = {"name": name, "source": source, "cut": {"sessions": list(part)}}
    if isinstance(window_s, int | float):
        target, _, query = source.partition("?")
        kept = "&".join(pair for pair in query.split("&") if pair and not pair.startswith("window_s="))
        share = part[1] - part[0]
        entry |= {"source": target + "?" * bool(kept) + kept, "options": {"window_s": round(window_s * share, 6)}}
    return entry


def _refuse_short(spec: str, requests: int, refs: int, blocks: int) -> None:
    least = round(MIN_REQUESTS / (0.2 - GAP)) + 1
    if requests < least:
        raise ValueError(
            f"{spec}: too short: {requests:,} requests, and {least} are the least that can be cut into 60/20/20%; fix: "
            "record longer"
        )
    if refs == blocks:
        raise ValueError(
            f"{spec}: no block is asked for twice, so no cache hits anything; fix: check that block ids are equal "
            "where prompts begin alike (hashes without a per-request salt), or use smaller blocks"
        )


def _refuse_hopeless(marks: Marks) -> None:
    """Refuse traffic on which LRU is as good as the optimum, with the sizes and what would help."""
    cells = marks.cells([mark.lru for mark in marks.marks])
    if any(cell.counts for cell in cells):
        return
    panel = marks.panel
    rows: Sequence[Sequence[Any]] = [
        [
            cell.trace,
            cell.capacity_blocks,
            f"{100 * cell.fraction:.3g}%",
            f"{100 * cell.lru_hit_tokens / max(cell.prompt_tokens, 1):.2f}",
            f"{100 * cell.optimum_hit_tokens / max(cell.prompt_tokens, 1):.2f}",
        ]
        for cell in cells
    ]
    shown = table(["trace", "blocks", "share", "LRU hits %", "optimum %"], rows)
    best = max(cell.optimum_hit_tokens / max(cell.prompt_tokens, 1) for cell in cells)
    if best < 0.02:
        fix = "hardly anything repeats: check the block ids, use smaller blocks, or record longer"
    elif all(cell.raised for cell in panel.cells):
        fix = "the longest prompt alone fills these sizes: record longer, or cut by sessions"
    else:
        fix = "these caches keep what is asked for again: give smaller --capacities, or record longer"
    raise ValueError(
        f"nothing to win on the {panel.split} part: LRU is within one point of the optimum at every size\n{shown}\n"
        f"fix: {fix}"
    )
