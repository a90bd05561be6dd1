"""Flat accounting of a trace: full blocks as independent objects, the way general cache simulators see it.

No engine works so: what is hit here may lie behind a gap. For comparisons with libCacheSim and published tables.
"""

from __future__ import annotations

from sim import zoo
from sim.engines import Engine, NoParameters
from sim.options import Options, Replay
from sim.prepared import Prepared


def _run(prepared: Prepared, capacity_blocks: int, options: Options, policy: str, parameters: NoParameters) -> Replay:
    if options.mode != "serial" or options.decode != "none":
        raise ValueError("engine 'flat' knows no time and no generated blocks; use mode='serial' and decode='none'")
    return zoo.run_flat(prepared, capacity_blocks, options, policy)


_NAMES = ("lru", *(name for name in zoo.NAMES if name != "lru"))


def _zoo(prepared: Prepared, capacity_blocks: int, options: Options, name: str) -> Replay:
    return _run(prepared, capacity_blocks, options, name, NoParameters())


ENGINES = (Engine("flat", "libCacheSim 0.3.5", True, _NAMES, NoParameters, _run, None, _zoo),)
