"""Reading of TFRecord files, the default format of TFDS, without TensorFlow."""

import struct
from collections.abc import Iterator
from pathlib import Path

from highway_jax.data.archives import BadDataError


def read(path: Path) -> Iterator[bytes]:
    """Yields the records of a file.

    A record is stored as its length, the checksum of the length, the data, and their checksum.

    Raises:
        BadDataError: If the file is truncated or a checksum does not match.
    """
    with path.open("rb") as file:
        while header := file.read(12):
            if len(header) < 12 or masked_crc32c(header[:8]) != header[8:]:
                raise BadDataError(f"{path.name} is damaged")
            (length,) = struct.unpack("<Q", header[:8])
            record, checksum = file.read(length), file.read(4)
            if len(record) != length or masked_crc32c(record) != checksum:
                raise BadDataError(f"{path.name} is damaged")
            yield record


def masked_crc32c(data: bytes) -> bytes:
    """Returns the checksum of TFRecord: CRC-32C rotated by 15 bits plus a constant, 4 bytes."""
    import google_crc32c  # Of the extra `data`.

    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
