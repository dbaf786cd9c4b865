"""Files inside zip files, read in place: a path goes on into a zip file as into a folder.

Nothing is unpacked and nothing written, so a member's own name leads nowhere, and a data set may
lie where nobody can write.
"""

from __future__ import annotations

import errno
import io
import os
import zipfile
from functools import lru_cache
from pathlib import Path

ZIP = ".zip"

Place = str | os.PathLike[str]
Opened = io.BufferedReader | io.BytesIO


def inside_zip(path: Place) -> tuple[str, str] | None:
    """The zip file that a path leads into and the name of the member; None for any other path."""
    text = os.fspath(path)
    lower, mark = text.lower(), f"{ZIP}{os.sep}"
    end = lower.find(mark)
    while end >= 0:
        end += len(ZIP)
        if os.path.isfile(text[:end]):  # noqa: PTH113 - a Path object costs more than the call
            return text[:end], text[end + 1 :].replace(os.sep, "/")
        end = lower.find(mark, end)
    return None


def open_file(path: Place, at_most: int) -> Opened:
    """Open a file to be read; that of a zip file is in memory, whole and compared with its CRC.

    Args:
        path: a file, or a path into a zip file.
        at_most: largest member that is read, in bytes.

    Raises:
        OSError: there is no such file, or it cannot be read; ``strerror`` says why.
    """
    packed = inside_zip(path)
    if packed is None:
        return open(path, "rb")  # noqa: PTH123 - a Path object costs more than the call
    return io.BytesIO(_member(*packed, at_most))


def file_state(path: Place) -> tuple[int, int, int]:
    """What changes when a file is written again: inode, size and time, of a member's zip file.

    Raises:
        OSError: there is no such file.
    """
    packed = inside_zip(path)
    status = os.stat(packed[0] if packed else path)  # noqa: PTH116
    return status.st_ino, status.st_size, status.st_mtime_ns


def packed_folders(archive: Path) -> dict[Path, list[str]]:
    """The folders in a zip file, as paths that go on into it, and the names of their files.

    Passed over are hidden files, macOS's second halves of files, and names that lead out of the
    zip file.

    Raises:
        OSError: it is damaged or no zip file.
    """
    folders: dict[str, set[str]] = {}
    for name in _names(str(archive)):
        *above, last = name.split("/")
        if last and not any(part.startswith((".", "__MACOSX")) or not part for part in above):
            folders.setdefault("/".join(above), set()).add(last)
    return {
        archive / folder: sorted(name for name in files if not name.startswith("."))
        for folder, files in sorted(folders.items())
    }


def _names(archive: str) -> list[str]:
    try:
        return _opened(archive, file_state(archive), os.getpid()).namelist()
    except OSError:
        raise
    except Exception as error:
        raise _damaged(error, "damaged or incomplete zip file") from error


def _member(archive: str, name: str, at_most: int) -> bytes:
    try:
        opened = _opened(archive, file_state(archive), os.getpid())
        found = opened.getinfo(name)
        if found.file_size > at_most:
            raise OSError(errno.EFBIG, f"{found.file_size} bytes; expected at most {at_most} bytes")
        with opened.open(found) as file:
            # No further than the header says: what a bomb unpacks to is not waited for.
            content = file.read(found.file_size)
    except OSError:
        raise
    except KeyError as error:
        raise FileNotFoundError(errno.ENOENT, "no such file in the zip file") from error
    # Beside BadZipFile there are zlib.error, EOFError, struct.error, NotImplementedError for a
    # method or a cipher that Python does not know, RuntimeError for a missing password and more.
    except Exception as error:
        raise _damaged(error, "damaged in its zip file") from error
    if len(content) != found.file_size:
        raise OSError(errno.EIO, f"damaged in its zip file: ends after {len(content)} bytes")
    return content


def _damaged(error: Exception, what: str) -> OSError:
    return OSError(errno.EIO, f"{what} ({type(error).__name__}: {error})")


# A forked process shares the position in its parent's file: each process opens its own. Threads may
# share one, zipfile locks it. The state lets a file that was replaced be opened anew.
@lru_cache(maxsize=8)
def _opened(archive: str, state: tuple[int, int, int], process: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(archive)
