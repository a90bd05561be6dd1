"""The endpoint: requests, records, its life as a process, the engine's real runs against it, and its configurations."""

from __future__ import annotations

import dataclasses
import http.client
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import typing
from concurrent.futures import ProcessPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml
from openevolve.config import Config, LLMModelConfig, load_config
from openevolve.prompt.sampler import PromptSampler

from sim.policy.program import Policy
from sim.search import configs, endpoint, invocation
from sim.search import prompt as prompts
from sim.search.endpoint import PORT, EndpointError, ensure_endpoint
from sim.search.llm.settings import LlmSettings
from sim.search.server import serve
from sim.search.service import BadRequest, Service
from sim.search.settings import BadSettings, Settings
from sim.search.system_message import PROMPTS, system_message

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = '''"""A seed."""

# EVOLVE-BLOCK-START
def priority(block, cache):
    return block.released + 300.0 * min(block.seen, 3)
# EVOLVE-BLOCK-END
'''


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def call(port: int, path: str, body: object = None, raw: bytes | None = None) -> tuple[int, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    data = raw if raw is not None else None if body is None else json.dumps(body).encode()
    connection.request("GET" if data is None else "POST", path, data)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def alive(port: int) -> bool:
    try:
        return call(port, "/health")[0] == 200
    except OSError:
        return False


def gone(port: int, seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not alive(port):
            return True
        time.sleep(0.1)
    return False


def request(model: str = "kvevolve-gp", diff: bool = True, **rest: object) -> dict:
    user = PromptSampler(Config().prompt).build_prompt(
        current_program=PROGRAM, program_metrics={"combined_score": 0.5}, diff_based_evolution=diff
    )["user"]
    messages = [{"role": "system", "content": "contract"}, {"role": "user", "content": user}]
    return {"model": model, "messages": messages, "seed": 7, "temperature": 0.7, **rest}


# ---- the service ---------------------------------------------------------------------------------------------------


class FlatObjective:
    """Prefers large literals."""

    def score(self, policy: Policy) -> float:
        return sum(literal.value for literal in policy.literals)

    def of_literals(self, policy: Policy):
        return lambda values: sum(min(value, 1e6) for value in values)


def flat_objective() -> FlatObjective:
    return FlatObjective()


def settings(**values: object) -> Settings:
    quiet = {"tune_fraction": 0, "screen_children": 0, "opening": 0}
    return Settings.from_mapping({"objective": f"{__name__}:flat_objective", **quiet, **values})


def contents(service: Service, count: int, **options) -> list[str]:
    return [service.complete(request(**options))["choices"][0]["message"]["content"] for _ in range(count)]


def test_identical_requests_get_different_children_and_runs_repeat():
    first, second = (contents(Service(settings()), 12) for _ in range(2))
    assert len(set(first)) == 12
    assert first == second
    assert contents(Service(settings(seed=8)), 3) != first[:3]
    assert all("<<<<<<< SEARCH" in text for text in first)


def test_models_select_operators(tmp_path):
    service = Service(settings(tune_evaluations=10, tune_total=30), tmp_path)
    contents(service, 2, model="kvevolve-random", diff=False)
    contents(service, 5, model="kvevolve-tune")
    contents(service, 1, model="gpt-whatever")
    calls = [json.loads(line) for line in (tmp_path / "operator.jsonl").read_text().splitlines()]
    assert [entry["moves"] for entry in calls[:2]] == [["draw"], ["draw"]]
    assert [entry["mode"] for entry in calls] == ["rewrite"] * 2 + ["diff"] * 6
    tuned = [entry["tuning"] for entry in calls[2:7]]
    assert tuned[0]["of"] == "champion", "the best program shown is tuned first, once"
    assert all(entry.get("of") != "champion" for entry in tuned[1:])
    assert sum(entry.get("evaluations", 0) for entry in tuned) <= 30
    assert tuned[-1].get("skipped") in ("budget of the run is spent", "no literals")
    assert all(entry["score"] >= entry["start_score"] for entry in tuned if "score" in entry)
    assert calls[-1]["model"] == "gpt-whatever"
    assert len({entry["child"] for entry in calls}) == len(calls)


def test_what_fails_because_the_endpoint_ends_is_no_answer(tmp_path):
    service = Service(settings(), tmp_path)
    for service.ended in (False, True):
        with pytest.raises(BadRequest):
            service.complete({})
    assert len((tmp_path / "operator.jsonl").read_text().splitlines()) == 1


def test_requests_that_are_not_about_programs_are_answered():
    for text in ("Are these codes different? Respond with NOVEL or NOT_NOVEL", "hello"):
        reply = Service(settings()).complete({"messages": [{"role": "user", "content": text}]})
        assert reply["choices"][0]["message"]["content"]
        assert reply["usage"]["total_tokens"] > 0


@pytest.mark.parametrize(
    "body",
    [
        *([], {}, {"messages": []}, {"messages": ["x"]}, {"messages": [{"role": "user", "content": 3}]}),
        *(request(stream=True), request(temperature="hot")),
    ],
)
def test_malformed_bodies_are_refused(body):
    with pytest.raises(BadRequest):
        Service(settings()).complete(body)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tune_fractoin": 0.1}, "did you mean tune_fraction"),
        ({"tune_fraction": 2}, "from 0 to 1"),
        ({"tune_total": "many"}, "give a int"),
        ({"objective": "nothing"}, "module:function"),
        ({"screen": "nothing"}, "module:function"),
        ({"screen_children": -1}, "0 or more"),
        ({"explore": 1.5}, "from 0 to 1"),
    ],
)
def test_wrong_settings_are_refused(values, message):
    with pytest.raises(BadSettings, match=message):
        Settings.from_mapping(values)


# ---- the process ---------------------------------------------------------------------------------------------------


@pytest.fixture
def running(tmp_path):
    found = endpoint.start(free_port(), settings(), tmp_path)
    yield found
    found.stop()
    assert gone(found.port)


def test_http(running, tmp_path):
    port = running.port
    status, health = call(port, "/health")
    assert (status, "kvevolve" in health, health["pid"]) == (200, True, running.process.pid)
    assert {model["id"] for model in call(port, "/v1/models")[1]["data"]} >= {"kvevolve-gp", "kvevolve-random"}
    status, reply = call(port, "/v1/chat/completions", request())
    assert (status, reply["object"]) == (200, "chat.completion")
    for path, sent, wanted in (
        ("/nowhere", None, 404),
        ("/v1/nowhere", {}, 404),
        ("/v1/chat/completions", {}, 400),
        ("/hold", {"pid": "x"}, 400),
    ):
        status, reply = call(port, path, sent)
        assert (status, bool(reply["error"]["message"])) == (wanted, True)
    assert call(port, "/v1/chat/completions", raw=b"{")[0] == 400
    broken = request()
    broken["messages"][1]["content"] = broken["messages"][1]["content"].replace('"""A seed."""', "import os")
    status, reply = call(port, "/v1/chat/completions", broken)
    assert status == 422
    assert "outside the EVOLVE-BLOCK" in reply["error"]["message"]
    entries = [json.loads(line) for line in (tmp_path / "operator.jsonl").read_text().splitlines()]
    assert [("error" in entry) for entry in entries] == [False, True, True]


def test_an_own_endpoint_is_found_again_and_another_process_may_hold_it(running):
    assert endpoint.start(running.port) is running
    code = f"""
        import time
        from sim.search import endpoint
        found = endpoint.start({running.port})
        assert found.process is None
        print("held", flush=True)
        input()
    """
    other = script(code)
    assert other.stdout.readline() == "held\n"
    running.stop()
    assert alive(running.port)
    other.communicate("\n", timeout=120)
    assert gone(running.port)


def script(code: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, text=True, cwd="/")


@pytest.mark.parametrize("end", ["return", "exception", "SIGKILL"])
def test_the_endpoint_ends_with_its_parent_even_if_a_forked_worker_lives_on(end):
    port = free_port()
    code = f"""
        import os, time
        from sim.search import endpoint
        from sim.search.settings import Settings
        endpoint.start({port}, Settings(tune_fraction=0.0, screen_children=0))
        worker = os.fork()
        if worker == 0:
            time.sleep(60)
            os._exit(0)
        print(worker, flush=True)
        if {end!r} == "SIGKILL":
            time.sleep(60)
        if {end!r} == "exception":
            raise SystemExit(3)
    """
    process = script(code)
    worker = int(process.stdout.readline())
    try:
        if end == "SIGKILL":
            assert alive(port)
            process.kill()
        process.wait(120)
        assert gone(port)
    finally:
        os.kill(worker, signal.SIGKILL)


class Foreign(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"ok": true}')

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_port_held_by_something_else_is_an_error_that_says_what_to_change():
    server = HTTPServer(("127.0.0.1", 0), Foreign)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_address[1]
    with pytest.raises(EndpointError, match=rf"port {port} is held.*replace {port}.*{port + 1}"):
        endpoint.start(port)
    server.shutdown()
    server.server_close()
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        threading.Thread(target=lambda: mute.accept()[0].close(), daemon=True).start()
        with pytest.raises(EndpointError, match="is held by another program"):
            endpoint.start(mute.getsockname()[1])


def test_workers_start_nothing(tmp_path):
    path = tmp_path / "config.yaml"
    port = free_port()
    path.write_text(f"llm:\n  api_base: http://127.0.0.1:{port}/v1\n  models: [{{name: kvevolve-gp}}]\n")
    for method in ("fork", "spawn"):
        with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
            assert pool.submit(ensure_endpoint, path).result() is None
    assert not alive(port)


@pytest.mark.parametrize(
    ("base", "name", "port"),
    [
        (f"http://127.0.0.1:{PORT}/v1", "anything", PORT),
        ("http://localhost:9000/v1/", "kvevolve-gp", 9000),
        ("http://127.0.0.1:11434/v1", "qwen2.5-coder:14b", None),
        ("https://api.openai.com/v1", "kvevolve-gp", None),
        (f"http://127.0.0.1:{PORT}/other", "kvevolve-gp", None),
    ],
)
def test_only_own_endpoints_are_started(base, name, port):
    assert endpoint._port(name, base) == port


def test_the_command_line_is_read_as_the_engine_reads_it(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("llm:\n  api_base: http://127.0.0.1:1/v1\n  models: [{name: a}, {name: b, api_base: x}]\n")
    run = "/bin/openevolve-run"
    read = invocation.current
    assert read(["/bin/pytest", "-c", str(path)]) is None
    assert read([run, "i.py", "e.py", f"--config={path}", "--api-base", "y"]).models() == [
        ("a", "http://127.0.0.1:1/v1"),
        ("b", "x"),
    ]
    assert read([run, "i.py", "e.py", "-c", str(path), "--primary-model", "m"]).models() == [
        ("m", "http://127.0.0.1:1/v1")
    ]
    assert read([run, "dir/i.py", "e.py"]).models() == []
    assert read([run, "dir/i.py", "e.py"]).output == Path("dir/openevolve_output")
    assert read([run, "i.py", "e.py", "-o", "out", "--primary-model", "m", "--api-base", "y"]).models() == [("m", "y")]


# ---- the engine ----------------------------------------------------------------------------------------------------

EVALUATOR = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from sim.search.endpoint import ensure_endpoint
ENDPOINT = ensure_endpoint()
from sim.policy.program import Policy


def evaluate(path):
    policy = Policy.from_file(path)
    score = 0.2 + (policy.nodes * 7 % 23) / 50
    return {{"combined_score": score, "capacity_tilt": float(policy.nodes), "refused_share": score / 2}}
"""

OBJECTIVE = """
class Objective:
    def score(self, policy):
        return 0.0

    def of_literals(self, policy):
        return lambda values: -sum(abs(value - 50) for value in values)


class Measured:
    score, stage, refs = 0.1, "panel", 7


class Screen:
    def measure(self, source):
        return Measured()
"""


def evolve(folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "initial_program.py").write_text(PROGRAM)
    (folder / "evaluator.py").write_text(EVALUATOR)
    (folder / "toy_objective.py").write_text(OBJECTIVE)
    return subprocess.run(
        [Path(sys.executable).parent / "openevolve-run", "initial_program.py", "evaluator.py", *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=400,
    )


def check_run(folder: Path, done: subprocess.CompletedProcess[str], iterations: int, traced: bool = True) -> list[dict]:
    """Check that no iteration was lost; return the record of the calls."""
    assert done.returncode == 0, done.stderr[-2000:]
    assert " error:" not in done.stderr, done.stderr[-2000:]
    out = folder / "openevolve_output"
    calls = [json.loads(line) for line in (out / "operator.jsonl").read_text().splitlines()]
    assert len(calls) == iterations
    assert not [entry for entry in calls if "error" in entry]
    assert done.stderr.count(" completed in ") == iterations
    assert len({entry["source"] for entry in calls}) == iterations
    assert (out / "evolution_trace.jsonl").exists() is traced
    assert (out / "best" / "best_program.py").exists()
    return calls


@pytest.mark.parametrize("diff", [True, False])
def test_a_run_of_the_engine_loses_no_iteration(tmp_path, diff):
    port, iterations = free_port(), 8
    config = yaml.safe_load(configs.text(configs.KINDS["config.yaml"]))
    config.update(diff_based_evolution=diff, max_iterations=iterations, checkpoint_interval=4)
    config["llm"]["api_base"] = f"http://127.0.0.1:{port}/v1"
    toys = {"objective": "toy_objective:Objective", "screen": "toy_objective:Screen"}
    config["kvevolve"]["search"].update(toys, tune_fraction=0.5, tune_total=60)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    calls = check_run(tmp_path, evolve(tmp_path, "--config", "config.yaml"), iterations)
    assert {entry["mode"] for entry in calls} == {"diff" if diff else "rewrite"}
    tuned = [entry["tuning"] for entry in calls if "evaluations" in entry.get("tuning", {})]
    assert tuned
    assert sum(entry["evaluations"] for entry in tuned) <= 60
    screened = 7 * config["kvevolve"]["search"]["screen_children"]
    bred = [entry for entry in calls if entry["moves"] != ["tuned"]]
    assert {entry["ends"]["refs screened"]["count"] for entry in bred} == {screened}
    assert gone(port)


def test_the_bare_form_runs_with_engine_defaults_once_it_names_a_model(tmp_path):
    port = free_port()
    options = ("--iterations", "4", "--primary-model", "kvevolve-gp", "--api-base", f"http://127.0.0.1:{port}/v1")
    done = evolve(tmp_path, *options, OPENAI_API_KEY="any", KVEVOLVE_SEARCH="{tune_fraction: 0, screen_children: 0}")
    check_run(tmp_path, done, 4, traced=False)
    assert gone(port)


def test_the_bare_form_finds_a_model_at_the_endpoint_the_environment_names(tmp_path):
    """OpenEvolve 0.4.0 reads OPENAI_API_BASE, but without a configuration it has no model to give it to."""
    served = endpoint.start(free_port(), Settings(tune_fraction=0, screen_children=0), tmp_path / "openevolve_output")
    try:
        done = evolve(tmp_path, "--iterations", "4", OPENAI_API_KEY="any", OPENAI_API_BASE=served.url)
    finally:
        served.stop()
    assert "OpenEvolve names no model by default; using kvevolve-gp" in done.stderr
    check_run(tmp_path, done, 4, traced=False)


def test_the_bare_form_without_any_endpoint_is_warned_about(tmp_path):
    base = f"http://127.0.0.1:{free_port()}/v1"
    done = evolve(tmp_path, "--iterations", "1", OPENAI_API_KEY="any", OPENAI_API_BASE=base)
    assert "lists no models" in done.stderr
    assert "--primary-model" in done.stderr


# ---- configurations ------------------------------------------------------------------------------------------------

NAMES = sorted(configs.KINDS)


@pytest.mark.parametrize("name", NAMES)
def test_files_equal_what_the_table_generates(name):
    assert (ROOT / name).read_text(encoding="utf-8") == configs.text(configs.KINDS[name]), (
        "run python -m sim.search.configs --write"
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_key_exists_in_the_engine_and_says_why_it_is_set(name):
    content = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    section = content.pop("kvevolve", {})
    Settings.from_mapping(section.pop("search", {}))
    if "llm" in section:
        LlmSettings.from_mapping(section.pop("llm"))
    assert not section
    check_keys(content, Config, "")
    assert content["prompt"]["system_message"] == system_message()
    assert content["max_iterations"] % content["checkpoint_interval"] == 0
    assert content["evaluator"]["cascade_evaluation"] is False
    lines = list(configs.lines(configs.KINDS[name]))
    assert all(line.why for line in lines)
    default = dataclasses.asdict(Config())
    for line in lines:
        if not line.path.startswith(("kvevolve.", "llm.api_base")):
            value = default
            for part in line.path.split("."):
                value = value[part]
            assert line.value != value, f"{line.path} is the default"


def check_keys(content: dict, wanted: type, path: str) -> None:
    types = typing.get_type_hints(wanted, globalns={**vars(sys.modules[wanted.__module__]), "LLMInterface": object})
    for key, value in content.items():
        assert key in types, f"{path}{key} is no setting of OpenEvolve"
        if dataclasses.is_dataclass(types[key]):
            check_keys(value, types[key], f"{path}{key}.")
        elif key in ("models", "evaluator_models"):
            for model in value:
                check_keys(model, LLMModelConfig, f"{path}{key}.")


@pytest.mark.parametrize("name", NAMES)
def test_the_engine_loads_it_and_no_key_is_inside(name, monkeypatch):
    for variable in ("OPENAI", "ANTHROPIC", "GEMINI", "OPENROUTER"):
        monkeypatch.setenv(f"{variable}_API_KEY", "from-the-environment")
    config = load_config(ROOT / name)
    model = config.llm.models[0]
    secret = "${" in (ROOT / name).read_text(encoding="utf-8")
    assert (model.api_key == "from-the-environment") is secret
    assert secret or name == "config.yaml" or config.llm.manual_mode or "127.0.0.1" in model.api_base
    assert config.prompt.template_dir == (None if name == "config.yaml" else str(PROMPTS))
    assert model.name
    assert bool(endpoint._port(model.name, model.api_base)) is (name == "config.yaml")
    assert config.diff_based_evolution is (name not in ("examples/ollama.yaml", "examples/full_rewrite.yaml"))
    assert prompts.read(config.prompt.system_message) is None
    assert "```" not in config.prompt.system_message


@pytest.mark.parametrize("values", [{"tune_fraction": 0.1, "settle_passes": 0}, {"tune_fraction": 0, "opening": 1}])
def test_without_cmaes_nothing_that_tunes_is_served(values, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert Settings.from_mapping(values).tunes
    with pytest.raises(BadSettings, match="tune_fraction and settle_passes to 0"):
        serve(free_port(), Settings.from_mapping(values), None, None)
    assert not settings(settle_passes=3).tunes
