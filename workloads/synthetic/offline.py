"""Offline work: one template over a whole corpus, and many samples of one prompt.

Knows batch jobs. Must not know people waiting for answers.
"""

from __future__ import annotations

from workloads.synthetic.arguments import begin
from workloads.synthetic.draws import length, lengths
from workloads.synthetic.prompts import ROOT
from workloads.synthetic.starts import starts, steady
from workloads.trace import Trace


def batch_sweep(
    seed: int,
    requests: int = 8_000,
    block_tokens: int = 16,
    jobs: int = 12,
    parallel_jobs: int = 3,
    template_tokens: float = 2_500.0,
    row_tokens: float = 900.0,
    sampled_share: float = 0.4,
    samples: int = 8,
    spread_s: float = 30.0,
    rows_per_s: float = 4.0,
) -> Trace:
    """Batch jobs that sweep a corpus with one template each; some sample every prompt many times.

    Imitates labelling, extraction and evaluation runs, and best-of-n or self-consistency sampling. A template is hot
    while its job runs and dead after; a row is read once, or ``samples`` times within ``spread_s``.

    Args:
        seed: Seed, >= 0.
        requests: Requests in the trace, spread evenly over the jobs.
        block_tokens: Tokens per block.
        jobs: Jobs, started one after another.
        parallel_jobs: Jobs that run side by side.
        template_tokens: Median tokens of a job's template (lognormal, sigma 0.6, at most 16,000).
        row_tokens: Median tokens of a row (lognormal, sigma 0.9, at most 24,000).
        sampled_share: Share of the jobs that sample.
        samples: Samples per row in these jobs.
        spread_s: Seconds over which the samples of a row arrive.
        rows_per_s: Poisson rate of rows per second over all jobs.

    Returns:
        The trace, with session (row), turn (sample), tenant (job) and request_type (0: first sample, 1: further one).
        The default has about 420,000 distinct blocks.
    """
    parameters: dict[str, object] = dict(locals())
    rng, log = begin(batch_sweep, parameters)
    sizes = lengths(rng, template_tokens, 0.6, 16_000, jobs)
    templates = [log.tree.extend(ROOT, tokens, job) for job, tokens in enumerate(sizes)]
    share = max(1, -(-requests // jobs))
    done = [0] * jobs
    running, waiting = list(range(jobs))[:parallel_jobs], list(range(jobs))[parallel_jobs:]
    sampling = set(rng.permutation(jobs)[: round(sampled_share * jobs)].tolist())
    for row, at_s in starts(log, requests, steady(rng, rows_per_s)):
        job = running[int(rng.integers(0, len(running)))]
        node = log.tree.extend(templates[job], length(rng, row_tokens, 0.9, 24_000))
        further = samples - 1 if job in sampling else 0
        for sample, later_s in enumerate([0.0, *sorted((spread_s * rng.random(further)).tolist())]):
            log.add(at_s + later_s, node, length(rng, 180.0, 0.8, 4_000), row, sample, job, int(sample > 0))
            done[job] += 1
        if done[job] >= share and (waiting or len(running) > 1):
            running.remove(job)
            running += [waiting.pop(0)] if waiting else []
    return log.trace("batch_sweep", requests, parameters)
