"""From the object gunicorn imported to an ASGI 3 application, or to a sentence that says why it is none."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

from gunicorn.errors import AppImportError

from outrider.errors import ConfigurationError
from outrider.runtime import ASGIApp, Log, Receive, Scope, Send

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_ASGI3_ARGUMENTS = 3
_WSGI_ARGUMENTS = 2


def resolve_app(obj: Any, factory: bool, name: str = "the application") -> ASGIApp:
    """Return the ASGI 3 application that the imported object is, or makes.

    Only what certainly is something else is refused: a callable whose signature cannot be read, or that takes
    any arguments, is taken for an application.

    Args:
        obj: what gunicorn imported.
        factory: Outrider's `app_factory`: call `obj` without arguments to get the application.
        name: for messages, such as "app:app".

    Raises:
        ConfigurationError: it is no ASGI 3 application; the message says what to do.
    """
    if factory:
        obj = _call_factory(obj, name)
        name = f"what {name} returned"
    if not callable(obj):
        what = "a module" if isinstance(obj, ModuleType) else f"of type {type(obj).__name__}"
        raise ConfigurationError(
            f"{name} is {what}, which can't be called; name the ASGI application, as in module:app"
        )
    complaint = _complaint(obj)
    if complaint:
        raise ConfigurationError(f"{name} {complaint}")
    application: ASGIApp = obj
    return application


def load_application(app: Any, factory: bool, log: Log) -> ASGIApp:
    """Import the application that gunicorn's `app` names, as `resolve_app` takes it.

    Raises:
        AppImportError: it can't be imported, or is none. What it raised itself is the cause, and in the log.
    """
    uri = getattr(app, "app_uri", None)
    try:
        found = app.wsgi()
    except AppImportError:
        raise
    except Exception as error:
        if is_module_missing(error, uri or ""):
            raise AppImportError(
                f"Can't import the application {uri!r}: {error}. "
                "Check the name, the working directory, --chdir and --pythonpath."
            ) from error
        log.exception("Exception while importing the application")
        raise AppImportError(f"The application raised while it was imported: {error!r}") from error
    try:
        return resolve_app(found, factory, repr(type(app).__name__ if uri is None else uri))
    except ConfigurationError as error:
        raise AppImportError(str(error)) from error


def make_error_app(error: BaseException) -> ASGIApp:
    """Return an application that answers every request with 500 and the traceback; for developers only."""
    body = "".join(traceback.format_exception(error)).encode()

    async def show_error(scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": 500, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    return show_error


def _call_factory(obj: Any, name: str) -> Any:
    if not callable(obj):
        raise ConfigurationError(
            f"app_factory is set, but {name} is of type {type(obj).__name__}, which can't be called"
        )
    signature = _signature_of(obj)
    if signature is not None and not _accepts(signature, 0):
        raise ConfigurationError(
            f"app_factory is set, but {name} requires arguments {signature}; "
            "it is called without any: unset app_factory if this is the application itself"
        )
    application = obj()
    if inspect.iscoroutine(application):
        application.close()
        raise ConfigurationError(
            f"app_factory is set, but {name} is an async function; "
            "a factory returns the application: do what must be awaited in the lifespan"
        )
    return application


def _complaint(obj: Callable[..., Any]) -> str:
    """Say what is wrong with a callable, or nothing."""
    signature = _signature_of(obj)
    if signature is None or _takes_anything(signature):
        return ""
    if _looks_like_wsgi(obj, signature):
        return (
            "looks like a WSGI application, not ASGI; use a WSGI worker such as -k gthread, "
            "or wrap it with a2wsgi.WSGIMiddleware"
        )
    if _accepts(signature, 0):
        what = "a class" if inspect.isclass(obj) else "a factory"
        return f"looks like {what}, not an application; call it (module:name()), or set app_factory = True"
    if _accepts(signature, _ASGI3_ARGUMENTS):
        return ""
    if _accepts(signature, 1):
        return (
            "looks like an ASGI 2 application, called with the scope alone; "
            "wrap it with asgiref.compatibility.guarantee_single_callable"
        )
    return f"takes {signature}, but an ASGI application takes (scope, receive, send)"


def _signature_of(obj: Callable[..., Any]) -> inspect.Signature | None:
    try:
        # What is called, not what a decorator claims to be: functools.wraps copies the signature.
        return inspect.signature(obj, follow_wrapped=False)
    except (TypeError, ValueError):
        return None


def _takes_anything(signature: inspect.Signature) -> bool:
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    return inspect.Parameter.VAR_POSITIONAL in kinds


def _accepts(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def _looks_like_wsgi(obj: Any, signature: inspect.Signature) -> bool:
    names = [parameter.name for parameter in signature.parameters.values() if parameter.kind in _POSITIONAL]
    if "start_response" in names:
        return True
    is_async = inspect.iscoroutinefunction(obj) or inspect.iscoroutinefunction(type(obj).__call__)
    takes_two = _accepts(signature, _WSGI_ARGUMENTS) and not _accepts(signature, _ASGI3_ARGUMENTS)
    return takes_two and not is_async and not _accepts(signature, 0) and not inspect.isclass(obj)


def is_module_missing(error: Exception, app_uri: str) -> bool:
    """Whether the import failed for the very name the user gave, and not for an import inside the application."""
    module = str(app_uri).partition(":")[0]
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    return missing is not None and (module == missing or module.startswith(f"{missing}."))
