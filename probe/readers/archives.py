"""inspect's archive of a log (`.eval`): a zip whose members Python may not be able to unpack (zstd, before 3.14)."""

from __future__ import annotations

import zipfile
from pathlib import Path

from probe.errors import InputError
from probe.readers.lines import parsed

ZSTD = 93


def inspect_samples(path: Path) -> list[dict[str, object]]:
    """The samples of an archive, by name.

    Raises:
        InputError: no zip, a member that is damaged, or packed in a way that is not known.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(n for n in archive.namelist() if n.startswith("samples/") and n.endswith(".json"))
            texts = [(n, _member(path, archive, n)) for n in names]
    except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError) as error:
        raise InputError(f"{path}: not an inspect log ({error})") from error
    if not texts:
        raise InputError(f"{path}: an inspect log without samples; was the run stopped before its first one ended?")
    samples = [parsed(_decoded(text, f"{path}, {name}"), f"{path}, {name}") for name, text in texts]
    return [s for s in samples if isinstance(s, dict)]


def _decoded(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 text (byte {error.start})") from error


def _member(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    info = archive.getinfo(name)
    if info.compress_type != ZSTD:
        return archive.read(name)
    import zlib

    import zstandard

    with path.open("rb") as handle:
        handle.seek(info.header_offset)
        head = handle.read(30)
        skipped = int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
        handle.seek(skipped, 1)
        packed = handle.read(info.compress_size)
    try:
        data = zstandard.ZstdDecompressor().decompressobj().decompress(packed)
    except zstandard.ZstdError as error:
        raise InputError(f"{path}: {name} is damaged ({error})") from error
    if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
        raise InputError(f"{path}: {name} is damaged (its checksum differs); copy the log again")
    return data
