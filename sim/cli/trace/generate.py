"""`kvevolve trace generate`: a trace from a workload specification."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable
from typing import Any

from sim.cli.trace import output


def add(actions: Any) -> None:
    """Add the action to the command line."""
    action = actions.add_parser("generate", help="make a trace from a workload specification", description=__doc__)
    action.add_argument("spec", nargs="?", help="a YAML file, or the name of a specification that is shipped")
    output.add_output(action, flag=True, required=False)
    action.add_argument("--seed", type=int, help="instead of the specification's")
    action.add_argument("--requests", type=int, help="instead of the specification's")
    action.add_argument("--block-tokens", type=int, help="instead of the specification's")
    action.add_argument(
        "--list", action="store_true", help="list families, presets (SPEC: one, in full) and shipped names"
    )
    action.set_defaults(verb=_generate)


def _generate(options: argparse.Namespace) -> int:
    if options.list:
        print(_families(options.spec))
        return 0
    if options.spec is None or options.output is None:
        raise ValueError("give a specification and -o FILE, or --list")
    from workloads import spec

    output.check(options)
    found = spec.find_spec(options.spec)
    return output.write(spec.generate(found, options.seed, options.requests, options.block_tokens), options)


def _families(only: str | None) -> str:
    from workloads import spec
    from workloads.synthetic import GENERATORS, PRESETS, generator

    if only is not None:
        family = generator(only)
        return f"{_signature(only, family)}\n\n{inspect.getdoc(family)}"
    lines = ["families, with their parameters:"]
    for name, family in sorted(GENERATORS.items()):
        lines += [f"  {_signature(name, family)}", f"    {(inspect.getdoc(family) or '').splitlines()[0]}"]
    lines += ["", "presets, families with other defaults:"]
    lines += [f"  {name:<36} {preset.family}" for name, preset in PRESETS.items()]
    shipped = spec.shipped()
    lines += ["", "shipped specifications:", *(f"  {name}" for name in shipped or ["(none)"])]
    return "\n".join(lines)


def _signature(name: str, family: Callable[..., Any]) -> str:
    from workloads import spec

    shown = []
    for key, one in spec.family_parameters(family).items():
        kind = inspect.formatannotation(one.annotation)
        shown.append(f"{key}: {kind}" if one.default is inspect.Parameter.empty else f"{key}={one.default!r}")
    return f"{name}({', '.join(shown)})"
