"""Parquet traces: they come back as they were, and what is wrong with a file is said with its place."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as arrow
import pyarrow.parquet as arrow_parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_traces import hand_trace, random_traces

from sim import stream
from sim.cli import main
from workloads import TraceError, load, parquet
from workloads.batch import Batch, batch_of
from workloads.manifest import Manifest
from workloads.parquet import layout
from workloads.synthetic import chat

TRACE = hand_trace([[0, 1], [0], [2, 3, 4]], [25, 13, 30], session=[5, 5, -1], turn=[0, 1, -1], priority=[-7, 0, 3])
HEADER = Manifest("rows", 10)
ROWS = {
    "arrival_s": arrow.array([0.0, 1.0, 2.0]),
    "input_tokens": arrow.array([25, 13, 30], arrow.int32()),
    "output_tokens": arrow.array([1, 1, 1], arrow.int32()),
    "block_ids": arrow.array([[2**64 - 1, 8], [2**64 - 1], [9, 10, 11]], arrow.list_(arrow.uint64())),
}


@pytest.fixture
def file(tmp_path):
    """Return a function that writes columns with pyarrow, two rows per row group; None drops one."""

    def write(header: bytes | None = layout.encoded(HEADER), **changed):
        table = arrow.table({name: column for name, column in (ROWS | changed).items() if column is not None})
        if header is not None:
            table = table.replace_schema_metadata({layout.KEY: header})
        arrow_parquet.write_table(table, tmp_path / "rows.parquet", row_group_size=2)
        return tmp_path / "rows.parquet"

    return write


@given(random_traces(), st.integers(1, 50))
def test_a_trace_comes_back(tmp_path, trace, refs):
    path = tmp_path / "trace.parquet"
    parquet.write(trace, path)
    again = parquet.read(path)
    assert (again.fingerprint, again.name, again.provenance) == (trace.fingerprint, trace.name, trace.provenance)
    batches = list(parquet.open_parquet(path).batches(refs))
    assert all(batch.n_refs <= refs or batch.n_requests == 1 for batch in batches)
    assert np.concatenate([batch.block_ids for batch in batches]).tolist() == trace.block_ids.tolist()
    for name, column in batch_of(trace).per_request().items():
        assert np.concatenate([batch.per_request()[name] for batch in batches]).tolist() == column.tolist()


def test_a_file_is_found_by_name_and_by_content(tmp_path):
    parquet.write(TRACE, tmp_path / "a.parquet")
    (tmp_path / "b.bin").write_bytes((tmp_path / "a.parquet").read_bytes())
    for spec in (f"parquet:{tmp_path}/a.parquet", f"{tmp_path}/a.parquet", f"{tmp_path}/b.bin?name=other"):
        assert load(spec).fingerprint == TRACE.fingerprint
    assert load(f"{tmp_path}/b.bin?name=other").name == "other"


def test_the_command_line_converts_and_streams(tmp_path, capsys):
    path = str(tmp_path / "chat.parquet")
    assert main(["trace", "convert", "synthetic:chat?seed=1&requests=200", path]) == 0
    assert load(path).fingerprint == chat(seed=1, requests=200).fingerprint
    capsys.readouterr()
    assert main(["stream", path, "--policy", "lru_frequency", "--capacity", "5%", "--json"]) == 0
    streamed, told = capsys.readouterr()
    assert main(["run", path, "--policy", "lru_frequency", "--capacity", "5%", "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert json.loads(streamed) == {key: whole[key] for key in json.loads(streamed)}
    assert "0 s left" in told


def test_foreign_files_are_read(file):
    # int64 hashes are the same 64 bits, null is unknown, other columns are passed over.
    path = file(
        None,
        block_ids=arrow.array([[-1, 8], [-1], [9, 10, 11]], arrow.large_list(arrow.int64())),
        input_tokens=arrow.array([25, 13, 30], arrow.int64()),
        tenant=arrow.array([4, None, 5], arrow.uint8()),
        model=arrow.array(["a", "b", "c"]),
    )
    trace = load(f"parquet:{path}?block_tokens=10")
    assert trace.block_ids.tolist() == [0, 1, 0, 2, 3, 4]
    assert trace.tenant.tolist() == [4, -1, 5]
    first = next(parquet.open_parquet(path, 10).batches())
    assert first.block_ids.tolist() == [2**64 - 1, 8, 2**64 - 1]


REFUSED = {
    "nulls": ({"output_tokens": arrow.array([1, 1, None])}, "row group 1, row 0: field 'output_tokens': .*got null"),
    "null list": ({"block_ids": arrow.array([[7, 8], None, [9, 10, 11]])}, "group 0, row 1: field 'block_ids'.*null"),
    "null id": ({"block_ids": arrow.array([[7, 8], [None], [9, 10, 11]])}, "group 0, row 1: field 'block_ids'.*null"),
    "counts": ({"input_tokens": arrow.array([25, 13, 29])}, "row group 1, row 0: .*expected 2 ids = input_tokens 29"),
    "negative": ({"input_tokens": arrow.array([25, -13, 30])}, "group 0, row 1: field 'input_tokens': .*got -13"),
    "time": ({"arrival_s": arrow.array([0.0, 1.0, 0.5])}, r"row group 1, row 0: field 'arrival_s': expected >= 1\.0"),
    "early": ({"arrival_s": arrow.array([0.5, 0.25, 1.0])}, "row group 0, row 1: field 'arrival_s'.*fix: sort"),
    "nan": ({"arrival_s": arrow.array([0.0, float("nan"), 1.0])}, "row group 0, row 1: field 'arrival_s'.*got nan"),
    "chain": (
        {"block_ids": arrow.array([[7, 8], [7], [9, 8, 11]])},
        "row group 1, row 0: field 'block_ids': block id 8 at position 1 follows block id 9.*fix: re-key",
    ),
    "text": ({"session": arrow.array(["a", "b", "c"])}, "column 'session': expected int32, got string; fix"),
    "flat": ({"block_ids": arrow.array([7, 8, 9])}, "column 'block_ids': expected a list of uint64, got int64"),
    "missing": ({"output_tokens": None}, "no column 'output_tokens'.*fix"),
    "no header": ({"header": None}, "the block size is unknown; fix: .*block_tokens=64"),
    "no JSON": ({"header": b"{"}, "metadata key 'kvevolve': its manifest is not JSON; fix"),
    "version": (
        {"header": layout.encoded(HEADER).replace(b'"version": 2', b'"version": 1')},
        "version 2, got .*1.*fix: make",
    ),
    "name": ({"header": layout.encoded(HEADER).replace(b'"rows"', b"5")}, "manifest field 'name': expected str, got 5"),
    "fingerprint": ({"header": layout.encoded(Manifest("rows", 10, fingerprint="0"))}, "stored fingerprint; fix"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_said_with_its_place(file, case):
    changed, text = REFUSED[case]
    path = file(**changed)
    with pytest.raises(TraceError, match=text) as error:
        load(f"parquet:{path}")
    assert str(error.value).startswith(str(path))


def test_a_length_beyond_all_integers_has_its_place_when_streamed(file):
    path = file(input_tokens=arrow.array([25, 2**63 + 5, 30], arrow.uint64()))
    with pytest.raises(TraceError, match=r"group 0, row 1: field 'input_tokens': .*got 9223372036854775813"):
        stream(path, "native", 10)


def test_no_file_no_rows_no_parquet(file, tmp_path):
    with pytest.raises(TraceError, match="no such file; fix"):
        load(f"parquet:{tmp_path}/none.parquet")
    with pytest.raises(TraceError, match="no requests in it"):
        load(f"parquet:{file(**{name: column[:0] for name, column in ROWS.items()})}")
    (tmp_path / "text.parquet").write_text("arrival_s,input_tokens\n")
    with pytest.raises(TraceError, match="not a readable Parquet file, or damaged"):
        load(str(tmp_path / "text.parquet"))


def test_truncated_and_damaged_files_are_refused(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write(chat(seed=1, requests=300), path)
    whole = path.read_bytes()
    for kept in (len(whole) - 1, len(whole) // 2, 4):
        path.write_bytes(whole[:kept])
        with pytest.raises(TraceError, match="not a readable Parquet file, or damaged"):
            parquet.read(path)
    refused = 0
    for at in range(4, len(whole), len(whole) // 40):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x5A]) + whole[at + 1 :])
        try:
            again = parquet.read(path)
        except TraceError as error:
            refused += str(error).startswith(f"{path}: ")
        else:
            assert again.fingerprint == chat(seed=1, requests=300).fingerprint  # a byte that says nothing
    assert refused > 30


def test_writing_is_whole_or_not_at_all(tmp_path):
    path, good = tmp_path / "a.parquet", batch_of(TRACE)
    parquet.write(TRACE, path)
    before = path.read_bytes()
    with pytest.raises(TraceError, match=r"a\.parquet: request 3 to be written: field 'arrival_s': expected >= 2\.0"):
        parquet.write_batches([good, good], path, HEADER)
    bare = Batch(good.offsets, good.block_ids, good.arrival_s + 9, good.input_tokens, good.output_tokens)
    with pytest.raises(TraceError, match="same optional columns"):
        parquet.write_batches([good, bare], path, HEADER)
    with pytest.raises(TraceError, match="no requests to write"):
        parquet.write_batches([], path, HEADER)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.parquet"]


def test_batches_of_sessions_are_the_trace_laid_out(real_trace, trace_path):
    from workloads.materialise import materialise, materialise_batches
    from workloads.readers import kvsess1

    sessions = kvsess1.read(trace_path("taubench_airline"))
    whole = materialise(sessions, 600.0, think_s=3.0)
    batches = list(materialise_batches(sessions, 600.0, think_s=3.0, batch_refs=10_000))
    assert max(batch.n_refs for batch in batches) < 12_000
    for name, column in batch_of(whole).per_request().items():
        np.testing.assert_array_equal(np.concatenate([batch.per_request()[name] for batch in batches]), column)
    ids = np.concatenate([batch.block_ids for batch in batches]).astype(np.int64)
    pairs = np.unique(np.stack([ids, whole.block_ids]), axis=1)  # a bijection
    assert pairs.shape[1] == len(np.unique(ids)) == whole.n_blocks
