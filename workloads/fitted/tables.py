"""What is known of a real trace: tables from which one like it is made.

Knows their layout and ranges. Must not know how they are fitted or used. All of it is counts and distributions over
many requests: no id, no single request.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from workloads.columns import INT32_MAX
from workloads.errors import TraceError
from workloads.fitted.quantiles import Amount, Conditional, Curve, Part, Share

Count = Annotated[int, Field(ge=0, le=INT32_MAX)]
Some = Annotated[int, Field(ge=1, le=INT32_MAX)]


class Arrivals(Part):
    """When requests come.

    Attributes:
        profile_s: Time of the first request, of the last and of those between at equal steps of their number; not
            descending.
        gaps: Times between requests, in multiples of what the profile makes of them.
        quantum_s: Times are multiples of this; 0 if they are not.
    """

    profile_s: Annotated[list[Amount], Field(min_length=2, max_length=1_000)]
    gaps: Curve
    quantum_s: Amount

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if sorted(self.profile_s) != self.profile_s:
            raise ValueError("profile_s: expected times that do not descend")
        return self


class Prefix(Part):
    """A common prefix, for example a system prompt.

    Attributes:
        blocks: Its length.
        parent: Number of the prefix it begins with, listed anywhere; -1 for none.
    """

    blocks: Some
    parent: Annotated[int, Field(ge=-1)]


class Beyond(Part):
    """How long roots are, in a stretch of the trace.

    Attributes:
        start: Where the stretch begins, as a share of the requests.
        blocks: Blocks beyond the common prefix.
    """

    start: Share
    blocks: Curve


class Roots(Part):
    """Prompts that continue no other.

    Attributes:
        popularity: Roots under no common prefix, then under each, in stretches of equally many requests.
        group: Which of `beyond` describes those under no common prefix, then those under each.
        beyond: Groups of roots that are equally long; of each the stretches in order.
    """

    popularity: Annotated[list[list[Count]], Field(min_length=1, max_length=1_000)]
    group: list[Count]
    beyond: Annotated[list[Annotated[list[Beyond], Field(min_length=1)]], Field(min_length=1)]


class Stretch(Part):
    """Prompts that continue others, in a stretch of the trace.

    Attributes:
        start: Where the stretch begins, as a share of the requests.
        age_s: Time since the request that is continued.
        depth: Blocks shared with it, given the age.
    """

    start: Share
    age_s: Curve
    depth: Conditional


class Derived(Part):
    """Prompts that continue others: as a whole, or a part of them.

    Attributes:
        stretches: In order; none if there are no such prompts.
        turn: How many requests the other one continues itself, given the blocks shared.
        new: Blocks that follow, given the blocks shared.
        rest: Blocks of the other prompt that are not shared, given the blocks shared; branches only.
        stale_share: Share of prompts most of whose shared blocks others have used since.
    """

    stretches: list[Stretch]
    turn: Conditional | None
    new: Conditional | None
    rest: Conditional | None
    stale_share: Share

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.stretches and (self.new is None or self.turn is None):
            raise ValueError("new, turn: expected distributions where there are stretches")
        return self


class Tokens(Part):
    """Lengths in tokens.

    Attributes:
        tail: Prompt tokens beyond the full blocks, of prompts with a full block.
        short: Prompt tokens of the others.
        output: Generated tokens, by kind: root, continuation, branch.
    """

    tail: Curve
    short: Curve
    output: Annotated[list[Curve], Field(min_length=3, max_length=3)]


class Match(Part):
    """How a prompt finds the one that it continues.

    Attributes:
        depth_weight: What a difference of depth costs, relative to one of age (both as logarithms).
        turn_weight: The same for a difference of turns.
        choice: Among so many outstanding draws the one is taken that fits best.
        age_scale: Factor on drawn ages.
        depth_scale: Factor on drawn depths.
    """

    depth_weight: Annotated[float, Field(ge=0, le=100)] = 1.0
    turn_weight: Annotated[float, Field(ge=0, le=100)] = 0.5
    choice: Annotated[int, Field(ge=1, le=64)] = 8
    age_scale: Annotated[float, Field(gt=0, le=100)] = 1.0
    depth_scale: Annotated[float, Field(gt=0, le=100)] = 1.0


class Tables(Part):
    """A real trace in numbers.

    Attributes:
        requests: Requests it had.
        block_tokens: Tokens per block, in all that counts blocks.
        kinds: Shares of roots, continuations and branches, in stretches of equally many requests.
    """

    requests: Some
    block_tokens: Annotated[int, Field(ge=1, le=1 << 20)]
    arrivals: Arrivals
    kinds: Annotated[list[tuple[Share, Share, Share]], Field(min_length=1, max_length=1_000)]
    prefixes: Annotated[list[Prefix], Field(max_length=1_000)]
    roots: Roots
    continuations: Derived
    branches: Derived
    tokens: Tokens
    match: Match = Match()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for number, prefix in enumerate(self.prefixes):
            if prefix.parent >= len(self.prefixes):
                raise ValueError(f"prefixes[{number}]: there is no prefix {prefix.parent}")
            if prefix.parent >= 0 and self.prefixes[prefix.parent].blocks >= prefix.blocks:
                raise ValueError(f"prefixes[{number}]: expected its parent to be shorter")
        for row in (self.roots.group, *self.roots.popularity):
            if len(row) != len(self.prefixes) + 1:
                raise ValueError("roots: expected an entry for no prefix and one for each")
        if max(self.roots.group) >= len(self.roots.beyond):
            raise ValueError(f"roots.group: there is no group {max(self.roots.group)}")
        for kinds in self.kinds:
            if abs(sum(kinds) - 1) > 1e-3:
                raise ValueError(f"kinds: expected shares that sum to 1, got {kinds}")
            for share, derived in zip(kinds[1:], (self.continuations, self.branches), strict=True):
                if share and not derived.stretches:
                    raise ValueError("kinds: a share of prompts that nothing describes")
        return self


def checked(tables: Any) -> Tables:
    """Return validated tables.

    Raises:
        TraceError: naming all that is wrong.
    """
    try:
        return Tables.model_validate(tables)
    except ValidationError as error:
        found = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:10]]
        raise TraceError(
            f"field 'tables': expected what `kvevolve trace fit` writes, found {'; '.join(found)} - fix: fit it anew",
            field="tables",
        ) from None
