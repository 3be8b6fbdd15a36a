"""Files that are complete or absent: written aside, flushed to the disk, renamed; and JSON that knows its checksum."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # a module that can be missing has no type

FORMAT = 1


class DamagedFileError(ValueError):
    """A file is not what was written; the message names it."""


@contextmanager
def written_aside(path: Path, *, first_wins: bool = False) -> Iterator[Path]:
    """Yield the name under which to write a file or a folder, and give it its own name once all is on the disk.

    If the body raises, what it wrote is deleted, and what was there before stays. What is written takes the place of
    a file or a folder that is there.

    Args:
        path: Final name; its folder is made where it is missing.
        first_wins: For what several processes may write at once, all the same: each has a name of its own to write
            under, and a folder that another one has finished meanwhile stays.

    Raises:
        OSError: It could not be written, as on a full disk; the message names it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = partial_path(path.with_name(f"{path.name}.{os.getpid()}") if first_wins else path)
    delete(aside)
    try:
        with named_errors(path):
            yield aside
            for written in (*aside.rglob("*"), aside):
                flush(written)
            if (path.is_dir() or aside.is_dir()) and not first_wins:
                delete(path)
            try:
                aside.replace(path)
            except OSError as error:
                if not first_wins or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                delete(aside)
            flush(path.parent)
    except BaseException:
        delete(aside)
        raise


@contextmanager
def one_at_a_time(lock: Path) -> Iterator[None]:
    """Wait until no other process is in such a block; where files cannot be locked, go on at once.

    Args:
        lock: A file that stays, empty; its folder is made where it is missing.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Give the name of a file to the errors of writing it, which Python does only where it cannot be opened."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, f"cannot write: {error.strerror}", str(path)) from error


def partial_path(path: Path) -> Path:
    """Return the name under which a file is written until it is complete."""
    return path.with_name(f".{path.name}.partial")


def write_file(path: Path, content: bytes | str) -> None:
    """Write a file that is complete or absent, even if the machine stops; raises what `written_aside` does."""
    content = content.encode() if isinstance(content, str) else content
    with written_aside(path) as aside:
        aside.write_bytes(content)


def append_line(path: Path, line: str) -> None:
    """Append a line to a file; a line before it that was cut off stays one of its own.

    Raises:
        OSError: It could not be written; the message names it.
    """
    with named_errors(path), path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else f"\n{line}"
        file.write(f"{line}\n".encode())


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write JSON with its format and its own checksum; raises what `written_aside` does."""
    record = {"format": FORMAT, **record}
    write_file(path, json.dumps({**record, "blake2b": _record_checksum(record)}, indent=2))


def read_record(path: Path) -> dict[str, Any]:
    """Read what `write_record` wrote.

    Raises:
        DamagedFileError: The file is missing, truncated or altered.
    """
    if not path.is_file():
        raise DamagedFileError(f"{path} is missing")
    try:
        record = json.loads(path.read_bytes())
        checksum = record.pop("blake2b")
    except (ValueError, LookupError, TypeError, AttributeError):
        raise DamagedFileError(f"{path} is truncated or altered") from None
    if checksum != _record_checksum(record):
        raise DamagedFileError(f"{path} has another checksum than when it was written")
    return record


def file_checksum(path: Path) -> str:
    """Return the BLAKE2b of a file, 16 bytes in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, _blake2b).hexdigest()


def delete(path: Path) -> None:
    """Delete a file or a folder, if it is there; a kill meanwhile leaves nothing under its name that looks whole."""
    if path.is_dir() and not path.is_symlink():
        hidden = path.with_name(f".{path.name.lstrip('.')}.deleted")
        shutil.rmtree(hidden, ignore_errors=True)
        path.rename(hidden)
        shutil.rmtree(hidden)
    else:
        path.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Bring a file, or the entries of a folder, to the disk; Windows cannot open folders."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _blake2b(contents: bytes = b"") -> Any:
    return hashlib.blake2b(contents, digest_size=16)


def _record_checksum(record: dict[str, Any]) -> str:
    return _blake2b(json.dumps(record, sort_keys=True).encode()).hexdigest()
