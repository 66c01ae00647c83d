"""The file that says which process the supervisor is, for service managers of old and for scripts."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from outrider.errors import ConfigurationError

_MODE = 0o644
_MOST_BYTES = 64


class PidFile:
    """gunicorn's `pidfile`. Its path may change with a reload."""

    def __init__(self) -> None:
        self._path: Path | None = None

    @property
    def path(self) -> str | None:
        """Where the file is; set it to take over one that says the same process."""
        return str(self._path) if self._path else None

    @path.setter
    def path(self, path: str | None) -> None:
        self._path = Path(path) if path else None

    def place(self, path: str | None) -> None:
        """Write the file, or move it if it is elsewhere; with None, remove it.

        Raises:
            ConfigurationError: it cannot be written, is no regular file, or belongs to another process that lives.
        """
        wanted = Path(path) if path else None
        if wanted == self._path and (wanted is None or _owner(wanted) == os.getpid()):
            return
        if wanted is not None:
            refuse_other_files(wanted)
            _refuse_if_taken(wanted)
            try:
                _write(wanted)
            except OSError as error:
                raise ConfigurationError(f"pidfile {wanted} cannot be written: {error.strerror}") from error
        if wanted != self._path:
            self.remove()
        self._path = wanted

    def remove(self) -> None:
        """Remove the file, if it still says what we wrote."""
        if self._path is not None and _owner(self._path) == os.getpid():
            with suppress(OSError):
                self._path.unlink()
        self._path = None


def refuse_other_files(path: Path) -> None:
    """See that nothing but a file is replaced: no device, and no FIFO, which would make its reader wait.

    Raises:
        ConfigurationError: there is something that is no regular file.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # there is none, or writing it will tell
    if not stat.S_ISREG(mode):
        raise ConfigurationError(f"pidfile {path} is no regular file; remove it, or choose another pidfile")


def _write(path: Path) -> None:
    # Under a name that nobody can foresee: the directory may be one that everybody writes to.
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    new = Path(name)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{os.getpid()}\n")
            os.fchmod(descriptor, _MODE)
        new.replace(path)
    except OSError:
        new.unlink()
        raise


def _refuse_if_taken(path: Path) -> None:
    owner = _owner(path)
    if owner in (None, os.getpid()):
        return
    try:
        os.kill(owner, 0)
    except (ProcessLookupError, OverflowError):
        return
    except PermissionError:
        pass
    raise ConfigurationError(
        f"pidfile {path} belongs to process {owner}, which runs; stop it, or choose another pidfile"
    )


def _owner(path: Path) -> int | None:
    """The process that the file names; None if there is none, or it names none (0 and less mean groups)."""
    try:
        pid = int(_read(path))
    except (OSError, ValueError):
        return None
    return pid if pid > 0 else None


def _read(path: Path) -> bytes:
    """What is in a regular file; nothing of another one, which might never have anything to read."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _MOST_BYTES) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    finally:
        os.close(descriptor)
