"""Prompts of engines other than OpenEvolve: what to vary, what to cross it with, and how to answer."""

from __future__ import annotations

import pytest
from openevolve.novelty_judge import NOVELTY_USER_MSG
from openevolve.prompt.templates import TemplateManager

from sim.search import layouts
from sim.search import prompt as prompts

FENCE = "`" * 3


def policy(expression: str) -> str:
    block = f"# EVOLVE-BLOCK-START\ndef priority(block, cache):\n    return {expression}\n# EVOLVE-BLOCK-END"
    return f'"""A policy."""\n\n\n{block}'


def fenced(expression: str, language: str = "python") -> str:
    return f"{FENCE}{language}\n{policy(expression)}\n{FENCE}"


PARENT, FIRST, SECOND = "block.seen", "block.depth", "block.gap"

SKYDISCOVER = f"""# Current Program Information
- Main Metrics:
- combined_score: 0.1234

# Program Generation History
## Previous Attempts

### Attempt 1
- Metrics: combined_score: 0.9000, valid: 1.0000

## Other Inspirational Programs
### Program 1 (combined_score: 0.2000)
Score breakdown:
  - valid: 1.0000

{fenced(FIRST)}

### Program 2 (combined_score: -0.3000)

{fenced(SECOND)}

# Current Program

## Program Information
combined_score: 0.1234
Score breakdown:
  - valid: 1.0000

{fenced(PARENT)}

## cells
trace capacity hit_rate

# Task
"""
GEPA = f"""You are an expert.

## Current Component

The component being optimized:

{fenced(PARENT, "")}

## Evaluation Results

{FENCE}
# Example 1
## Scores (Higher is Better)
### combined_score
0.1
{FENCE}

## Output Format

Provide ONLY the improved version within {FENCE} blocks. Do not include markdown outside the {FENCE} blocks."""
LEVI = f"""## Problem
The contract.

## Signature
{FENCE}python
def priority(block, cache):
{FENCE}

## v1
Score: 0.1234
{fenced(PARENT)}

## v2
Score: 0.2
{fenced(FIRST)}

## v3
Score: -0.3
{fenced(SECOND)}

## Output
Your response must follow this structure:
{FENCE}python
def function_name(...):
    return ...
{FENCE}
"""
SHINKA = f"""Here are the performance metrics of a set of prioviously implemented programs:

# Prior programs

{fenced(FIRST)}

Performance metrics:
Combined score to maximize: 0.20
valid: 1.00

{fenced(SECOND)}

Performance metrics:
Combined score to maximize: -0.30
valid: 1.00

Text feedback:
rank 3

# Current program

Here is the current program we are trying to improve:

{fenced(PARENT)}

Here are the performance metrics of the program:

Combined score to maximize: 0.1234
valid: 1.00

# Task

"""
DIFF = "Describe each change with a SEARCH/REPLACE block."


@pytest.mark.parametrize(
    ("text", "score", "partners"),
    [
        (SKYDISCOVER, 0.1234, [0.2, -0.3]),
        (GEPA, None, []),
        (LEVI, 0.1234, [0.2, -0.3]),
        (LEVI.replace("Score: 0.1234", "Score: N/A"), None, [0.2, -0.3]),
        (SHINKA, 0.1234, [0.2, -0.3]),
        (SHINKA.replace("# Current program", "# Incorrect Program to Fix"), 0.1234, [0.2, -0.3]),
    ],
    ids=["skydiscover", "gepa", "levi", "levi-unscored", "shinka", "shinka-fix"],
)
def test_parent_partners_and_scores(text, score, partners):
    for ending, mode in (("", "rewrite"), (DIFF, "diff")):
        prompt = prompts.read(text + ending)
        assert prompt.parent == policy(PARENT)
        assert prompt.fitness == score
        assert [partner.score for partner in prompt.partners] == partners
        assert [partner.source for partner in prompt.partners] == [policy(FIRST), policy(SECOND)][: len(partners)]
        assert prompt.mode == mode


def test_a_crossover_program_after_the_current_one_is_a_partner():
    text = f"{SHINKA}\n# Crossover Inspiration Programs\n{fenced('1.0')}\n\nCombined score to maximize: 0.50\n"
    prompt = prompts.read(text)
    assert prompt.parent == policy(PARENT)
    assert prompt.partners[-1].source == policy("1.0")
    assert prompt.partners[-1].score == 0.5


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        policy("1.0"),
        f"{FENCE}python\ndef priority(block, cache): ...\n{FENCE}",
        f"{FENCE}python\n# EVOLVE-BLOCK-START\n",
        f"# EVOLVE-BLOCK-END\n{FENCE}\n# EVOLVE-BLOCK-START\n",
        "# EVOLVE-BLOCK-START\n# EVOLVE-BLOCK-END\n" * 3,
    ],
    ids=["empty", "talk", "no fence", "no markers", "cut off", "wrong order", "markers alone"],
)
def test_prompts_without_a_whole_program_ask_for_none(text):
    assert layouts.programs(text)[0] == []
    assert prompts.read(text) is None


@pytest.mark.parametrize("name", ["novelty", "evaluation", "analysis"])
def test_programs_to_be_judged_are_not_varied(name):
    if name == "novelty":
        text = NOVELTY_USER_MSG.format(language="python", existing_code=policy("1.0"), proposed_code=policy("2.0"))
    elif name == "evaluation":
        text = TemplateManager().get_template("evaluation").format(current_program=policy("1.0"))
    else:
        text = f"# Program to Analyze\n\n{fenced('1.0')}\n\nCombined score to maximize: 0.50\n"
    assert layouts.programs(text)[0]
    assert prompts.read(text) is None


def test_long_prompts_are_read_in_reasonable_work():
    many = "\n".join(f"## v{i}\nScore: {i}\n{fenced(PARENT)}" for i in range(300))
    found, rest = layouts.programs(many + f"\n{FENCE}\n# EVOLVE-BLOCK-START" * 300)
    assert [program.score for program in found] == list(range(300))
    assert "EVOLVE-BLOCK-END" not in rest
