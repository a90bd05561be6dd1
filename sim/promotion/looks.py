"""Looks at a test split: written down before they are taken, whoever takes them, and compared with what bundles tell.

A promotion takes one; so does who compares a policy there by hand, and chooses by what it shows. What comes with this
package is known there already, and a second look shows what the first did: neither is written down.

Knows the ledger of looks. Must not know what is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sim.policy.program import Policy
from sim.promotion import ledger
from sim.promotion.bundle import SHIPPED, Bundle
from sim.registry import load_policy, policies
from sim.rundir import versions
from workloads.panel import Panel


def begin(directory: Path, policy: Policy, panel: Panel) -> dict[str, str]:
    """Write down a look at a panel that is about to be taken; return when, at what and with which code.

    Raises:
        OSError: If it cannot be written: the split must not be read then.
    """
    look = {
        "time": ledger.now(),
        "panel": panel.name,
        "fingerprint": panel.fingerprint,
        "kvevolve": versions()["kvevolve"],
    }
    ledger.append(directory / ledger.TEST_READS, {**look, "sha256": policy.sha256, "name": policy.name})
    return look


def begin_by_hand(chosen: Sequence[str | Path | Policy], panel: Panel, directory: Path | None = None) -> list[str]:
    """Write down the looks that replaying some policies on a test split takes.

    Args:
        chosen: Names or files of policies, or policies; what runs natively ("vllm", "zoo:arc") may be among them.
        panel: The test split.
        directory: Of the ledger; default that of the incumbents of this package.

    Returns:
        The names of the policies that had no look at it before.

    Raises:
        ValueError: If a look cannot be written down; the split must not be read then.
    """
    place, shipped = directory or SHIPPED, policies()
    known = {path.read_bytes() for path in shipped.values()}
    files = [one for one in chosen if isinstance(one, Policy) or (str(one) not in shipped and Path(one).is_file())]
    new = []
    for policy in [load_policy(file) for file in files]:
        if policy.source.encode() in known or ledger.reads_of(place, policy.sha256, panel.fingerprint):
            continue
        try:
            begin(place, policy, panel)
        except OSError as error:
            raise ValueError(
                f"the test split is not read: the look cannot be noted in {place / ledger.TEST_READS} ({error});"
                " fix: make it writable, or use --panel validation"
            ) from None
        new.append(policy.name)
    return new


def fault(loaded: Bundle, directory: Path) -> str:
    """Return in which way a bundle tells of other looks than the ledger beside it does; nothing if in none.

    Raises:
        BundleError: If the ledger cannot be read.
    """
    told = [look.time for look in loaded.manifest.test_reads]
    fingerprint = loaded.manifest.scores["test"].fingerprint
    logged = [str(entry.get("time")) for entry in ledger.reads_of(directory, loaded.manifest.sha256, fingerprint)]
    if told == logged:
        return ""
    return (
        f"tells of looks at the test split on {', '.join(told)}, and {directory / ledger.TEST_READS} of"
        f" {', '.join(logged) or 'none'}; fix: restore the file that was changed"
    )
