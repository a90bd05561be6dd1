"""The verb `kvevolve incumbents ACTION`: what was promoted, whether it still holds, and what each says of itself."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.cli.arguments import add_executor, add_json, executor_of

if TYPE_CHECKING:
    from sim.promotion.manifest import Manifest


def add(verbs: Any) -> None:
    """Add the verb and its actions to the command line."""
    text = "list, validate and show promoted policies"
    verb = verbs.add_parser("incumbents", help=text, description=text)
    actions = verb.add_subparsers(required=True, metavar="ACTION")
    _action(actions, "list", _list, "one line each: panel, scores, looks at the test split")
    one = _action(actions, "validate", _validate, "check files, then score every split again, exactly; exit code 2")
    one.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    one.add_argument("--files-only", action="store_true", help="hashes and fields, without replaying anything")
    one.add_argument("--judge", action="store_true", help="try every rule of the promotion gate again too; minutes")
    add_executor(one)
    _action(actions, "show", _show, "everything about one incumbent").add_argument("name", metavar="NAME")


def _action(actions: Any, name: str, call: Any, text: str) -> Any:
    action = actions.add_parser(name, help=text, description=text)
    action.set_defaults(verb=call)
    action.add_argument("--directory", type=Path, metavar="D", help="of the incumbents (default: the package's own)")
    add_json(action)
    return action


def _list(options: argparse.Namespace) -> int:
    from sim.promotion import bundle
    from sim.promotion.ledger import TEST_READS, entries
    from sim.promotion.manifest import BundleError
    from sim.tables import table

    place = _directory(options)
    rows, contents, broken = [], [], 0
    for name, found in bundle.every(place):
        if isinstance(found, BundleError):
            broken += 1
            rows.append([name, f"BROKEN: {found}"])
            contents.append({"name": name, "broken": str(found)})
            continue
        told = found.manifest
        scores = {split: told.scores[split].combined for split in ("validation", "test")}
        facts: dict[str, Any] = {"panel": told.panel, "nodes": told.nodes, **scores, "test_reads": len(told.test_reads)}
        rows.append([name, *(f"{v:+.4f}" if isinstance(v, float) else v for v in facts.values()), told.created])
        contents.append({"name": name, **facts, "created": told.created})
    reads = len(entries(place / TEST_READS))
    if options.json:
        print(json.dumps({"directory": str(place), "incumbents": contents, "test_reads": reads}, indent=2))
    elif rows:
        head = ["incumbent", "panel", "nodes", "validation", "test", "test reads", "created"]
        print(table(head, [[*row, *[""] * (len(head) - len(row))] for row in rows], "llrrrrl"))
        print(f"{reads} looks at test splits were begun here")
    else:
        print(f"no incumbents in {place}")
    return 2 if broken else 0


def _validate(options: argparse.Namespace) -> int:
    from sim.promotion.manifest import SPLITS
    from sim.promotion.validation import FAILED, validate
    from sim.tables import table

    splits = () if options.files_only else SPLITS
    found = validate(options.names, _directory(options), splits, executor_of(options), options.workers, options.judge)
    if options.json:
        print(json.dumps([vars(finding) for finding in found], indent=2))
    elif found:
        rows = [[each.incumbent, each.part, each.status, each.detail] for each in found]
        print(table(["incumbent", "part", "", ""], rows, "llll"))
    else:
        print("no incumbents")
    return 2 if any(each.status == FAILED for each in found) else 0


def _directory(options: argparse.Namespace) -> Path:
    """Return where the incumbents are; a wrong name must not pass for an empty shelf."""
    from sim.promotion.bundle import SHIPPED

    place: Path = options.directory or SHIPPED
    if not place.is_dir():
        raise ValueError(f"{place} is no directory; fix: --directory with one of incumbents")
    return place


def _show(options: argparse.Namespace) -> int:
    from sim.promotion import bundle

    found = bundle.load(options.name, _directory(options))
    if options.json:
        print(json.dumps(found.manifest.model_dump(mode="json") | {"source": found.policy.source}, indent=2))
    else:
        print(_described(found.manifest))
        print(found.policy.source)
    return 0


def _described(told: Manifest) -> str:
    from sim.promotion.manifest import SPLITS
    from sim.tables import table

    lines = [f"{told.name}: {told.nodes} nodes, promoted {told.created} by kvevolve {told.kvevolve}"]
    lines += [f"{key:<18} {value}" for key, value in told.lineage.model_dump().items() if value not in (None, ())]
    verdict = told.verdict.verdict(told.name, told.sha256, told.nodes, told.panel)
    rows = []
    for split in SPLITS:
        for cell in told.scores[split].cells:  # type: ignore[index]
            hits = (cell.lru_hit_tokens, cell.hit_tokens, cell.optimum_hit_tokens)
            shares = [f"{100 * tokens / max(cell.prompt_tokens, 1):.2f}" for tokens in hits]
            rows.append([cell.trace, split, cell.capacity_blocks, *shares, f"{cell.cell().gap_closed:+.3f}"])
        rows.append(["score", split, "", "", "", "", f"{told.scores[split].combined:+.4f}"])  # type: ignore[index]
    head = ["trace", "split", "blocks", "LRU %", "hit %", "optimum %", "gap closed"]
    lines += ["", str(verdict), "", table(head, rows, "llrrrrr"), ""]
    for look in told.test_reads:
        seen = "not on record" if look.combined is None else f"{look.combined:+.4f}"
        lines.append(f"test split read {look.time} by kvevolve {look.kvevolve}: {seen}")
    return "\n".join([*lines, ""])
