"""The zoo: equal to libCacheSim where that is possible, to hand-computed traces, to plain Python, and to vLLM's LRU."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import zoo_twins
from conftest import extra
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from small_traces import hand_trace, random_traces

from sim import zoo
from sim.bounds import ceiling
from sim.cli import main
from sim.core import compiled
from sim.options import Options
from sim.prepared import prepare
from sim.simulation import simulate
from workloads import Trace
from workloads.readers import oracle_general
from workloads.synthetic import chat

CAPACITIES = (2_000, 10_000, 20_000)
PEERS = {
    "fifo": "FIFO",
    "lru": "LRU",
    "lfu": "LFU",
    "lfuda": "LFUDA",
    "gdsf": "GDSF",
    "lru-k": "LRUK",
    "slru": "SLRU",
    "2q": "TwoQ",
    "mq": "MQ",
    "arc": "ARC",
    "lirs": "LIRS",
    "sieve": "Sieve",
    "s3-fifo": "S3FIFO",
    "w-tinylfu": "WTinyLFU",
    "belady": "Belady",
}
"""Policies with the same hits as libCacheSim, on every trace and at every capacity it accepts."""

RANDOM_PEERS = {"hyperbolic": ("Hyperbolic", 0.01), "lhd": ("LHD", 0.01), "lecar": ("LeCaR", 0.01)}
"""Policies that draw random numbers, and the share of hits they may differ by. libCacheSim's numbers come from one
stream per thread, shared by everything that ran before, and Hyperbolic's from buckets of its hash table: its own hits
change from run to run."""

OURS_ONLY = ("mru", "lfu-ghost", "cacheus")
"""MRU and LFU with ghost counts are not in libCacheSim's Python package; CACHEUS follows the paper, see its test."""

ONLINE = tuple(name for name in zoo.NAMES if name not in zoo.OFFLINE)
EVERY = pytest.mark.parametrize("name", zoo.NAMES)


def objects(text: str, block_tokens: int = 10) -> Trace:
    """Return a trace of one full block per request, one letter each, with a tail of one token."""
    return hand_trace([[ord(x) - ord("a")] for x in text], [block_tokens + 1] * len(text), block_tokens)


@pytest.fixture(scope="session")
def peer(tmp_path_factory):
    """Return libCacheSim's hits for (trace, policy, capacity); skips where it is not installed."""
    library = extra("libcachesim")
    files: dict[str, Path] = {}

    def hits(trace: Trace, name: str, capacity: int) -> int:
        if trace.name not in files:
            files[trace.name] = tmp_path_factory.mktemp("flat") / "trace.oracleGeneral"
            oracle_general.write(trace, files[trace.name])
        reader = library.TraceReader(str(files[trace.name]), library.TraceType.ORACLE_GENERAL_TRACE)
        cache = getattr(library, name)(cache_size=capacity, hashpower=16)
        return round((1.0 - cache.process_trace(reader)[0]) * trace.n_refs)

    return hits


@pytest.fixture(scope="session")
def conversation(real_trace):
    return real_trace("mooncake_conversation")


@pytest.fixture(scope="session")
def synthetic():
    return chat(seed=3, requests=1_500)


def flat(trace: Trace, name: str, capacity: int) -> int:
    return simulate(trace, name, capacity, engine="flat").hit_blocks


# ---- libCacheSim -----------------------------------------------------------------------------------------------------


def test_every_policy_is_compared_or_says_why_not():
    assert sorted([*PEERS, *RANDOM_PEERS, *OURS_ONLY]) == sorted(zoo.NAMES)


@pytest.mark.parametrize("capacity", CAPACITIES)
@pytest.mark.parametrize("name", PEERS)
def test_equals_libcachesim(name, capacity, conversation, peer):
    assert flat(conversation, name, capacity) == peer(conversation, PEERS[name], capacity)


@pytest.mark.parametrize("name", PEERS)
def test_equals_libcachesim_at_odd_capacities(name, synthetic, peer):
    """501 and 1,003 do not divide by four: SLRU's segments do not add up, and libCacheSim evicts on a hit."""
    for capacity in (501, 1_003):
        assert flat(synthetic, name, capacity) == peer(synthetic, PEERS[name], capacity)


@pytest.mark.parametrize("name", RANDOM_PEERS)
def test_is_near_libcachesim(name, synthetic, peer):
    theirs, share = RANDOM_PEERS[name]
    assert flat(synthetic, name, 2_000) == pytest.approx(peer(synthetic, theirs, 2_000), rel=share)


def test_cacheus_is_no_worse_than_libcachesim(conversation, peer):
    """libCacheSim's forgets the flags that resize SR and never changes the learning rate: ours gets 0 to 10% more."""
    theirs = peer(conversation, "Cacheus", 10_000)
    assert theirs <= flat(conversation, "cacheus", 10_000) <= 1.1 * theirs


# ---- by hand ---------------------------------------------------------------------------------------------------------

BY_HAND = {
    # c throws out a although it was just hit, a throws out b.
    "fifo": (2, "abaca", "00100"),
    # c throws out b, the least recent.
    "lru": (2, "abacab", "001010"),
    # c throws out b, the most recent; then a was hit last, so b throws out a.
    "mru": (2, "abcaba", "000100"),
    # a has 2, b has 1: c throws out b, b throws out c.
    "lfu": (2, "aabcab", "010010"),
    # c throws out a (1 < 2), c gets 2. a returns, b is the older of the twos and leaves; a remembers its 1, now 2.
    # d throws out c, again the older two: a is hit. Without memory a would have had 1 and left.
    "lfu-ghost": (2, "abbccada", "00101001"),
    # Age 0: the hit adds 0 but puts a behind b. c throws out b: age 1, c = 2. Hit: a = 1 + 1, behind c; the lowest is
    # c, so the age is 2. b throws out c, b = 3. a is hit.
    "lfuda": (2, "abacaba", "0010101"),
    # a = b = 2. c = 0 + 1 is the lowest itself: it stays out, age 1. Then c = 1 + 1, a is older: a leaves.
    "gdsf": (2, "aabbccba", "01010010"),
    # a has two accesses. b and c have one and throw each other out.
    "lru-k": (2, "aabcba", "010001"),
    # Segments of one: a, b, c, d fill 0..3. a rises to 1, b sinks to 0. e throws out b, b throws out e.
    "slru": (4, "abcdaeba", "00001001"),
    # A1in 1, A1out 2, but nothing leaves while there is room. e throws a to A1out, a returns to Am and throws out b.
    # c is hit in A1in and yet leaves first, by f.
    "2q": (4, "abcdeaacfac", "00000011010"),
    # a: 2, queue 1. c throws out b (queue 0). b returns with 1 + 1 to queue 1 and throws out c. c: queue 0 is empty,
    # a is older than b in queue 1: a leaves.
    "mq": (2, "aabcabcb", "01001001"),
    # a in T2, b to B1 by c. b returns: target of T1 0 -> 1, T1 = {c} is not above it: a leaves T2 for B2; b to T2.
    # c is hit, to T2: T1 is empty. a returns: target 1 -> 0, b leaves T2.
    "arc": (2, "abacbcacb", "001001010"),
    # LIR limit 3: a, b, c. d shares Q (1) with e, e throws d out, S remembers. d returns: e leaves, a, at the bottom
    # of S, sinks to Q, d is LIR. a is hit in Q.
    "lirs": (4, "abcdeda", "0000001"),
    # a visited. d: the hand clears a and takes b, then stands at c. e takes c, then stands at d. a is hit.
    "sieve": (3, "abcadeab", "00010010"),
    # Small 1, ghosts 3. a in small; b, c, d in main as nothing was evicted yet. e: a becomes a ghost. a returns to
    # main, e becomes a ghost. Main has 4 > 3: f takes b from main, the oldest. c is hit, b is gone.
    "s3-fifo": (4, "abcdeaafcb", "0000001010"),
    # All enter the window. e: a, b, c move to the main cache of 3 (a and b to the upper segment of 2) and count 2; d,
    # with 1, loses against c and counts 2. d again: e loses against c. d counts 3. e again: d wins, c leaves.
    "w-tinylfu": (4, "abcdedaedc", "0000001010"),
    # At time 5 a has 3 accesses in 4, b 1 in 1: c throws out a. At 6 b has 1 in 2, c 1 in 1: a throws out b.
    "hyperbolic": (2, "aaabcac", "0110001"),
    # Before it learns: a, hit at age 0, is in the best class, b in the worst. No explorers below 100 blocks.
    "lhd": (2, "aabca", "01001"),
    # Both experts name a, then c.
    "lecar": (2, "abbcbab", "0010101"),
    # b rises to R. Both experts name a, then c. a comes back from H to R, b sinks, and is hit.
    "cacheus": (2, "abbcab", "001001"),
    # At c, a is next used before b: b leaves.
    "belady": (2, "abcab", "00010"),
}


@EVERY
def test_by_hand(name):
    capacity, accesses, hits = BY_HAND[name]
    found = simulate(objects(accesses), name, capacity, engine="flat").hit_blocks_per_request
    assert "".join(map(str, found)) == hits


def test_prefix_rules_by_hand():
    """Capacity 4. Request 1 hits two blocks, pins them, and needs two slots: it evicts 2 (tail first), not 0 or 1.

    Request 2 finds 0, 1 and the partial tail's slot; its block 2 is missing, so is what follows.
    """
    trace = hand_trace([[0, 1, 2, 3], [0, 1, 4], [0, 1, 2]], [40, 35, 35])
    result = simulate(trace, "zoo:lru", 4)
    assert result.hit_blocks_per_request.tolist() == [0, 2, 2]
    assert (result.admitted_blocks, result.evicted_blocks, result.resident_blocks) == (6, 3, 3)
    assert (result.peak_resident_blocks, result.peak_used_blocks) == (4, 4)


def test_an_orphan_is_recomputed_in_place():
    """Capacity 3, MRU. After request 0 block 0 was released last, so block 9 takes its slot: 1 and 2 are orphans.

    Request 2 hits nothing, although 1 and 2 are there; only block 0 comes in, and throws out 9, for the others are
    pinned. Request 3 hits all but the last block (last-token rule).
    """
    trace = hand_trace([[0, 1, 2], [9], [0, 1, 2], [0, 1, 2]], [30, 10, 30, 30])
    result = simulate(trace, "zoo:mru", 3)
    assert result.hit_blocks_per_request.tolist() == [0, 0, 0, 2]
    assert (result.admitted_blocks, result.evicted_blocks) == (5, 2)


# ---- plain Python ----------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(trace=random_traces(outputs=False), capacity=st.integers(1, 24))
def test_equal_their_twins_in_flat_accounting(trace, capacity):
    for name, make in zoo_twins.TWINS.items():
        twin, result = make(capacity, True), simulate(trace, name, capacity, engine="flat")
        assert (name, result.hit_blocks_per_request.tolist()) == (name, zoo_twins.replay_flat(twin, trace))
        assert (name, result.evicted_blocks, result.resident_blocks) == (name, twin.evicted, len(twin.resident))


@pytest.mark.parametrize("mode", ["serial", "overlap"])
@settings(max_examples=40)
@given(trace=random_traces(), capacity=st.integers(1, 24), most=st.sampled_from([2, 256]))
def test_equal_their_twins_in_prefix_accounting(mode, trace, capacity, most):
    """The twins also assert that no block in use is evicted and that the cache never overflows."""
    options = {"mode": mode, "max_running": most, "prefill_tokens_per_s": 100.0}
    for name, make in zoo_twins.TWINS.items():
        twin, result = make(capacity, False), simulate(trace, f"zoo:{name}", capacity, **options)
        hits = zoo_twins.PrefixReplay(twin, trace, Options(**options).server).run()
        assert (name, result.hit_blocks_per_request.tolist()) == (name, hits)
        assert (name, result.evicted_blocks, result.resident_blocks) == (name, twin.evicted, len(twin.resident))


# ---- vLLM ------------------------------------------------------------------------------------------------------------


def without_full_last_blocks(trace: Trace) -> Trace:
    """Add a token to every prompt that ends with a full block: then no block is ever recomputed that is resident."""
    tokens = trace.input_tokens + (trace.input_tokens % trace.block_tokens == 0)
    columns = {"offsets": trace.offsets, "block_ids": trace.block_ids, "arrival_s": trace.arrival_s}
    return Trace.build(
        name=f"{trace.name} with tails",
        block_tokens=trace.block_tokens,
        input_tokens=tokens,
        output_tokens=trace.output_tokens,
        **columns,
    )


@pytest.mark.parametrize("mode", ["serial", "overlap"])
@settings(max_examples=60)
@given(trace=random_traces(), capacity=st.integers(1, 24))
def test_lru_equals_vllm_without_second_copies(mode, trace, capacity):
    assume(trace.block_tokens > 1)
    trace = without_full_last_blocks(trace)
    ours, engine = (simulate(trace, policy, capacity, mode=mode).to_dict(True) for policy in ("zoo:lru", "vllm"))
    assert ours.pop("policy") != engine.pop("policy")
    assert ours == engine


@pytest.mark.parametrize("mode", ["serial", "overlap"])
def test_lru_equals_vllm_on_the_conversation(mode, conversation):
    trace = without_full_last_blocks(conversation)
    ours, engine = (simulate(trace, policy, 5_000, mode=mode).hit_blocks_per_request for policy in ("zoo:lru", "vllm"))
    np.testing.assert_array_equal(ours, engine)


PUBLISHED = {
    "lru": (12_165, 12_988, 15_942, 34_185, 62_001, 84_689),
    "lfu": (13_134, 13_886, 17_700, 26_736, 38_035, 60_826),
    "lfu-ghost": (16_699, 22_318, 29_174, 40_789, 54_110, 72_117),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_policy_tables(name, conversation):
    """Section 9 of the engine notes, measured with a prototype that shares no code."""
    hits = [simulate(conversation, f"zoo:{name}", cap).hit_blocks for cap in (500, 1_000, 2_000, 5_000, 10_000, 20_000)]
    assert tuple(hits) == PUBLISHED[name]


# ---- invariants ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ONLINE)
def test_hits_and_occupancy_stay_in_bounds(name, synthetic):
    """At the capacity of the largest request all blocks of it are in use at once: its repetition hits all of them."""
    most, largest = ceiling(synthetic).hit_blocks, prepare(synthetic).largest_blocks
    for capacity in (largest, 3 * largest):
        result = simulate(synthetic, f"zoo:{name}", capacity)
        assert 0 < result.hit_blocks <= most
        assert result.peak_used_blocks <= capacity
        assert result.unserved_requests == 0
        assert result.admitted_blocks - result.evicted_blocks == result.resident_blocks
    assert simulate(synthetic, f"zoo:{name}", synthetic.n_blocks + largest).hit_blocks == most


@pytest.mark.parametrize("name", ONLINE)
def test_what_a_request_computed_is_there_when_it_ends(name):
    rng = np.random.default_rng(1)
    prompts = [[*range(8 * k, 8 * k + 8)] for k in rng.integers(0, 6, 60)]
    twice = [prompt for prompt in prompts for _ in range(2)]
    hits = simulate(hand_trace(twice, [85] * len(twice)), f"zoo:{name}", 9).hit_blocks_per_request
    assert hits[1::2].tolist() == [8] * len(prompts)


GOLDEN = {
    "fifo": (32_139, 27_540),
    "lru": (32_016, 31_928),
    "mru": (31_748, 4_627),
    "lfu": (32_132, 32_086),
    "lfu-ghost": (34_955, 37_547),
    "lfuda": (32_023, 32_051),
    "gdsf": (32_015, 32_012),
    "lru-k": (32_177, 32_086),
    "slru": (35_660, 33_518),
    "2q": (32_423, 33_970),
    "mq": (34_733, 38_804),
    "arc": (33_378, 34_624),
    "lirs": (31_700, 35_843),
    "sieve": (32_003, 32_086),
    "s3-fifo": (33_024, 35_220),
    "w-tinylfu": (33_737, 36_764),
    "hyperbolic": (31_949, 32_008),
    "lhd": (31_759, 32_068),
    "lecar": (32_015, 31_983),
    "cacheus": (32_628, 32_899),
}
"""Hits on `synthetic` at 1,000 blocks: prefix accounting, flat accounting."""


@pytest.mark.parametrize("name", ONLINE)
def test_golden_hits(name, synthetic):
    found = simulate(synthetic, f"zoo:{name}", 1_000).hit_blocks, flat(synthetic, name, 1_000)
    assert found == GOLDEN[name]


ORPHAN_FREE = ("lru", "lfu", "lfu-ghost", "lfuda", "gdsf", "lru-k", "mq", "sieve", "lecar")


@pytest.mark.parametrize("name", ONLINE)
def test_who_evicts_parents_before_children(name, synthetic):
    """Without full last blocks, resident blocks that are not hit are orphans."""
    result = simulate(without_full_last_blocks(synthetic), f"zoo:{name}", 6_000)
    orphans = result.looked_up_blocks - result.hit_blocks - result.admitted_blocks
    assert (orphans == 0) == (name in ORPHAN_FREE)


@pytest.mark.parametrize("name", ONLINE)
def test_replays_repeat(name, synthetic):
    first, second = (simulate(synthetic, f"zoo:{name}", 700).to_dict(True) for _ in range(2))
    assert first == second


# ---- names and refusals ----------------------------------------------------------------------------------------------


def test_a_name_means_the_shipped_policy_first():
    trace = objects("abacbcacb")
    assert simulate(trace, "arc", 3).to_dict() == simulate(trace, "zoo:arc", 3).to_dict()
    assert simulate(trace, "gdsf", 3).priority_calls > 0
    assert simulate(trace, "zoo:gdsf", 3).priority_calls == 0
    assert simulate(trace, "native", 3, engine="flat").policy == "lru"
    assert (
        simulate(trace, "zoo:arc", 3, engine="flat").hit_blocks == simulate(trace, "arc", 3, engine="flat").hit_blocks
    )


@pytest.mark.parametrize(
    ("policy", "options", "message"),
    [
        ("zoo:ark", {}, r"the zoo has no policy 'ark'; did you mean 'zoo:arc'\?"),
        ("arc", {"decode": "private"}, "decode='private' is not supported"),
        ("belady", {}, "needs engine='flat'"),
        ("arc", {"engine": "flat", "mode": "overlap"}, "use mode='serial'"),
        ("arc", {"engine": "flat", "decode": "infer"}, "decode='none'"),
        ("arc", {"engine": "vllm<=0.22"}, "runs its own policies only"),
        ("second_touch", {"engine": "flat"}, "runs its own policies only"),
    ],
)
def test_what_cannot_run_is_refused(policy, options, message):
    with pytest.raises(ValueError, match=message):
        simulate(objects("aba"), policy, 3, **options)


def test_the_command_line_lists_the_zoo(capsys):
    assert main(["policies"]) == 0
    listed = capsys.readouterr().out
    assert all(f"zoo:{name} " in listed for name in zoo.NAMES)


def test_the_kernel_cache_sees_the_zoo():
    seen = compiled._imports("sim.core.zoo.slru")
    assert {"sim.core.zoo.segments", "sim.core.zoo.state", "sim.core.zoo.hooks", "sim.core.heap"} <= seen


def test_the_kernel_cache_misses_no_import():
    for path in compiled.ROOT.rglob("*.py"):
        named = set()
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ImportFrom):
                named |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
        module = ".".join(("sim.core", *path.relative_to(compiled.ROOT).with_suffix("").parts))
        files = {name for name in named if name.startswith("sim.core.") and compiled._source(name).is_file()}
        assert files <= compiled._imports(module), path
