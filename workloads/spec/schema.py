"""What a workload specification holds.

Knows the fields, their kinds and ranges, and their defaults. Must not know YAML, nor how traffic is made.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue

from workloads.columns import INT32_MAX
from workloads.yaml_model import Strict

FORMAT = "kvevolve-workload"
VERSION = 1

Positive = Annotated[float, Field(ge=1e-9, le=1e12)]
NotNegative = Annotated[float, Field(ge=0, le=1e12)]
Burstiness = Annotated[float, Field(ge=0.05, le=50)]


class _Process(Strict):
    """What all arrival processes share.

    Attributes:
        requests_per_s: Mean rate of requests; default: that of the sources, one after another.
        moves: What the process places in time. "sessions": the start of each session; the gaps within it stay as
            generated. "requests": every request; their order stays, and gaps within sessions become what they become.
    """

    requests_per_s: Positive | None = None
    moves: Literal["sessions", "requests"] = "sessions"


class AsGenerated(_Process):
    """The sources' own times."""

    process: Literal["as-generated"] = "as-generated"


class Poisson(_Process):
    """Exponential gaps at a constant rate."""

    process: Literal["poisson"]


class Renewal(_Process):
    """Gamma or Weibull gaps at a constant rate.

    Attributes:
        burstiness: Coefficient of variation of the gaps; 1 is Poisson.
    """

    process: Literal["gamma", "weibull"]
    burstiness: Burstiness


class _Shaped(_Process):
    """A rate that changes over time.

    Attributes:
        burstiness: Coefficient of variation of the gaps, seen on a clock on which the rate is constant; default: gaps
            as generated.
        gaps: Their distribution.
    """

    burstiness: Burstiness | None = None
    gaps: Literal["gamma", "weibull"] = "gamma"


class Diurnal(_Shaped):
    """A rate that swings as a cosine.

    Attributes:
        period_s: Seconds from peak to peak.
        trough: Lowest rate as a share of the highest.
        peak_s: Seconds from the start of the trace to the first peak.
    """

    process: Literal["diurnal"]
    period_s: Positive = 86_400.0
    trough: Annotated[float, Field(ge=0, le=1)] = 0.3
    peak_s: NotNegative = 50_400.0


class Bursts(_Shaped):
    """A constant rate with bursts at random times.

    Attributes:
        every_s: Mean seconds between bursts (exponential).
        lasting_s: Mean seconds that a burst lasts (exponential).
        factor: Rate within a burst, in times the rate outside.
    """

    process: Literal["bursts"]
    every_s: Positive = 300.0
    lasting_s: Positive = 20.0
    factor: Annotated[float, Field(ge=1e-6, le=1e6)] = 5.0


class Table(_Shaped):
    """Rates per window of time, as measured. What needs longer than the table starts it again.

    Attributes:
        t_s: Start of each window, ascending; the first window starts the trace.
        rate_per_s: Requests per second in each window; with ``requests_per_s`` only their proportions count.
        end_s: End of the last window; default: as long as the one before.
        once: Spread the requests over the table exactly once, whatever its rates.
    """

    process: Literal["table"]
    t_s: Annotated[list[NotNegative], Field(min_length=1)]
    rate_per_s: Annotated[list[NotNegative], Field(min_length=1)]
    end_s: Positive | None = None
    once: bool = False


Arrivals = Annotated[AsGenerated | Poisson | Renewal | Diurnal | Bursts | Table, Field(discriminator="process")]


class Source(Strict):
    """One stream of traffic.

    Attributes:
        family: Name of a family or preset of :mod:`workloads.synthetic`.
        weight: Share of the requests, relative to the other sources'.
        parameters: Keyword arguments of the family.
    """

    family: str
    weight: Positive = 1.0
    parameters: dict[str, JsonValue] = Field(default_factory=dict)


class Phase(Strict):
    """A stretch of the trace.

    Attributes:
        share: Share of the requests; all phases together 1.
        weights: Weight of each source in this phase, 0 for none; default: the sources' own.
        rate: Rate of requests in this phase, in times what it would be.
    """

    share: Annotated[float, Field(gt=0, le=1)]
    weights: list[NotNegative] | None = None
    rate: Annotated[float, Field(ge=1e-6, le=1e6)] = 1.0


class Fields(Strict):
    """The specification as it stands in the file; see :class:`workloads.spec.WorkloadSpec`."""

    format: Literal["kvevolve-workload"]
    version: Literal[1]
    name: Annotated[str, Field(min_length=1, max_length=200)]
    seed: Annotated[int, Field(ge=0)] = 0
    requests: Annotated[int, Field(ge=1, le=INT32_MAX)] = 10_000
    block_tokens: Annotated[int, Field(ge=1, le=INT32_MAX)] = 16
    about: dict[str, JsonValue] = Field(default_factory=dict)
    arrivals: Arrivals = AsGenerated()
    sources: Annotated[list[Source], Field(min_length=1, max_length=1_000)]
    phases: Annotated[list[Phase], Field(max_length=10_000, default_factory=list)]

    def plain(self) -> dict[str, Any]:
        """Return the fields as plain values; what was not given is left out."""
        return self.model_dump(mode="json", exclude_unset=True)
