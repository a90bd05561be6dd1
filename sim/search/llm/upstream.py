"""One chat completion from an OpenAI-compatible endpoint: retries, deadlines, streams, and errors in words.

Knows HTTP and the API; must not know policies, prices or records.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import math
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from sim.search.llm.settings import LlmSettings

_LOCAL = ("127.0.0.1", "localhost", "::1")
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_PROXIED = urllib.request.build_opener()
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 60.0
_SHOWN_CHARS = 400
MAX_ANSWER_BYTES = 32 * 2**20
_FATAL = {
    401: "the API key is refused; set llm.api_key, or the variable it names",
    402: "the account has no credit",
    403: "the API key may not use this model or endpoint",
    404: "no such path or model; check kvevolve.llm.upstream (it ends in /v1 with most vendors) and llm.models",
}


class UpstreamError(RuntimeError):
    """No answer.

    Attributes:
        status: HTTP status of the endpoint, 504 for a timeout, 502 for anything else.
        fatal: Whether every other request would fail alike.
        billed: Whether the endpoint may charge for it all the same: it got the request and said nothing of a failure.
    """

    def __init__(self, message: str, status: int = 502, fatal: bool = False, billed: bool = False) -> None:
        super().__init__(message)
        self.status, self.fatal, self.billed = status, fatal, billed


class _Later(Exception):
    """An attempt that failed and may be repeated, after `wait_s` if the endpoint asks for a pause."""

    def __init__(self, error: UpstreamError, wait_s: float | None = None) -> None:
        self.error, self.wait_s = error, wait_s


@dataclass(frozen=True)
class Answer:
    """What the endpoint said.

    Attributes:
        text: Content of the message; may be empty.
        prompt_tokens: As reported, None where it is not.
        completion_tokens: As reported, None where it is not.
        finish_reason: As reported, "" where it is not.
    """

    text: str
    prompt_tokens: int | None
    completion_tokens: int | None
    finish_reason: str


def ask(
    body: dict[str, Any], authorization: str, settings: LlmSettings, sleep: Callable[[float], None] = time.sleep
) -> Answer:
    """Send a request until it is answered or the retries or the patience are used up.

    Args:
        body: As the API defines it.
        authorization: Header as the client sent it, empty for none.
        settings: Where to, how often and how long.
        sleep: Waits some seconds.

    Raises:
        UpstreamError: If there is no answer.
    """
    deadline = time.monotonic() + settings.patience_s
    wait_s = _FIRST_WAIT_S
    for attempt in range(settings.retries + 1):
        try:
            return _attempt(body, authorization, settings, deadline)
        except _Later as later:
            pause = wait_s if later.wait_s is None else later.wait_s
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
            error = later.error
            if attempt == settings.retries or time.monotonic() + pause > deadline:
                raise UpstreamError(f"{error}{_gave_up(attempt, pause)}", error.status, billed=error.billed) from None
            sleep(pause)
    raise AssertionError("unreachable")


def _gave_up(attempt: int, pause: float) -> str:
    return f" (after {attempt + 1} attempts; the next would be in {pause:.0f} s)"


def _attempt(body: dict[str, Any], authorization: str, settings: LlmSettings, deadline: float) -> Answer:
    url = settings.upstream.rstrip("/") + "/chat/completions"
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    if authorization:
        headers["Authorization"] = authorization
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    opener = _DIRECT if urlsplit(url).hostname in _LOCAL else _PROXIED
    deadline = min(deadline, time.monotonic() + settings.timeout_s)
    try:
        with opener.open(request, timeout=max(deadline - time.monotonic(), 0.001)) as answer:
            data = _read(answer, deadline)
            streamed = answer.headers.get_content_type() == "text/event-stream" or data.lstrip().startswith(b"data:")
    except urllib.error.HTTPError as error:
        raise _refused(error) from None
    except TimeoutError:
        raise _slow(settings) from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise _slow(settings) from None
        raise _Later(UpstreamError(f"{settings.upstream} cannot be reached: {error.reason}")) from None
    except (OSError, http.client.HTTPException) as error:
        message = f"{settings.upstream} broke the connection off: {error or type(error).__name__}"
        raise UpstreamError(message, billed=True) from None
    return _from_stream(data) if streamed else _from_json(data)


def _slow(settings: LlmSettings) -> UpstreamError:
    message = f"{settings.upstream} did not answer within {settings.timeout_s:g} s (kvevolve.llm.timeout_s)"
    return UpstreamError(message, 504, billed=True)


def _read(answer: Any, deadline: float) -> bytes:
    """Read an answer that may trickle: the deadline holds for all of it."""
    parts, size = [], 0
    while part := answer.read1(2**16):
        parts.append(part)
        size += len(part)
        if time.monotonic() > deadline:
            raise TimeoutError
        if size > MAX_ANSWER_BYTES:
            raise UpstreamError(f"the answer exceeds {MAX_ANSWER_BYTES} bytes", billed=True)
    return b"".join(parts)


def _refused(error: urllib.error.HTTPError) -> Exception:
    try:
        text = error.read(2**16).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        text = ""
    status = error.code
    said = _message(text) or str(error.reason)
    message = f"the endpoint answers {status}: {said}"
    if status in _FATAL:
        return UpstreamError(f"{message}. Fix: {_FATAL[status]}", status, fatal=True)
    if status in (408, 409, 429) or status >= 500:
        return _Later(UpstreamError(message, status), _retry_after(error.headers))
    if status < 400:
        return UpstreamError(f"{message}; kvevolve.llm.upstream is redirected, give its final address", 502, fatal=True)
    if "stream" in said.lower():
        message += ". Fix: for an endpoint that only streams, set kvevolve.llm.stream: true"
    return UpstreamError(message, status)


def _retry_after(headers: Any) -> float | None:
    """Return the pause the endpoint asks for in seconds, None if it names none."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * unit
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
            except (ValueError, TypeError, OverflowError):
                continue
        if math.isfinite(seconds):
            return max(seconds, 0.0)
    return None


def _message(text: str) -> str:
    """Return the message of an error body, whatever its shape."""
    try:
        found = json.loads(text)
    except ValueError:
        return " ".join(text.split())[:_SHOWN_CHARS]
    found = found[0] if isinstance(found, list) and found else found
    error = found.get("error", found) if isinstance(found, dict) else found
    said = error.get("message", error) if isinstance(error, dict) else error
    return " ".join(str(said).split())[:_SHOWN_CHARS]


def _from_json(data: bytes) -> Answer:
    try:
        reply = json.loads(data)
    except ValueError:
        shown = " ".join(data[:_SHOWN_CHARS].decode(errors="replace").split())
        raise UpstreamError(f"the endpoint answers no JSON but {shown!r}; check kvevolve.llm.upstream", 502) from None
    if isinstance(reply, dict) and reply.get("error") and not reply.get("choices"):
        raise UpstreamError(f"the endpoint answers 200, but an error: {_message(json.dumps(reply))}")
    try:
        choice = reply["choices"][0]
        text = _content(choice["message"].get("content"))
    except (LookupError, TypeError, AttributeError):
        shown = data[:_SHOWN_CHARS].decode(errors="replace")
        raise UpstreamError(f"the endpoint answers no chat completion but {shown!r}", billed=True) from None
    return Answer(text, *_usage(reply.get("usage")), str(choice.get("finish_reason") or ""))


def _from_stream(data: bytes) -> Answer:
    text, usage, finish = [], None, ""
    for event in _events(data.decode(errors="replace").splitlines()):
        if event.get("error"):
            raise UpstreamError(f"the endpoint breaks its stream off: {_message(json.dumps(event))}", billed=True)
        usage = event.get("usage") or usage
        for choice in event.get("choices") or []:
            piece = choice.get("delta") or choice.get("message") or {}
            text.append(_content(piece.get("content")))
            finish = choice.get("finish_reason") or finish
    return Answer("".join(text), *_usage(usage), str(finish))


def _events(lines: Iterable[str]) -> Iterable[dict[str, Any]]:
    for line in lines:
        payload = line.removeprefix("data:").strip() if line.startswith("data:") else ""
        if payload and payload != "[DONE]":
            try:
                event = json.loads(payload)
            except ValueError:
                raise UpstreamError(f"the endpoint's stream is no JSON: {payload[:80]!r}", billed=True) from None
            if isinstance(event, dict):
                yield event


def _content(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _usage(usage: Any) -> tuple[int | None, int | None]:
    if not isinstance(usage, dict):
        return None, None
    found = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    numbers = [value if type(value) is int and value >= 0 else None for value in found]
    return numbers[0], numbers[1]
