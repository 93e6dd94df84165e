"""Copies a wasm module without its name section: `strip_names.py FROM TO`.

The names are only for reading traces, and an eighth of the module. Without them functions keep their
numbers, so that a trace of the copy can be read with the names of the original.
"""

import sys
from pathlib import Path

MAGIC = b"\0asm\1\0\0\0"
CUSTOM = 0


def leb128(data: bytes, at: int) -> tuple[int, int]:
    """The unsigned number at a place, and the place after it."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, at


def is_names(payload: bytes) -> bool:
    length, at = leb128(payload, 0)
    return payload[at : at + length] == b"name"


def stripped(module: bytes) -> bytes:
    if not module.startswith(MAGIC):
        raise SystemExit("expected a wasm module of version 1")
    kept, at = bytearray(MAGIC), len(MAGIC)
    while at < len(module):
        start, section = at, module[at]
        length, body = leb128(module, at + 1)
        at = body + length
        if at > len(module):
            raise SystemExit(f"expected whole sections; the one at byte {start} is cut")
        if not (section == CUSTOM and is_names(module[body:at])):
            kept += module[start:at]
    return bytes(kept)


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_bytes(stripped(source.read_bytes()))
