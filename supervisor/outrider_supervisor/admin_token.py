"""Where the token of the admin endpoint comes from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from outrider.errors import ConfigurationError
from outrider_supervisor.admin_address import is_private
from outrider_supervisor.settings import TOKEN_VARIABLE, SupervisorSettings, token

MOST_BYTES = 4096


def read_token(settings: SupervisorSettings, environ: Mapping[str, str]) -> str:
    """The token, from the one place where it is given; empty without one.

    Raises:
        ConfigurationError: it is given twice, can't be read or is none, or the address needs one and there is none.
    """
    given = {
        "admin_token": "".join(settings.admin_token),  # not the Secret that hides it: it is to be handed on
        "admin_token_file": settings.admin_token_file,
        TOKEN_VARIABLE: environ.get(TOKEN_VARIABLE, ""),
    }
    sources = [name for name, value in given.items() if value]
    if len(sources) > 1:
        raise ConfigurationError(f"the token of the admin endpoint is given by {' and '.join(sources)}; give it once")
    if not sources:
        if settings.admin_bind and not is_private(settings.admin_bind):
            raise ConfigurationError(
                f"admin_bind is {settings.admin_bind!r}, which others can reach, but no admin_token is given: "
                f"name a file that holds it with admin_token_file, or bind 127.0.0.1 or a unix socket"
            )
        return ""
    (source,) = sources
    found = _read_file(given[source]) if source == "admin_token_file" else given[source]
    try:
        return "".join(token(found or " "))
    except ValueError as error:
        where = f"in {given[source]} " if source == "admin_token_file" else ""
        raise ConfigurationError(f"{source}: the token {where}must be {error}") from None


def _read_file(path: str) -> str:
    try:
        with Path(path).open(encoding="ascii") as stream:
            return stream.read(MOST_BYTES).strip()
    except OSError as error:
        raise ConfigurationError(f"admin_token_file is {path!r}, which can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"admin_token_file is {path!r}, which is no ASCII text") from None
