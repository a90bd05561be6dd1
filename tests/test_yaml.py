"""YAML with lines: what is read as what, and what is refused, whatever the document is about."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from workloads import TraceError
from workloads.yaml_document import MAX_DEPTH, Document, read, write
from workloads.yaml_model import Strict, checked


def faults(text: str) -> list[tuple[int, str, str]]:
    """Return line, place and expectation of every fault."""
    document = read(text, "x.yaml", 1 << 20)
    return [(document.line(one.path), ".".join(map(str, one.path)), one.expected) for one in document.faults]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1e3", {"a": 1000.0}),
        ("a: '1e3'", {"a": "1e3"}),
        ("a: 2026-13-45", {"a": "2026-13-45"}),
        ("a: 2026-01-01T00:00:00Z", {"a": "2026-01-01T00:00:00Z"}),
        ("a: [1_000, 0x10, no, ~, 1.5, '', =]", {"a": [1000, 16, False, None, 1.5, "", "="]}),
        ("? a\n: &x {<<: 1}", {"a": {"<<": 1}}),
        ("a: |\n  x\n  y\n", {"a": "x\ny\n"}),
        ("\ufeffa: é", {"a": "é"}),
        ("[" * MAX_DEPTH + "]" * MAX_DEPTH, None),
    ],
)
def test_plain_values(text: str, value: object) -> None:
    document = read(text, "x.yaml", 1 << 20)
    assert not document.faults
    assert value is None or document.value == value


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a: &x 1\nb: *x\n*x : 2", [(2, "b", "no alias"), (3, "?", "no alias"), (3, "?", "a key that is text")]),
        ("!!str a: 1\nb: !!int '2'\nc: !x [1]", [(1, "a", "no tag"), (2, "b", "no tag"), (3, "c", "no tag")]),
        ("a: 1\nb: 2\na: {c: .nan}", [(3, "a.c", "a finite number"), (1, "a", "each key once")]),
        ("a:\n- 1e999\n- -.inf", [(2, "a.0", "a finite number"), (3, "a.1", "a finite number")]),
        (
            "1: a\n[x, y]: b\n~: {z: 1}",
            [(line, at, "a key that is text") for line, at in ((1, "1"), (2, "?"), (3, "~"))],
        ),
        (f"a: 0x_\nb: {'9' * 5000}", [(1, "a", "an integer below 1e308"), (2, "b", "an integer below 1e308")]),
    ],
)
def test_every_fault_has_its_line(text: str, found: list[tuple[int, str, str]]) -> None:
    assert faults(text) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "x.yaml:1: expected a YAML mapping, got an empty file"),
        ("a: 1\n--- b", "x.yaml:2: expected one document, got a second"),
        ("a: 1\nb: [", "x.yaml:3: not YAML: did not find expected node content"),
        ("a: é\nb: \x07", "x.yaml:2: not YAML: control characters are not allowed"),
        (b"a: 1\nb: \xff", "x.yaml:2: not UTF-8"),
        ("a: \ud800", "x.yaml:1: not UTF-8"),
        ("a:\n " + "[" * 100_000, f"x.yaml:2: expected at most {MAX_DEPTH} levels"),
        ("{a: " * 100_000, f"x.yaml:1: expected at most {MAX_DEPTH} levels"),
        ("é" * (1 << 19) + "a", "x.yaml: expected at most 1,048,576 bytes, got 1,048,577"),
    ],
)
def test_what_is_no_document_is_refused(text: str | bytes, said: str) -> None:
    with pytest.raises(TraceError) as caught:
        read(text, "x.yaml", 1 << 20)
    assert str(caught.value).startswith(said)
    assert " - fix: " in str(caught.value)


@given(st.text(alphabet="a1:-[]{}&*!<>|'\"?,# \n\t~.e\0é") | st.binary())
def test_any_text_is_read_or_refused(text: str | bytes) -> None:
    with suppress(TraceError):
        document = read(text, "x.yaml", 1000)
        assert document.faults or read(write(document.value), "x.yaml", 100_000).value == document.value


# ---- what a model finds ----------------------------------------------------------------------------------------------


class One(Strict):
    """Of a union."""

    kind: Literal["one", "uno"]
    size: Annotated[int, Field(gt=0)]


class Two(Strict):
    """Of a union."""

    kind: Literal["two"]
    one: str = ""


class Whole(Strict):
    """All that is worded."""

    which: Annotated[One | Two, Field(discriminator="kind")] = Two(kind="two")
    many: Annotated[list[One], Field(max_length=2)] = Field(default_factory=list)
    words: dict[Annotated[str, Field(pattern="^[a-z]+$")], bool] = Field(default_factory=dict)
    share: Annotated[float, Field(ge=0, le=1)] = 0.5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "which: {kind: uno, size: 0}",
            ":1: field 'which.size': expected a number > 0, got 0 - fix: change the number",
        ),
        ("which: {kind: two, two: 1}", ":1: field 'which.two': expected one of kind, one, got 'two' - fix: remove it"),
        ("which: {kind: two, one: 1}", ":1: field 'which.one': expected text, got 1 - fix: write text"),
        ("which: {kind: twoo}", "'which.kind': expected one of one, uno, two, got 'twoo' - fix: did you mean 'two'?"),
        ("which: {size: 1}", "field 'which.kind': expected one of one, uno, two, got nothing - fix: add kind:"),
        ("which: 3", "field 'which': expected a mapping, got 3 - fix: write a mapping"),
        ("many:\n- {kind: one}", ":2: field 'many[0].size': expected this field, got nothing - fix: add size:"),
        (
            "many: [{kind: onee, size: 1}]",
            "'many[0].kind': expected 'one' or 'uno', got 'onee' - fix: did you mean 'one'",
        ),
        ("many: [{kind: one, size: 1, sise: 2}]", "got 'sise' - fix: did you mean 'size'?"),
        ("many: [1, 2, 3]", "field 'many': expected 2 or fewer items, got a list of 3 - fix: shorten it"),
        ("words:\n  a: true\n  B: true", ":3: field 'words.B': expected text that matches ^[a-z]+$, got 'B'"),
        ("words: {a: 1}", "field 'words.a': expected true or false, got 1"),
        ("share: 1.5", "field 'share': expected a number <= 1.0, got 1.5"),
        ("share: .nan", "field 'share': expected a finite number, got .nan"),
        ("share: *x", "field 'share': expected no alias, got *x"),
        ("[1]", "x.yaml:1: expected a mapping, got a list of 1"),
        (
            f"many: [{{kind: 0x{'f' * 5000}, size: 1}}]",
            "many[0].kind': expected an integer below 1e308, got '0xf",
        ),
        (f"which: {{kind: 0x{'f' * 5000}}}", "field 'which.kind': expected an integer below 1e308, got '0xf"),
        (f"share: 0x{'f' * 5000}", "field 'share': expected an integer below 1e308, got '0xf"),
    ],
)
def test_one_finding(text: str, said: str) -> None:
    with pytest.raises(TraceError) as caught:
        checked(read(text, "x.yaml", 10_000), Whole)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_document_without_lines() -> None:
    value: dict[str, Any] = {"share": float("nan"), "many": [{"kind": "one", "size": 1}, {}]}
    with pytest.raises(TraceError) as caught:
        checked(Document("given", value), Whole)
    assert str(caught.value).splitlines()[:2] == [
        "given: 3 things are wrong",
        "  given: field 'many[1].kind': expected this field, got nothing - fix: add kind:",
    ]
