"""Members of zips, each within a limit: what a member claims to hold and what it does hold."""

import io
import struct
import zipfile
import zlib
from typing import IO, Final

from rl2ml_core.errors import InvalidTable

__all__ = ["DAMAGE", "read_member"]

#: What reading a damaged zip may raise.
DAMAGE: Final = (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError, ValueError)

#: Zstandard's number as a method of zips (APPNOTE 6.3.8), which zipfile knows from Python 3.14 on.
_ZSTANDARD: Final = 93
#: A member begins with 30 bytes, the last four of which say how long its name and its extra field are.
_LOCAL_HEADER: Final = struct.Struct("<4s22xHH")
_ENCRYPTED: Final = 0x1


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int) -> bytes:
    """A member's content.

    Args:
        archive: open for reading.
        member: one of its own.
        limit: bytes it may hold.

    Raises:
        InvalidTable: it holds more.
        zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError, ValueError: damaged, or encrypted.
    """
    if member.file_size <= limit:
        content = _zstandard(archive, member, limit) if member.compress_type == _ZSTANDARD else b""
        if member.compress_type != _ZSTANDARD:
            with archive.open(member) as stream:
                content = stream.read(limit + 1)
        if len(content) <= limit:
            return content
    raise InvalidTable(f"{member.filename} is larger than {limit >> 20} MiB")


def _zstandard(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int) -> bytes:
    """Content that is one or several Zstandard frames; at most one byte more than the limit."""
    import pyarrow

    if member.flag_bits & _ENCRYPTED:
        raise RuntimeError(f"{member.filename} is encrypted")
    stream: IO[bytes] | None = archive.fp
    assert stream is not None
    stream.seek(member.header_offset)
    header = stream.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or header[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile(f"no member at the place of {member.filename}")
    _, name, extra = _LOCAL_HEADER.unpack(header)
    stream.seek(name + extra, io.SEEK_CUR)
    # Frames are never much longer than what they hold.
    compressed = stream.read(min(member.compress_size, 2 * limit))
    content: bytes = pyarrow.input_stream(io.BytesIO(compressed), compression="zstd").read(limit + 1)
    if len(content) <= limit and zlib.crc32(content) != member.CRC:
        raise zipfile.BadZipFile(f"bad CRC-32 of {member.filename}")
    return content
