"""The command line and the README: every verb, exit codes, JSON, and that what the README shows runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sim.cli import main

ROOT = Path(__file__).resolve().parent.parent
TRACE = "synthetic:chat?seed=1&requests=400"


def run(*arguments: str) -> int:
    return main(arguments)


def test_run_prints_the_same_numbers_as_the_library(capsys: pytest.CaptureFixture[str]) -> None:
    import sim
    import workloads

    assert run("run", TRACE, "--policy", "gdsf", "--capacity", "10%", "--mode", "overlap", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    result = sim.simulate(workloads.load(TRACE), "gdsf", "10%", mode="overlap")
    assert printed["hit_tokens"] == result.hit_tokens > 0
    assert printed["latency"]["ttft_p95_s"] == pytest.approx(result.latency.ttft_p95_s)
    assert printed["peak_kv_bytes"] == result.peak_used_blocks * result.block_tokens * 131_072  # llama-3.1-8b


def test_json_is_the_same_every_time(capsys: pytest.CaptureFixture[str]) -> None:
    outputs = []
    for _ in range(2):
        assert run("run", TRACE, "--policy", "lru", "--capacity", "500", "--json") == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", TRACE, "--policy", "gdfs"), "did you mean 'gdsf'"),
        (("run", "synthetic:chta?seed=1"), "chat"),
        (("run", TRACE, "--capacity", "150%"), "give blocks"),
        (("run", TRACE, "--model", "lama-3.1-8b"), "llama-3.1-8b"),
        (("run", "no/such/file.jsonl"), "no/such/file.jsonl"),
        (("compare", "nothing_like_it", "--traces", "synthetic"), "no policy"),
        (("evolve", "--program", "missing.py"), "missing.py"),
    ],
)
def test_mistakes_are_named_and_end_with_1(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 1
    captured = capsys.readouterr()
    assert said in captured.err
    assert "Traceback" not in captured.err


def test_check_names_line_and_fix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("def priority(block, cache):\n    return block.last_acess\n")
    assert run("check", str(bad)) == 2
    assert "line 2" in (out := capsys.readouterr().out)
    assert "block.last_access" in out
    moving = tmp_path / "moving.py"
    moving.write_text("def priority(block, cache):\n    return math.sin(block.last_access)\n".replace("sin", "tanh"))
    assert run("check", str(moving)) == 0  # a constant score: silly, but not wrong
    absolute = tmp_path / "absolute.py"
    absolute.write_text(
        "def priority(block, cache):\n    return block.released if block.last_access < 700000.0 else -block.released\n"
    )
    assert run("check", str(absolute)) == 2
    assert "absolute time" in capsys.readouterr().out


def test_score_of_a_rejected_policy_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("import os\n")
    assert run("score", str(bad), "--traces", "synthetic", "--json") == 2
    content = json.loads(capsys.readouterr().out)
    assert content["metrics"]["combined_score"] == -1.0
    assert "imports are not allowed" in content["artifacts"]["rejection"]


def test_compare_shows_every_policy(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compare", "lru", "fifo", "--panel", "validation", "--traces", "synthetic", "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert list(content["policies"]) == ["fifo", "lru"]
    for i, cell in enumerate(content["cells"]):
        assert content["policies"]["lru"]["hit_tokens"][i] <= cell["optimum_hit_tokens"]
    assert content["policies"]["lru"]["combined_score"] > content["policies"]["fifo"]["combined_score"]


def test_listings(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fields") == 0
    assert "block.recompute_cost" in capsys.readouterr().out
    assert run("policies") == 0
    assert "second_touch" in capsys.readouterr().out
    assert run("panel", "train", "--traces", "synthetic") == 0
    assert "SYNTHETIC" in capsys.readouterr().out
    assert run("trace", "info", TRACE) == 0
    assert "400 in 855 s" in capsys.readouterr().out


def test_convert_keeps_the_fingerprint(tmp_path: Path) -> None:
    import workloads

    assert run("trace", "convert", TRACE, str(tmp_path / "t.npz")) == 0
    assert workloads.load(str(tmp_path / "t.npz")).fingerprint == workloads.load(TRACE).fingerprint


def test_help_needs_no_kernels() -> None:
    code = (
        "import sys; sys.argv = ['kvevolve', '--help']\n"
        "from sim.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)


def readme_python() -> list[str]:
    """Every python block of the README."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)


def test_readme_library_example_runs() -> None:
    (example,) = (block for block in readme_python() if block.startswith("import"))
    done = subprocess.run([sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "hit_rate=" in done.stdout


def test_readme_found_policy_passes_the_check(tmp_path: Path) -> None:
    (found,) = (block for block in readme_python() if block.startswith("def priority"))
    path = tmp_path / "found.py"
    path.write_text(found)
    assert run("check", str(path)) == 0


def test_readme_policy_passes_its_own_check(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    (policy,) = re.findall(r"<<'EOF'\n(.*?)EOF", text, re.S)
    assert len(policy.splitlines()) <= 12
    path = tmp_path / "mine.py"
    path.write_text(policy)
    assert run("check", str(path)) == 0


def test_readme_names_only_files_that_exist() -> None:
    text = (ROOT / "README.md").read_text()
    for name in ("initial_program.py", "evaluator.py", "config.yaml", "examples/openai.yaml"):
        assert name in text
        assert (ROOT / name).is_file()


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_example_policies_pass_the_check(path: Path) -> None:
    assert run("check", str(path)) == 0


def test_help_is_shown_without_the_heavy_packages() -> None:
    heavy = ("numpy", "numba", "scipy", "pyarrow", "ray", "matplotlib", "libcachesim", "openevolve")
    code = (
        "import sys\nfrom sim.cli import main\ntry: main(['--help'])\n"
        f"except SystemExit: pass\nprint(set({heavy}) & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_verbs_share_names_of_options(capsys: pytest.CaptureFixture[str]) -> None:
    said = {}
    for verb in ("run", "sweep", "stream"):
        with pytest.raises(SystemExit):
            run(verb, "--help")
        said[verb] = set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE))
    shared = {"--engine", "--mode", "--orphans", "--ghost-blocks", "--eviction-sample", "--prefill-tokens-per-s"}
    shared |= {"--decode-s-per-token", "--max-running", "--json"}
    assert all(shared <= options for options in said.values())


def test_workers_alone_mean_processes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("sweep", TRACE, "--capacities", "5%", "--workers", "0") == 1
    assert "--workers 0: expected at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--csv", "--figure", "--resume"])
def test_a_file_that_cannot_be_written_is_named_before_the_work(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").mkdir()
    assert run("sweep", TRACE, "--capacities", "5%", option, str(tmp_path / "a.png")) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "a.png" in printed.err
    assert ".tmp" not in printed.err


@pytest.mark.parametrize("verb", ["explain", "check"])
def test_where_the_zoo_cannot_run_is_said(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(verb, "zoo:arc", *([TRACE] if verb == "explain" else [])) == 1
    assert "runs natively and has no file" in capsys.readouterr().err
    assert run("run", TRACE, "--policy", "zoo:arc", "--engine", "sglang") == 1
    assert "does not replay the zoo" in capsys.readouterr().err
