"""The `kvevolve` command: one module a verb, each of which calls one function of the library and prints.

stdout is the result, stderr progress. Exit codes: 0 ok, 1 error, 2 refused or gate failed. Imports of kernels are put
off until a verb needs them.
"""

from sim.cli.command import main

__all__ = ["main"]
