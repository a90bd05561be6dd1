"""Public traces downloaded into the user cache, each file checked against a pinned SHA-256.

Knows URLs, checksums, licences and how a download fails. Must not know trace formats. Where a checksum was not measured
on the file itself, it is that of a public registry of traces that agrees with ours on the files both know
(conversation, synthetic).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO, cast
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from workloads.atomic import atomic_write
from workloads.errors import TraceError, unknown_name
from workloads.locate import fetched_dir
from workloads.readers.lines import file_sha256

BASE_URL_VARIABLE = "KVEVOLVE_FETCH_BASE_URL"
TIMEOUT_S = 30.0
MAX_BYTES = 256 * 2**20
_CHUNK_BYTES = 1 << 16

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class RemoteFile:
    """One file of a collection.

    Attributes:
        trace: Short name of the trace, which is also the folder it is put into.
        path: Path below the collection's base URL, pinned revision included; its last part is the local file name.
        sha256: SHA-256 (hex) of the file.
    """

    trace: str
    path: str
    sha256: str


@dataclass(frozen=True)
class Collection:
    """Files that are fetched together.

    Attributes:
        base_url: Where they lie by default.
        files: The files.
        licence: Under which they may be used, as an SPDX expression.
        citation: What to cite.
    """

    base_url: str
    files: tuple[RemoteFile, ...]
    licence: str
    citation: str


_FAST25 = "FAST25-release/traces"
_RELEASE = "3cca71daccf2a7afb8fe3f0295358f70e3a69fdb"  # the FAST'25 trace release, February 2025
_BAILIAN = "5f7439c51ec248a0c585f7d90a41a6f57773b912"
_AZURE = "790921015d50dd6aae7f7e47f39ba0e235ad6b08/data"

MOONCAKE = Collection(
    base_url="https://raw.githubusercontent.com/kvcache-ai/Mooncake",
    licence="Apache-2.0",
    citation="Qin et al., Mooncake: Trading More Storage for Less Computation, USENIX FAST'25",
    files=(
        RemoteFile(
            "mooncake_conversation",
            f"a2a4b18ac537fd798d50e6e9f57031ce86419a37/{_FAST25}/conversation_trace.jsonl",
            "b8cbb061a85206d729d91cdc2981f43c9e0d99209dce588d3af5f7934408b9df",
        ),
        RemoteFile(
            "mooncake_synthetic",
            f"{_RELEASE}/{_FAST25}/synthetic_trace.jsonl",
            "bd070915a98fc0ed264d7cfef2ce746002eb3076a695ec31ba2674c0111ec131",
        ),
        RemoteFile(  # checksum as published by a third party, not measured here; so are those below but Azure's
            "mooncake_toolagent",
            f"{_RELEASE}/{_FAST25}/toolagent_trace.jsonl",
            "48a2db1a13d3bc05e6330140c64f604ba366df20d3c9e128b5c35a01c1fa5f71",
        ),
        RemoteFile(
            "mooncake_arxiv",
            "9fbd622256e7a26aeea9f038e316eeb58203c102/FAST25-release/arxiv-trace/mooncake_trace.jsonl",
            "b434f1816a707f4bac697235588184ebc374c9907cb981bb65fb0643471fe711",
        ),
    ),
)

BAILIAN = Collection(
    base_url="https://media.githubusercontent.com/media/alibaba-edu/qwen-bailian-usagetraces-anon",
    licence="Apache-2.0",
    citation="Wang et al., KVCache Cache in the Wild, USENIX ATC'25, arXiv 2506.02634",
    files=(
        RemoteFile(
            "bailian_a",
            f"{_BAILIAN}/qwen_traceA_blksz_16.jsonl",
            "07cedc9ed8aff301994ac68ed4aede8123b7603673575eeba9dd677de663db17",
        ),
        RemoteFile(
            "bailian_b",
            f"{_BAILIAN}/qwen_traceB_blksz_16.jsonl",
            "68e3f98e2d601d60d0abf4b89bc8a3654372abab7b1cde6373a13d0054379d59",
        ),
        RemoteFile(
            "bailian_coder",
            f"{_BAILIAN}/qwen_coder_blksz_16.jsonl",
            "3d74974cebb7bccb69b1ca6ea210a44d9a3033443c0271ed015327284dea1aff",
        ),
        RemoteFile(
            "bailian_thinking",
            f"{_BAILIAN}/qwen_thinking_blksz_16.jsonl",
            "41ac36d9d1b54d084eeb6b05e9d142ba9d02f8bf79cfc9fff418d8ab7cdee906",
        ),
    ),
)

BURSTGPT = Collection(
    base_url="https://github.com/HPMLL/BurstGPT/releases/download",
    licence="CC-BY-4.0",
    citation="Wang et al., BurstGPT, arXiv 2401.17644",
    files=(
        RemoteFile(
            "burstgpt",
            "v2.0/BurstGPT_1.csv",
            "4bb3783693d0a435686fbfc885615d2349bd067239079fa4b749f2e679e12122",
        ),
    ),
)

AZURE = Collection(
    base_url="https://raw.githubusercontent.com/Azure/AzurePublicDataset",
    licence="CC-BY-4.0",
    citation="Patel et al., Splitwise: Efficient Generative LLM Inference Using Phase Splitting, ISCA 2024",
    files=(
        RemoteFile(
            "azure2023",
            f"{_AZURE}/AzureLLMInferenceTrace_code.csv",
            "54e9a6d2a4bd06ba1e060304b900abbc74cbea53de96506e60fe5bb4f2277fb6",
        ),
        RemoteFile(
            "azure2023",
            f"{_AZURE}/AzureLLMInferenceTrace_conv.csv",
            "2f1e5b666d4e3055fdbba98598ce2ec307767b9064e03e2fa46676dbcc7d0bf8",
        ),
    ),
)

COLLECTIONS: Mapping[str, Collection] = {
    "mooncake": MOONCAKE,
    "bailian": BAILIAN,
    "burstgpt": BURSTGPT,
    "azure2023": AZURE,
}


def fetch(
    collection: str,
    base_url: str | None = None,
    progress: Progress | None = None,
    timeout_s: float = TIMEOUT_S,
    only: Sequence[str] = (),
) -> list[Path]:
    """Download a collection into the user cache, where its traces are found by their short names.

    Files already there with the right checksum are kept. Each file appears whole, checked, or not at all; when one
    fails, those before it stay.

    Args:
        collection: Name of the collection, see `COLLECTIONS`.
        base_url: Another place to take the files from; default ``$KVEVOLVE_FETCH_BASE_URL``, else the collection's.
        progress: Called as ``progress(file name, bytes so far, total bytes or None)``.
        timeout_s: Longest wait for the server at any point, in seconds.
        only: Short names of the traces wanted; default: all.

    Returns:
        The local files, in the collection's order.

    Raises:
        TraceError: unknown collection or trace, HTTP error, no network, truncated or altered file, or no room to
            write it.
    """
    if collection not in COLLECTIONS:
        raise unknown_name("collection", collection, COLLECTIONS)
    chosen = COLLECTIONS[collection]
    names = [file.trace for file in chosen.files]
    for name in only:
        if name not in names:
            raise unknown_name(f"trace of {collection}", name, names)
    base = (base_url or os.environ.get(BASE_URL_VARIABLE) or chosen.base_url).rstrip("/")
    if urlsplit(base).scheme not in ("http", "https"):
        raise TraceError(f"base URL {base!r}: expected http:// or https://")
    local = []
    for file in chosen.files:
        if only and file.trace not in only:
            continue
        target = fetched_dir() / file.trace / Path(file.path).name
        if not (target.is_file() and file_sha256(target) == file.sha256):
            _download(f"{base}/{file.path}", file, target, progress, timeout_s)
        local.append(target)
    return local


def _download(url: str, file: RemoteFile, target: Path, progress: Progress | None, timeout_s: float) -> None:
    """Download one file, check it and put it in place; on any failure nothing is left behind."""
    try:
        with (
            urlopen(Request(url, headers={"User-Agent": "kvevolve"}), timeout=timeout_s) as response,
            atomic_write(target) as handle,
        ):
            digest = _copy(cast(HTTPResponse, response), handle, url, target.name, progress)
            if digest != file.sha256:
                raise TraceError(
                    f"{url}: SHA-256 is {digest}, expected {file.sha256} - the file was altered or cut short;"
                    " fix: try again, and do not use a copy with another checksum"
                )
    except HTTPError as error:
        raise TraceError(f"{url}: HTTP {error.code} {error.reason} - fix: check the base URL, try later") from None
    except (TimeoutError, URLError, HTTPException, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise TraceError(
            f"{url}: cannot download ({reason or type(error).__name__}) - fix: check the network, or copy the file to"
            f" {target} by hand"
        ) from None
    except OSError as error:
        reason = error.strerror or error
        raise TraceError(f"{target}: cannot write ({reason}) - fix: free space or set $KVEVOLVE_CACHE") from None


def _copy(response: HTTPResponse, handle: BinaryIO, url: str, name: str, progress: Progress | None) -> str:
    """Stream the body into the file; return its SHA-256 (hex)."""
    length = response.headers.get("Content-Length", "")
    total = int(length) if length.isdigit() else None
    digest = hashlib.sha256()
    done = 0
    while chunk := response.read(_CHUNK_BYTES):
        done += len(chunk)
        if done > MAX_BYTES:
            raise TraceError(f"{url}: more than {MAX_BYTES} bytes - fix: check the base URL, this is not the trace")
        handle.write(chunk)
        digest.update(chunk)
        if progress is not None:
            progress(name, done, total)
    if total is not None and done != total:
        raise TraceError(f"{url}: truncated, {done} of {total} bytes arrived - fix: try again")
    return digest.hexdigest()
