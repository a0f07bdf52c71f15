"""What a submission packs: bounded while it is unpacked, and then read as strictly as the file."""

from __future__ import annotations

import base64
import os
import tracemalloc
from pathlib import Path

import pytest
import zstandard

from dgbench.leaderboard.bounded import MAX_PAYLOAD, Refused, pack, parse, unpack
from tests.leaderboard.submitted_runs import put, refused


def squeeze(content: bytes) -> str:
    return base64.b64encode(zstandard.ZstdCompressor(level=1).compress(content)).decode()


DATA = ("payload", "data")
PAYLOADS = {
    "declared too large": (
        put("payload", "size", to=MAX_PAYLOAD + 1),
        f"$.payload.size: got {MAX_PAYLOAD + 1} bytes, expe",
    ),
    "declared too small": (
        put("payload", "size", to=10),
        "$.payload.data: decompresses to more than 10 bytes, expected the 10",
    ),
    "declared larger": (put("payload", "size", to=10**6), "bytes, expected the 1000000 that size says."),
    "bomb": (put(*DATA, to=squeeze(bytes(500_000_000))), "$.payload.data: decompresses to more than "),
    "no base64": (put(*DATA, to="abc"), "$.payload.data: no base64 (Incorrect padding)."),
    "no zstd": (put(*DATA, to="aGVsbG8gd29ybGQ="), "$.payload.data: cannot be decompressed ("),
    "pickle": (
        put(*DATA, to=base64.b64encode(b"\x80\x04cos\nsystem\n.").decode()),
        "$.payload.data: cannot be decompressed (",
    ),
    "other encoding": (
        put("payload", "encoding", to="pickle"),
        "$.payload.encoding: got 'pickle', expected 'base64(zstd(json))'",
    ),
}


@pytest.mark.parametrize("case", PAYLOADS)
def test_one_change_of_the_payload_of_a_valid_file_is_refused_with_its_place(case, small, tmp_path: Path):
    change, text = PAYLOADS[case]
    assert text in refused(tmp_path, small, change)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"[NaN]", "$.payload[0]: got NaN, expected a finite number or null."),
        (b"[" * 50 + b"]" * 50, "$.payload: got brackets deeper than 16 levels, expected fewer."),
        (b"\xff", "$.payload: byte 0 is no UTF-8, expected UTF-8 text."),
        (b'{"runs": {}}', "$.payload.evaluations: is missing, expected a value."),
    ],
)
def test_what_is_packed_is_as_bounded_as_the_file(content, text, small, tmp_path: Path):
    def change(said):
        said["payload"]["size"], said["payload"]["data"] = len(content), squeeze(content)

    assert text in refused(tmp_path, small, change)


def test_a_bomb_takes_no_more_memory_than_it_declares():
    bomb = squeeze(bytes(500_000_000))
    tracemalloc.start()
    with pytest.raises(Refused, match="decompresses to more than 1000000 bytes"):
        unpack(bomb, 1_000_000, "$.payload")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_a_frame_with_a_huge_window_is_refused():
    parameters = zstandard.ZstdCompressionParameters(window_log=27, compression_level=3)
    writer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed = writer.compress(os.urandom(1000)) + writer.flush()
    with pytest.raises(Refused, match=r"\$\.payload\.data: cannot be decompressed"):
        unpack(base64.b64encode(packed).decode(), 1000, "$.payload")


def test_packing_is_undone_and_the_same_bytes_each_time():
    said = {"runs": [1, 2.5, None, "\xe9"]}
    size, text = pack(said)
    assert (size, text) == pack(said)
    assert parse(unpack(text, size, "$")) == said


FRAME = zstandard.ZstdCompressor(write_checksum=True).compress(b"{}")
EMPTY = zstandard.ZstdCompressor().compress(b"")
SKIPPED = b"\x50\x2a\x4d\x18" + (1_000_000).to_bytes(4, "little") + bytes(1_000_000)
BEHIND = "got bytes behind the first zstd frame, expected one frame."
FRAMES = {
    "twice": (FRAME * 2, BEHIND),
    "skipped before": (SKIPPED + FRAME, BEHIND),
    "skipped behind": (FRAME + SKIPPED, BEHIND),
    "only skipped": (SKIPPED, "decompresses to only 0 bytes, expected the 2 that size says."),
    "empty before": (EMPTY * 100_000 + FRAME, BEHIND),
    "empty behind": (FRAME + EMPTY, BEHIND),
    "rest": (FRAME + b"x", BEHIND),
    "no end": (FRAME[:-1], r"cannot be decompressed \(it breaks off\)."),
}


@pytest.mark.parametrize("case", FRAMES)
def test_one_frame_takes_all_bytes(case):
    packed, text = FRAMES[case]
    assert unpack(base64.b64encode(FRAME).decode(), 2, "$") == b"{}"
    with pytest.raises(Refused, match=rf"^\$\.data: {text}"):
        unpack(base64.b64encode(packed).decode(), 2, "$")
