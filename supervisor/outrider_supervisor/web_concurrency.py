"""WEB_CONCURRENCY, gunicorn's default for `workers`, with a value that gunicorn does not know: `auto`.

gunicorn takes the variable for a number when it is imported. So whoever starts a process that imports it, or is about
to do so itself, puts the number there first.
"""

from __future__ import annotations

from collections.abc import Mapping

from outrider.errors import ConfigurationError
from outrider_supervisor.cgroup import ControlGroup, usable_cores

VARIABLE = "WEB_CONCURRENCY"
AUTO = "auto"


def resolve(environ: Mapping[str, str], group: ControlGroup) -> dict[str, str]:
    """Return the variable as gunicorn understands it, or nothing where it is not set.

    `auto` is a worker for each core that may be used, rounded down, and at least one. Memory does not count: what a
    worker will need is not known before there is one.

    Args:
        environ: where it may be set.
        group: whose limits hold; they may have been changed since the last time.

    Raises:
        ConfigurationError: it is neither a number nor `auto`.
    """
    given = environ.get(VARIABLE)
    if given is None:
        return {}
    if given == AUTO:
        return {VARIABLE: str(max(1, int(usable_cores(group))))}
    try:
        int(given)
    except ValueError:
        raise ConfigurationError(
            f"{VARIABLE} is {given!r} (environment variable), but must be a whole number from 1, or {AUTO}: "
            "a worker for each core that may be used"
        ) from None
    return {VARIABLE: given}
