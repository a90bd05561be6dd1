"""Questions on long documents, read whole or to varying depth.

Knows documents as chains of sections. Must not know how retrieval or conversations build prompts.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from workloads.synthetic.arguments import begin, choice
from workloads.synthetic.draws import Popularity, length, lengths, turns, wait_s
from workloads.synthetic.prompts import ROOT, PromptTree
from workloads.synthetic.starts import starts, steady
from workloads.trace import Trace

DEPTHS = ("whole", "uniform", "pareto")


def long_document_qa(
    seed: int,
    requests: int = 2_500,
    block_tokens: int = 16,
    documents: int = 300,
    popularity: float = 0.7,
    document_tokens: float = 12_000.0,
    section_tokens: int = 800,
    depth: str = "whole",
    tail_alpha: float = 1.5,
    pareto_sections: float = 2.0,
    questions_mean: float = 3.0,
    think_s: float = 25.0,
    question_tokens: float = 60.0,
    tenants: int = 3,
    sessions_per_s: float = 0.4,
) -> Trace:
    """Questions on long documents: system prompt, the document or the first part of it, then one question.

    Imitates reports, contracts and code files put whole into the prompt (LongBench, Needle-style evaluation, file
    chats without history). A reader asks a few questions in a row; popular documents have many readers.

    Args:
        seed: Seed, >= 0.
        requests: Requests in the trace.
        block_tokens: Tokens per block.
        documents: Documents at hand.
        popularity: Zipf exponent of the documents.
        document_tokens: Median tokens of a document (lognormal, sigma 0.7, at most 120,000).
        section_tokens: Tokens per section; documents are whole sections.
        depth: How much of the document a question puts before itself: "whole"; "uniform", from half of the sections to
            all; "pareto", ``1 + pareto_sections * P`` sections with P Pareto distributed, from 1 on.
        tail_alpha: Tail exponent of "pareto"; smaller is heavier.
        pareto_sections: Scale of "pareto" in sections.
        questions_mean: Mean questions per reader (geometric).
        think_s: Median seconds between a reader's questions (lognormal, sigma 1).
        question_tokens: Median tokens of a question (lognormal, sigma 0.8, at most 8,000).
        tenants: Tenants, which share system prompt and documents.
        sessions_per_s: Rate of new readers per second, burstiness 1.5.

    Returns:
        The trace, with session (reader), turn and tenant. The default has about 240,000 distinct blocks.
    """
    parameters: dict[str, object] = dict(locals())
    choice("depth", depth, DEPTHS)
    rng, log = begin(long_document_qa, parameters)
    system = log.tree.extend(ROOT, 350, "system")
    sizes = [max(1, round(size / section_tokens)) for size in lengths(rng, document_tokens, 0.7, 120_000, documents)]
    ranks = Popularity(documents, popularity)
    read = partial(_sections, rng, depth, tail_alpha, pareto_sections)
    for session, at_s in starts(log, requests, steady(rng, sessions_per_s, 1.5)):
        document, tenant = ranks.draw(rng), int(rng.integers(0, tenants))
        for turn in range(turns(rng, questions_mean)):
            node = _read(log.tree, system, document, read(sizes[document]), section_tokens)
            output = length(rng, 200.0, 0.8, 4_000)
            log.add(
                at_s, log.tree.extend(node, length(rng, question_tokens, 0.8, 8_000)), output, session, turn, tenant
            )
            at_s += wait_s(rng, think_s, 1.0)
    return log.trace("long_document_qa", requests, parameters)


def _sections(rng: np.random.Generator, depth: str, alpha: float, scale: float, sections: int) -> int:
    """Draw how many sections of a document are read."""
    if depth == "uniform":
        return int(rng.integers((sections + 1) // 2, sections + 1))
    if depth == "pareto":
        return min(sections, int(1.0 + scale * (1.0 + rng.pareto(alpha))))
    return sections


def _read(tree: PromptTree, node: int, document: int, sections: int, section_tokens: int) -> int:
    """Return the prompt after the first sections of a document."""
    for section in range(sections):
        node = tree.extend(node, section_tokens, (document, section))
    return node
