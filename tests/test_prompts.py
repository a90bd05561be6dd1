"""What a model is told: the contract, worked examples, and templates that carry what was measured."""

from __future__ import annotations

import pytest
from fake_model import FENCE
from openevolve.config import Config
from openevolve.prompt.sampler import PromptSampler
from test_proxy import PROGRAM

from sim.check import check_policy
from sim.core import fields
from sim.policy import language
from sim.policy.program import Policy
from sim.search import prompt as prompts
from sim.search import system_message


def test_the_contract_is_the_one_in_force():
    told = system_message.system_message()
    assert fields.describe() in told
    for name, parameters in language.SIGNATURES.items():
        assert f"def {name}({', '.join(parameters)}):" in told
    for part in (
        *language.BUILTINS,
        *language.SCORING,
        f"n <= {language.MAX_LOOP_STEPS}",
        f"{language.MAX_NODES} syntax",
    ):
        assert part in told


@pytest.mark.parametrize("name", ["capacity_aware", "session_state"])
def test_worked_examples_are_admissible(name):
    assert check_policy(Policy.from_source(system_message.worked(name))) == []
    assert system_message.worked(name).strip() in system_message.system_message()


ARTIFACTS = {"cells": "trace capacity_blocks", "weakest_cell": "trace t", "rank_among_baselines": "1. vllm"}


@pytest.mark.parametrize("diffs", [True, False])
def test_own_templates_carry_what_was_measured_and_are_lean(diffs):
    config = Config().prompt
    config.template_dir = str(system_message.PROMPTS)
    shown = {
        "id": "a",
        "code": PROGRAM,
        "metrics": {"combined_score": 0.1, "valid": 1.0},
        "metadata": {"changes": "Change 1: Replace"},
    }

    def build() -> str:
        return PromptSampler(config).build_prompt(
            current_program=PROGRAM,
            program_metrics={"combined_score": 0.5, "worst_trace": 0.1},
            previous_programs=[shown],
            top_programs=[shown],
            inspirations=[shown | {"id": "b"}],
            program_artifacts=ARTIFACTS,
            feature_dimensions=["complexity_nodes"],
            diff_based_evolution=diffs,
        )["user"]

    user = build()
    for part in (*ARTIFACTS.values(), "Fitness: 0.5000", "worst_trace: 0.1000", "complexity_nodes", PROGRAM):
        assert part in user
    read = prompts.read(user)
    assert read is not None
    assert (read.mode, read.parent, read.fitness) == ("diff" if diffs else "rewrite", PROGRAM, 0.5)
    assert [partner.source.strip() for partner in read.partners] == [PROGRAM.strip()] * 2
    config.template_dir = None
    assert len(user) < len(build())
    assert "{" not in user.replace(PROGRAM, "")
    assert user.count(FENCE) % 2 == 0
