"""Members of zips: Zstandard as inspect writes it, limits, and damage."""

import json
import struct
import zipfile
import zlib

import pytest

import rl2ml_core as rl2ml
from rl2ml_core.pilot.rollouts.archives import read_member

pyarrow = pytest.importorskip("pyarrow")


def zstandard(*frames):
    return b"".join(pyarrow.compress(frame, codec="zstd", asbytes=True) for frame in frames)


def archive(members, flags=0, crc=None):
    """A zip by APPNOTE 4.3, of (name, content, compressed) with method 93."""
    body, directory = b"", b""
    for name, content, compressed in members:
        check = zlib.crc32(content) if crc is None else crc
        common = struct.pack("<HHHHHLLLHH", 63, flags, 93, 0, 33, check, len(compressed), len(content), len(name), 0)
        directory += b"PK\1\2\x3f\0" + common + struct.pack("<HHHLL", 0, 0, 0, 0, len(body)) + name.encode()
        body += b"PK\3\4" + common + name.encode() + compressed
    count = len(members)
    end = struct.pack("<4sHHHHLLH", b"PK\5\6", 0, 0, count, count, len(directory), len(body), 0)
    return body + directory + end


def samples(count=6):
    for epoch in range(count):
        score = {"value": "CI"[epoch % 2], "explanation": "x" * 500}
        sample = {"id": "a", "epoch": epoch, "input": "q", "target": "t", "scores": {"match": score}}
        yield f"samples/a_epoch_{epoch}.json", json.dumps(sample).encode()


@pytest.mark.parametrize("parts", [1, 3])
def test_samples_in_zstandard(write, read, parts):
    header = json.dumps({"eval": {"model": "m"}}).encode()
    members = [*samples(), ("header.json", header)]
    size = max(len(content) for _, content in members) // parts + 1
    packed = [
        (name, content, zstandard(*(content[i : i + size] for i in range(0, len(content), size))))
        for name, content in members
    ]
    assert read(write("a.eval", archive(packed))).pilot.cells() == [(6, 3, 1)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda name, content: archive([(name, content, zstandard(content)[:-4])]), "damaged zip"),
        (lambda name, content: archive([(name, content, b"\0" * 40)]), "damaged zip"),
        (lambda name, content: archive([(name, content, zstandard(content))], crc=1), "bad CRC-32"),
        (lambda name, content: archive([(name, content, zstandard(content))], flags=1), "is encrypted"),
        (lambda name, content: b"PK\3\4" + archive([(name, content, zstandard(content))])[50:], "damaged zip"),
    ],
)
def test_damage_is_said(write, read, change, said):
    path = write("a.eval", change(*next(samples())))
    with pytest.raises(rl2ml.InvalidTable, match=rf"a\.eval: .*{said}"):
        read(path)


def test_a_member_holds_no_more_than_it_may(write):
    bomb = b" " * (2 << 20)
    claims = archive([("a", bomb, zstandard(bomb)), ("b", b" " * 100, zstandard(bomb))])
    with zipfile.ZipFile(write("a.zip", claims)) as opened:
        for member in opened.infolist():
            with pytest.raises(rl2ml.InvalidTable, match=r"(a|b) is larger than 1 MiB"):
                read_member(opened, member, 1 << 20)
        assert read_member(opened, opened.infolist()[0], 2 << 20) == bomb
