"""Bundles: what is shipped holds to the token, what is changed is noticed, and a test split is read once."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import conftest
import pytest
from promotion_panel import FEW, HONEST, LOSER, quick_gate, write_panel

from sim import cli
from sim.journal import Journal, Line
from sim.policy.program import Policy
from sim.promotion import bundle, gate, ledger, looks, promotion, rivals
from sim.promotion.bundle import MANIFEST, POLICY, Bundle
from sim.promotion.lineage import of_run, unknown
from sim.promotion.manifest import SPLITS, BundleError, digest
from sim.promotion.replays import Column
from sim.promotion.rivals import Rival
from sim.promotion.validation import FAILED, OK, SKIPPED, validate
from workloads.panel import load_panel

ROOT = Path(__file__).resolve().parent.parent
GAP = (ROOT / "examples" / "gap_corrected_lru.py").read_text()
MIXED = GAP.replace("block.last_access - 0.6", "-block.last_access - 0.0001")
"""The shipped example, turned round: this panel's traffic is for the newest to leave."""


@pytest.mark.parametrize("name", bundle.names())
def test_shipped_incumbents_are_what_they_say(name: str) -> None:
    for finding in validate([name]):
        if finding.status == SKIPPED:
            conftest.missing(finding.detail)
        assert finding.status == OK, finding


# ---- one bundle, promoted for real -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_panel(tmp_path_factory.mktemp("panel"))


@pytest.fixture(scope="module")
def few(panel: str) -> Iterator[None]:
    with quick_gate(panel), pytest.MonkeyPatch.context() as patch:
        patch.setattr(rivals, "rivals", lambda: FEW)
        yield


@pytest.fixture(scope="module")
def shelf(few: None, panel: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory of incumbents with one in it, "mixed"; not to be changed."""
    place = tmp_path_factory.mktemp("incumbents")
    file = place.parent / "mixed.py"
    file.write_text(MIXED)
    found = promotion.promote(file, "mixed", panel, directory=place)
    assert found.verdict.passed, str(found.verdict)
    assert found.path == place / "mixed"
    return place


@pytest.fixture
def copied(shelf: Path, tmp_path: Path) -> Path:
    """Return a copy of the directory, to be changed."""
    return Path(shutil.copytree(shelf, tmp_path / "copy"))


def change(place: Path, edit: Callable[[dict[str, Any]], object], seal: bool = True) -> None:
    """Edit the manifest of "mixed" as an attacker would, who closes it again."""
    path = place / "mixed" / MANIFEST
    content = json.loads(path.read_bytes())
    edit(content)
    if seal:
        content["seal"] = digest(content)
    path.write_text(json.dumps(content))


def status(place: Path, splits: tuple[str, ...] = SPLITS) -> dict[str, tuple[str, str]]:
    return {finding.part: (finding.status, finding.detail) for finding in validate(["mixed"], place, splits)}


def test_a_promoted_policy_validates_to_the_token(shelf: Path) -> None:
    loaded = bundle.load("mixed", shelf)
    assert loaded.policy.source == MIXED
    found = status(shelf)
    assert {part: state for part, (state, _) in found.items()} == dict.fromkeys(("bundle", *SPLITS), OK)
    assert "2 cells equal to the token" in found["test"][1]
    told = loaded.manifest
    assert [path.name for path in shelf.iterdir() if path.is_dir()] == ["mixed"]
    assert told.verdict.verdict("mixed", told.sha256, told.nodes, told.panel).passed
    assert told.scores["test"].combined > 0.5


def test_the_test_split_is_read_once_and_the_read_is_on_record(shelf: Path) -> None:
    told = bundle.load("mixed", shelf).manifest
    (look,) = told.test_reads
    assert look.hit_tokens is not None
    assert (look.panel, look.fingerprint) == ("loops-v1", told.scores["test"].fingerprint)
    assert (look.combined, list(look.hit_tokens)) == (told.scores["test"].combined, told.scores["test"].hit_tokens)
    (logged,) = ledger.entries(shelf / ledger.TEST_READS)
    assert (logged["sha256"], logged["name"], logged["time"]) == (told.sha256, "mixed", look.time)
    validate(directory=shelf)
    assert len(ledger.entries(shelf / ledger.TEST_READS)) == 1


def test_a_look_by_hand_is_on_record_before_it_is_taken(
    panel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    place, file, other = tmp_path / "ledgers", tmp_path / "mine.py", tmp_path / "other.py"
    monkeypatch.setattr(looks, "SHIPPED", place)
    file.write_text(HONEST)
    other.write_text("no policy")
    at = ["--traces", panel, "--panel"]
    assert cli.main(["compare", str(file), "lru", *at, "validation"]) == 0
    assert cli.main(["compare", "lru", "zoo:arc", *at, "test"]) == 0
    assert cli.main(["compare", str(file), str(other), *at, "test"]) == 1
    assert cli.main(["compare", str(file), "nobody", *at, "test"]) == 1
    assert ledger.entries(place / ledger.TEST_READS) == []
    capsys.readouterr()
    for _ in range(2):
        assert cli.main(["compare", str(file), "lru", *at, "test"]) == 0
    assert capsys.readouterr().err.count("on record: mine is looked at on the test split") == 1
    (entry,) = ledger.entries(place / ledger.TEST_READS)
    assert (entry["name"], entry["sha256"]) == ("mine", Policy.from_file(file).sha256)
    monkeypatch.setattr(ledger, "append", lambda *_: (_ for _ in ()).throw(PermissionError(13, "denied")))
    file.write_text(LOSER)
    assert cli.main(["compare", str(file), *at, "test"]) == 1
    assert "the test split is not read: " in capsys.readouterr().err


def test_a_bundle_tells_of_every_look_before_it(few: None, shelf: Path, panel: str, tmp_path: Path) -> None:
    told = bundle.load("mixed", shelf).manifest
    test = load_panel("test", panel, purpose="report")
    assert looks.begin_by_hand([Policy.from_source(MIXED, "tried")], test, tmp_path) == ["tried"]
    assert looks.begin_by_hand([Policy.from_source(MIXED, "again")], test, tmp_path) == []
    verdict = told.verdict.verdict("mixed", told.sha256, told.nodes, told.panel)
    promotion.enter(MIXED, "mixed", panel, verdict, unknown(), tmp_path)
    by_hand, last = bundle.load("mixed", tmp_path).manifest.test_reads
    assert (by_hand.combined, last.combined) == (None, told.scores["test"].combined)
    assert status(tmp_path, ())["bundle"][0] == OK
    assert looks.begin_by_hand([Policy.from_source(MIXED, "later")], test, tmp_path) == []


@pytest.mark.parametrize("change", ["gone", "one less", "one more"])
def test_a_ledger_that_tells_of_other_looks_is_noticed(copied: Path, change: str) -> None:
    path = copied / ledger.TEST_READS
    (entry,) = ledger.entries(path)
    if change == "gone":
        path.unlink()
    elif change == "one less":
        path.write_text(json.dumps({**entry, "sha256": "0" * 64}) + "\n")
    else:
        ledger.append(path, {**entry, "time": "2026-01-01T00:00:00Z"})
    state, text = status(copied, ())["bundle"]
    assert state == FAILED
    assert "tells of looks at the test split on" in text


def test_a_policy_is_promoted_once(shelf: Path, panel: str, tmp_path: Path) -> None:
    file = tmp_path / "again.py"
    file.write_text(MIXED)
    with pytest.raises(BundleError, match="is the incumbent 'mixed', its test split was read"):
        promotion.promote(file, "another", panel, directory=shelf)
    file.write_text(HONEST)
    with pytest.raises(BundleError, match="is never written over"):
        promotion.promote(file, "mixed", panel, directory=shelf)
    assert bundle.names(shelf) == ["mixed"]


def test_a_promotion_cut_short_leaves_its_look_on_record(
    few: None, shelf: Path, panel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = bundle.load("mixed", shelf)
    told = loaded.manifest
    verdict = told.verdict.verdict("mixed", told.sha256, told.nodes, told.panel)
    arguments = (MIXED, "mixed", panel, verdict, unknown(), tmp_path / "shelf")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bundle, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            promotion.enter(*arguments)
    assert bundle.names(tmp_path / "shelf") == []
    assert len(ledger.entries(tmp_path / "shelf" / ledger.TEST_READS)) == 1
    promotion.enter(*arguments)
    again = bundle.load("mixed", tmp_path / "shelf").manifest
    assert len(again.test_reads) == len(ledger.entries(tmp_path / "shelf" / ledger.TEST_READS)) == 2
    assert (again.test_reads[0].combined, again.test_reads[0].hit_tokens) == (None, None)  # nobody wrote it down
    assert again.test_reads[1].hit_tokens == told.test_reads[0].hit_tokens


def test_no_bundle_without_a_verdict_of_this_very_policy(shelf: Path, panel: str, tmp_path: Path) -> None:
    told = bundle.load("mixed", shelf).manifest
    verdict = told.verdict.verdict("mixed", told.sha256, told.nodes, told.panel)
    with pytest.raises(BundleError, match="no verdict of the gate"):
        promotion.enter(HONEST, "other", panel, verdict, unknown(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_the_gate_refuses_is_recorded_and_its_test_split_not_read(
    few: None, panel: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, place = tmp_path / "loser.py", tmp_path / "shelf"
    file.write_text(LOSER)
    code = cli.main(["promote", str(file), "--name", "loser", "--traces", panel, "--directory", str(place)])
    assert code == 2
    assert "refused: baselines" in capsys.readouterr().out
    (entry,) = ledger.entries(place / ledger.REJECTED)
    assert list(entry["reasons"]) == ["baselines"]
    assert (entry["policy"], entry["passed"], len(entry["checks"])) == ("loser", False, 11)
    assert not (place / ledger.TEST_READS).exists()
    assert bundle.names(place) == []


# ---- changed bundles -------------------------------------------------------------------------------------------------


def drop(*path: str) -> Callable[[dict[str, Any]], object]:
    def edit(content: dict[str, Any]) -> None:
        for step in path[:-1]:
            content = content[step]
        del content[path[-1]]

    return edit


def put(value: object, *path: Any) -> Callable[[dict[str, Any]], object]:
    def edit(content: dict[str, Any]) -> None:
        for step in path[:-1]:
            content = content[step]
        content[path[-1]] = value

    return edit


MALFORMED = [
    (drop("nodes"), "field 'nodes'"),
    (drop("scores", "test"), "field 'scores'"),
    (drop("lineage", "parent"), "field 'lineage.parent'"),
    (drop("test_reads"), "field 'test_reads'"),
    (put([], "test_reads"), "field 'test_reads'"),
    (put(1, "note"), "field 'note'"),
    (put("x", "verdict", "note"), "field 'verdict.note'"),
    (put("kvevolve-incumbent/2", "format"), "field 'format'"),
    (put("12", "nodes"), "field 'nodes'"),
    (put(-1, "scores", "test", "cells", 0, "hit_tokens"), "hit_tokens"),
    (put("yesterday", "created"), "field 'created'"),
    (put("../mixed", "name"), "field 'name'"),
    (put("ab", "sha256"), "field 'sha256'"),
    (put(0.9, "scores", "test", "combined"), "the score is not that of its cells"),
    (put(0.9, "scores", "train", "by_trace", "loop_train"), "the score is not that of its cells"),
    (put(None, "test_reads", 0, "combined"), "the last read is not what 'scores.test' says"),
    (put(7, "test_reads", 0, "hit_tokens", 0), "the last read is not what 'scores.test' says"),
    (put(False, "verdict", "checks", 3, "passed"), "the gate refused it: cost"),
    (drop("verdict", "checks"), "field 'verdict.checks'"),
    (put([], "verdict", "checks"), "field 'verdict.checks'"),
    (put("0" * 64, "verdict", "fingerprint"), "it is not of what 'scores.validation' says"),
    (put("other", "name"), "give the directory its name back"),
    (put("0" * 64, "sha256"), "was changed"),
    (put([], "scores", "train", "cells"), "field 'scores.train.cells'"),
]


@pytest.mark.parametrize(("edit", "message"), MALFORMED)
def test_a_manifest_that_is_not_whole_is_refused(copied: Path, edit: Callable[..., object], message: str) -> None:
    change(copied, edit)
    with pytest.raises(BundleError) as caught:
        bundle.load("mixed", copied)
    assert message in str(caught.value)
    assert "fix: " in str(caught.value)
    assert status(copied)["bundle"][0] == FAILED


def test_a_change_without_a_new_seal_is_noticed(copied: Path) -> None:
    change(copied, put("found elsewhere", "lineage", "found_by"), seal=False)
    with pytest.raises(BundleError, match="field 'seal'"):
        bundle.load("mixed", copied)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "nonsense", '{"a": NaN}', "[" * 100_000, '{"name": 1, "name": 2}', "\0"]
)
def test_what_is_no_manifest_is_refused(copied: Path, text: str) -> None:
    (copied / "mixed" / MANIFEST).write_text(text)
    with pytest.raises(BundleError, match="fix: restore the bundle"):
        bundle.load("mixed", copied)


def test_an_edited_policy_is_refused(copied: Path) -> None:
    path = copied / "mixed" / POLICY
    path.write_text(MIXED.replace("0.0001", "0.0002"))
    with pytest.raises(BundleError, match=r"policy\.py: was changed: SHA-256"):
        bundle.load("mixed", copied)


@pytest.mark.parametrize("lost", [POLICY, MANIFEST])
def test_a_missing_file_is_refused(copied: Path, lost: str) -> None:
    (copied / "mixed" / lost).unlink()
    with pytest.raises(BundleError, match=f"{lost}: no such file"):
        bundle.load("mixed", copied)


def test_a_file_too_many_is_refused(copied: Path) -> None:
    (copied / "mixed" / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match=r"does not belong in a bundle: notes\.txt"):
        bundle.load("mixed", copied)


def test_links_are_no_bundles(copied: Path, tmp_path: Path) -> None:
    (tmp_path / POLICY).write_text(MIXED)
    (copied / "mixed" / POLICY).unlink()
    (copied / "mixed" / POLICY).symlink_to(tmp_path / POLICY)
    with pytest.raises(BundleError, match="no such file"):
        bundle.load("mixed", copied)


@pytest.mark.parametrize("name", ["..", "a/b", "", "Mixed", ".hidden", "x" * 65, "a b", "-a"])
def test_names_that_are_no_directories_of_ours(copied: Path, name: str) -> None:
    with pytest.raises(BundleError, match="expected up to 64 small letters"):
        bundle.load(name, copied)


@pytest.mark.parametrize("split", SPLITS)
def test_hits_that_were_made_up_are_found_by_counting_again(copied: Path, split: str) -> None:
    """Everything fits: cells, score, reads, seal. Only the replay does not."""

    def edit(content: dict[str, Any]) -> None:
        from sim.promotion.manifest import SplitScore
        from sim.score import score

        told = content["scores"][split]
        told["cells"][0]["hit_tokens"] -= 64
        again = score(
            [cell.cell() for cell in SplitScore.model_validate_json(json.dumps(told)).cells], content["nodes"]
        )
        told |= {"combined": again.combined, "gap_closed_mean": again.mean, "by_trace": again.by_trace}
        told["worst_trace"] = again.worst_trace_name
        hits = [cell["hit_tokens"] for cell in told["cells"]]
        if split == "validation":
            content["verdict"]["hit_tokens"] = hits
        if split == "test":
            content["test_reads"][0] |= {"hit_tokens": hits, "combined": again.combined}

    change(copied, edit)
    found = status(copied, (split,))
    assert found["bundle"][0] == OK
    assert found[split][0] == FAILED
    assert "hit_tokens is" in found[split][1]


def test_a_verdict_that_would_not_be_given_is_found_by_judging_again(
    few: None, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (*_, sound) = validate(["mixed"], copied, (), rejudge=True)
    assert (sound.part, sound.status) == ("gate", OK), sound
    monkeypatch.setattr(rivals, "rivals", lambda: FEW | {"itself": Rival(Column("itself", MIXED), 7)})
    (bundled, forged) = validate(["mixed"], copied, (), rejudge=True)
    assert bundled.status == OK
    assert (forged.status, forged.detail.split(":")[:2]) == (FAILED, ["refused now", " baselines"])


def test_another_panel_under_the_same_name_is_noticed(copied: Path) -> None:
    change(copied, put("f" * 64, "scores", "train", "fingerprint"))
    found = status(copied)
    assert (found["train"][0], found["validation"][0], found["test"][0]) == (FAILED, OK, OK)
    assert "when it was promoted" in found["train"][1]


def test_what_is_not_at_hand_is_skipped_with_the_reason(copied: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone.yaml"
    change(copied, put(str(gone), "which"))
    assert status(copied)["test"] == (SKIPPED, f"the panel's file {gone} is not here")
    entry = "{name: a, source: 'mooncake:not-here.jsonl'}"
    gone.write_text(f"format: kvevolve-panel/1\nname: loops-v1\ncapacities: [30%]\nsplits:\n  train:\n    - {entry}\n")
    assert status(copied)["test"] == (SKIPPED, "traces not at hand: mooncake:not-here.jsonl")


def test_an_unwritable_or_half_written_shelf(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = bundle.load("mixed", shelf).manifest
    (tmp_path / ".mixed.1-ab.tmp").mkdir()  # what a killed writer leaves
    assert bundle.names(tmp_path) == []
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "no space")))
        with pytest.raises(OSError, match="no space"):
            bundle.write(MIXED, told, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".mixed.1-ab.tmp"]
    bundle.write(MIXED, told, tmp_path)
    assert isinstance(bundle.load("mixed", tmp_path), Bundle)
    with pytest.raises(BundleError, match="never written over"):
        bundle.write(MIXED, told, tmp_path)


# ---- ledgers ---------------------------------------------------------------------------------------------------------


def test_a_ledger_only_grows_and_its_gaps_are_not_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ledger.jsonl"
    assert ledger.entries(path) == []
    ledger.append(path, {"n": 1})
    path.write_bytes(path.read_bytes() + b'{"n": 2, "cut')
    ledger.append(path, {"n": 3})
    assert path.read_bytes().splitlines()[2] == b'{"n": 3}'
    with pytest.raises(BundleError, match=r"ledger\.jsonl:2: no JSON mapping; fix: remove the line"):
        ledger.entries(path)
    path.write_bytes(b"".join(line + b"\n" for line in path.read_bytes().splitlines() if b"cut" not in line))
    assert ledger.entries(path) == [{"n": 1}, {"n": 3}]


# ---- lineage and the command line ------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Path:
    place = tmp_path / "20260101-000000"
    place.mkdir()
    (place / "panel.json").write_text('{"which": "real-v1", "name": "real-v1", "fingerprint": "%s"}' % ("a" * 64))
    (place / "config.yaml").write_text(
        "max_iterations: 60\nrandom_seed: 3\nllm: {models: [{name: kvevolve-operator}]}\n"
    )
    child = {"child_code": MIXED, "child_id": "c1", "parent_id": "p1", "child_metrics": {}}
    (place / "evolution_trace.jsonl").write_text(json.dumps(child) + "\n")
    return place


def test_lineage_is_read_from_the_run(run: Path) -> None:
    found = of_run(run, MIXED)
    assert (found.run, found.program, found.parent) == ("20260101-000000", "c1", "p1")
    assert (found.seed, found.iterations, found.evaluations) == (3, 60, 1)
    assert (found.models, found.trained_on, found.train_fingerprint) == (("kvevolve-operator",), "real-v1", "a" * 64)
    assert found.found_by == "kvevolve evolve: a program of the run"
    for cached in (False, True, False):
        Journal(run).append(Line("x", "p", False, {}, {}, "panel", cached=cached))
    with (run / "evaluations.jsonl").open("a") as torn:
        torn.write("{")
    (run / "best_policy.py").write_text(HONEST)
    found = of_run(run, HONEST)
    assert (found.program, found.evaluations) == (None, 2)
    assert found.found_by == "kvevolve evolve: the run's best policy, tuned"
    assert of_run(run, LOSER).found_by == "kvevolve evolve: changed after the run"
    with pytest.raises(ValueError, match="fix: name the directory of a run"):
        of_run(run.parent, MIXED)


def test_the_command_line(shelf: Path, copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = ("--directory", str(shelf))
    assert cli.main(["incumbents", "list", *at]) == 0
    listed = capsys.readouterr().out
    assert "mixed" in listed
    assert "1 looks at test splits were begun here" in listed
    assert cli.main(["incumbents", "show", "mixed", *at]) == 0
    shown = capsys.readouterr().out
    assert MIXED in shown
    assert "test split read" in shown
    assert cli.main(["incumbents", "show", "mixed", *at, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["source"] == MIXED
    assert cli.main(["incumbents", "validate", *at, "--json"]) == 0
    assert [each["status"] for each in json.loads(capsys.readouterr().out)] == [OK] * 4
    (copied / "mixed" / POLICY).write_text(HONEST)
    assert cli.main(["incumbents", "validate", "--files-only", "--directory", str(copied)]) == 2
    assert "was changed" in capsys.readouterr().out
    assert cli.main(["incumbents", "list", "--directory", str(copied)]) == 2
    assert "BROKEN" in capsys.readouterr().out
    assert cli.main(["incumbents", "validate", "nobody", *at]) == 1
    assert "no incumbent 'nobody'; there are: mixed" in capsys.readouterr().err
    for action in ("list", "validate"):
        assert cli.main(["incumbents", action, "--directory", str(shelf / "none")]) == 1
        assert "none is no directory; fix: " in capsys.readouterr().err
        assert cli.main(["incumbents", action, "--directory", str(shelf / "mixed")]) == 0
        assert "no incumbents" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.py", "--name", "a"], "none.py: No such file"),
        (["{file}", "--name", "A b"], "expected up to 64 small letters"),
        (["{file}", "--name", "a", "--run", "nowhere"], "fix: name the directory of a run"),
        (["{file}", "--name", "a", "--traces", "nothing"], "unknown panel 'nothing'"),
        (["{binary}", "--name", "a"], "is not UTF-8"),
    ],
)
def test_bad_arguments_are_refused_before_the_work(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.setattr(gate, "load_panel", lambda *_: pytest.fail("the work began"))
    (tmp_path / "p.py").write_text(HONEST)
    (tmp_path / "b.py").write_bytes(b"\xff\xfe")
    filled = [a.format(file=tmp_path / "p.py", binary=tmp_path / "b.py") for a in arguments]
    assert cli.main(["promote", *filled, "--directory", str(tmp_path / "shelf")]) == 1
    assert message in capsys.readouterr().err
