"""One run of the evolution engine as its own command, `openevolve-run`, followed from outside.

Knows the command, its log and the programs it stores; must not know panels, or what becomes of the programs.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from sim.population import Rebuilt
from sim.rundir import RunDir
from sim.search.llm import ending, record

Say = Callable[[str], None]


def run_engine(
    program: Path, evaluator: Path, run: RunDir, iterations: int, say: Say, goes_on: Rebuilt | None, lock: int
) -> bool:
    """Run the engine, telling of every stored child; an interrupt is passed on and waited for.

    Args:
        program: Seed policy.
        evaluator: OpenEvolve evaluator.
        run: Directory with the config of the run.
        iterations: In all.
        say: Receives progress, line by line.
        goes_on: What a stopped run goes on from.
        lock: File descriptor of the run's lock, held by the engine as long as it lives.

    Returns:
        Whether it ran to its end; False if it was interrupted.

    Raises:
        RuntimeError: If the engine fails or stores nothing; its log is named.
        KeyboardInterrupt: If it was interrupted and has stored nothing.
    """
    command = [sys.executable, "-m", "openevolve.cli", str(program), str(evaluator)]
    command += ["--config", str(run.config), "--output", str(run.root)]
    if goes_on:
        if goes_on.done >= iterations:
            say(f"all {iterations} iterations are done already")
            return True
        command += ["--iterations", str(iterations - goes_on.done), "--checkpoint", str(goes_on.checkpoint)]
    interrupted = False
    with run.log.open("ab") as log:
        engine = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, pass_fds=[lock]
        )
        try:
            _follow(engine, run, iterations, say)
        except KeyboardInterrupt:
            interrupted = True
            say("interrupted: waiting for the engine to write its best program")
            engine.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                engine.wait(60)
        finally:
            if engine.poll() is None:
                engine.kill()
                engine.wait()
    if engine.returncode not in (0, 130, -signal.SIGINT):
        raise RuntimeError(f"openevolve-run ended with exit code {engine.returncode}; see {run.log}")
    if interrupted and not run.has_child():
        raise KeyboardInterrupt
    _tell_of_model(run, iterations, say)
    return not interrupted


def _tell_of_model(run: RunDir, iterations: int, say: Say) -> None:
    """Tell what a model was asked and what that cost, and why a run ended before its time."""
    if (run.root / record.NAME).exists():
        say(f"model: {record.summary(record.read(run.root / record.NAME))}")
    early = ending.reason(run.root)
    if not run.has_child():
        why = f": {early}" if early else f" in {iterations} iterations; see {run.log}"
        raise RuntimeError(f"openevolve-run stored no child{why}")
    if early:
        say(f"ended early: {early}")
        say(f"to go on, change {run.config} and: kvevolve evolve --resume {run.root}")


def _follow(engine: subprocess.Popen[bytes], run: RunDir, iterations: int, say: Say) -> None:
    told, best = len(run.children()), -1.0
    while True:
        ended = engine.poll() is not None
        children = run.children()
        for child in children[told:]:
            value = float(child.get("child_metrics", {}).get("combined_score", -1.0))
            if value > best:
                best = value
                say(f"iteration {child.get('iteration', '?')}/{iterations}: new best training score {best:+.4f}")
            elif int(child.get("iteration", 0)) % 10 == 0:
                say(f"iteration {child.get('iteration', '?')}/{iterations}: best training score {best:+.4f}")
        told = len(children)
        if ended:
            return
        time.sleep(0.5)
