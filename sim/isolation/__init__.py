"""Run one request of untrusted code in a killable child of a warm process.

Start at ``zygote.py`` (the caller's side); ``sandbox.py`` states what is and what is not covered.
"""

from sim.isolation.outcome import Limits, Outcome, ZygoteError
from sim.isolation.zygote import Zygote

__all__ = ["Limits", "Outcome", "Zygote", "ZygoteError"]
