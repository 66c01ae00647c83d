"""Import the application once in the master, so that the workers share its memory."""

from __future__ import annotations

import gc
from typing import Any


class PreloadFailed(Exception):
    """The application could not be imported in the master. The cause says why."""


class NotImported:
    """An application for gunicorn's `setup`, which would import it before the logging is complete."""

    def __init__(self, app: Any) -> None:
        self.cfg = app.cfg

    def wsgi(self) -> None:
        """Import nothing."""


def import_for_sharing(app: Any) -> None:
    """Import the application so that the workers' memory stays shared with the master's.

    A collection writes to every object it looks at, which would copy each page. So there is none during the import,
    one at its end, and from then on it leaves what is there alone, here and in the workers.

    Raises:
        PreloadFailed: the import raised anything, SystemExit included.
    """
    gc.disable()
    try:
        app.wsgi()
    except BaseException as error:
        raise PreloadFailed from error
    gc.collect()
    gc.freeze()
    gc.enable()
