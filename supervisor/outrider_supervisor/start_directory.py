"""The directory that the supervisor was started in, by its name.

With `/srv/current`, a symbolic link to one release, the name stays and the release changes. Masters and the reader of
the configuration are started in what the name means then, as gunicorn does on HUP: a deployment switches the link.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from outrider.errors import ConfigurationError

VARIABLE = "OUTRIDER_SUPERVISOR_DIRECTORY"
"""Where the supervisor keeps the name for itself, over an upgrade too."""


def find(environ: Mapping[str, str]) -> str:
    """Return the name: $PWD if that is the working directory, as a shell sets it, else its path without links.

    Raises:
        ConfigurationError: the working directory has been removed.
    """
    name = environ.get("PWD", "")
    with contextlib.suppress(OSError):
        if name and Path(name).samefile("."):
            return name
    try:
        return str(Path.cwd())
    except OSError as error:
        raise ConfigurationError(
            f"the working directory does not exist any more ({error.strerror}); change to one that does and try again"
        ) from error


def check(environ: Mapping[str, str]) -> None:
    """See whether processes can be started there.

    Raises:
        ConfigurationError: there is no such directory.
    """
    name = environ.get(VARIABLE)
    if name is not None and not Path(name).is_dir():
        raise ConfigurationError(f"the directory {name}, in which the supervisor was started, is gone; put it back")


@contextlib.contextmanager
def entered(environ: Mapping[str, str]) -> Iterator[None]:
    """Be there, for the start of a process; without a name, or where it is gone, stay."""
    name = environ.get(VARIABLE)
    if name is None:
        yield
        return
    before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)  # has perhaps no name any more
    try:
        with contextlib.suppress(OSError):
            os.chdir(name)
        yield
    finally:
        os.fchdir(before)
        os.close(before)
