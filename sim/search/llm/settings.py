"""Settings of the proxy: the section `kvevolve.llm` of an engine configuration.

Knows names, types and ranges; must not know what they do.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from sim.search.settings import BadSettings

SECTION = "kvevolve.llm"


@dataclass(frozen=True)
class Price:
    """USD per million tokens of a model, as its vendor publishes them."""

    input: float
    output: float

    def cost_usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return what so many tokens cost."""
        return (prompt_tokens * self.input + completion_tokens * self.output) / 1e6


@dataclass(frozen=True)
class LlmSettings:
    """What the proxy does with a request.

    Attributes:
        upstream: Base URL of the OpenAI-compatible endpoint; not needed with `replay`.
        replay: Recording (`llm.jsonl`) that answers in the place of an endpoint; empty for none.
        cap_usd: Most USD a run may cost; 0 for no cap. Every model then needs a price.
        cap_tokens: Most tokens, prompts and answers together, a run may use; 0 for no cap.
        prices: Per model name.
        repair: Whether an answer whose program is refused is sent back once with the reasons.
        polish_evaluations: Evaluations CMA-ES may spend on the constants of an answer; 0 leaves them.
        polish_total: Evaluations it may spend in a run.
        polish_seconds: Seconds after which the tuning of one answer starts no further evaluation.
        objective: Dotted name module:function of what returns the `Objective` of the tuning.
        stream: Whether to ask the endpoint for a stream, for servers that offer nothing else.
        timeout_s: Seconds one request may take.
        retries: Further attempts after 408, 429 and 5xx, and where no connection could be made.
        patience_s: Seconds all attempts for one answer may take together, waits included.
        max_failures: Failed requests in a row after which the run is ended.
        seed: Of the tuning; the engine's `random_seed` unless given.
    """

    upstream: str = ""
    replay: str = ""
    cap_usd: float = 0.0
    cap_tokens: int = 0
    prices: Mapping[str, Price] = field(default_factory=dict)
    repair: bool = True
    polish_evaluations: int = 24
    polish_total: int = 2400
    polish_seconds: float = 30.0
    objective: str = "sim.search.llm.objective:isolated_objective"
    stream: bool = False
    timeout_s: float = 120.0
    retries: int = 4
    patience_s: float = 300.0
    max_failures: int = 5
    seed: int = 42

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            BadSettings: If a value is impossible.
        """
        if bool(self.upstream) == bool(self.replay):
            raise BadSettings(f"{SECTION} needs either upstream, the URL of an endpoint, or replay, a recording")
        if self.upstream:
            _check_url(self.upstream)
        for name in ("cap_usd", "cap_tokens", "polish_evaluations", "polish_total", "polish_seconds", "retries"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise BadSettings(f"{SECTION}.{name} is {value}; it cannot be negative")
        for name in ("timeout_s", "patience_s", "max_failures"):
            if not 0 < getattr(self, name) < math.inf:
                raise BadSettings(f"{SECTION}.{name} is {getattr(self, name)}; give a number above 0")
        if ":" not in self.objective:
            raise BadSettings(f"{SECTION}.objective is {self.objective!r}; write module:function")
        if self.cap_usd and self.upstream and not self.prices:
            raise BadSettings(f"{SECTION}.cap_usd needs prices. Fix: {_price_fix('MODEL')}, or cap tokens: cap_tokens")

    @property
    def answer_s(self) -> float:
        """Seconds the longest answer may take; the engine must wait that long (`llm.timeout`)."""
        return self.patience_s * (2 if self.repair else 1) + 2 * self.polish_seconds

    def price(self, model: str) -> Price | None:
        """Return the price of a model; None if it is not known and not needed.

        Raises:
            BadSettings: If there is a cap in USD and no price.
        """
        if model not in self.prices and self.cap_usd and self.upstream:
            raise BadSettings(
                f"{SECTION}.cap_usd is set, but the model {model!r} has no price. Fix: {_price_fix(model)}"
            )
        return self.prices.get(model)

    @classmethod
    def from_mapping(cls, values: Any, **defaults: Any) -> LlmSettings:
        """Return settings from a configuration section; `defaults` hold where it is silent.

        Raises:
            BadSettings: If a key is unknown or a value has the wrong type.
        """
        if not isinstance(values, Mapping):
            raise BadSettings(f"{SECTION} must be a mapping such as {{upstream: https://api.openai.com/v1}}")
        types: dict[str, type] = {item.name: type(item.default) for item in dataclasses.fields(cls)}
        read: dict[str, Any] = dict(defaults)
        for key, value in values.items():
            if key == "prices":
                read[key] = _prices(value)
                continue
            if key not in types:
                near = difflib.get_close_matches(str(key), types, 1)
                hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(types)}"
                raise BadSettings(f"{SECTION}.{key} is unknown; {hint}")
            read[key] = _typed(f"{SECTION}.{key}", value, types[key])
        return cls(**read)

    def to_json(self) -> str:
        """Return the settings as one JSON text that `from_mapping` reads."""
        return json.dumps(dataclasses.asdict(self))


def _typed(name: str, value: Any, wanted: type) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    whole = number and value == int(value) if number and math.isfinite(value) else False
    if type(value) is wanted or (wanted is float and number) or (wanted is int and whole):
        return wanted(value)
    kind = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[wanted]
    raise BadSettings(f"{name} is {value!r}; give {kind}")


def _prices(value: Any) -> dict[str, Price]:
    if not isinstance(value, Mapping):
        raise BadSettings(f"{SECTION}.prices is {value!r}. Fix: {_price_fix('MODEL')}")
    found = {}
    for model, price in value.items():
        name = f"{SECTION}.prices.{model}"
        if not isinstance(price, Mapping) or set(price) != {"input", "output"}:
            raise BadSettings(f"{name} is {price!r}. Fix: {_price_fix(str(model))}")
        rates = {key: _typed(f"{name}.{key}", rate, float) for key, rate in price.items()}
        if not all(math.isfinite(rate) and rate >= 0 for rate in rates.values()):
            raise BadSettings(f"{name} is {price!r}; prices cannot be negative")
        found[str(model)] = Price(**rates)
    return found


def _price_fix(model: str) -> str:
    return f"prices: {{{model}: {{input: USD, output: USD}}}}, USD per million tokens as the vendor lists them"


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadSettings(f"{SECTION}.upstream is {url!r}; give a base URL such as https://api.openai.com/v1")
    if parts.username or parts.password or parts.query:
        place = f"{parts.scheme}://{parts.hostname}{parts.path}"
        raise BadSettings(f"{SECTION}.upstream {place} carries a secret or a query; keys belong in llm.api_key")
