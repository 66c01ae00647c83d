"""What is taken for an ASGI 3 application, and what is refused with advice."""
# ruff: noqa: ARG001, ARG005  # the signatures are what is tested

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Callable
from typing import Any

import falcon.asgi
import pytest
from django.conf import settings as django_settings
from django.core.handlers.asgi import ASGIHandler
from fastapi import FastAPI
from litestar import Litestar
from quart import Quart
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint

from outrider.app_loading import make_error_app, resolve_app
from outrider.errors import ConfigurationError


async def asgi3(scope: Any, receive: Any, send: Any) -> None:
    """Stand for an application."""


class Application:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        pass


class Application2:
    """ASGI 2: one instance for each scope."""

    def __init__(self, scope: Any) -> None:
        pass

    async def __call__(self, receive: Any, send: Any) -> None:
        pass


class WSGIApplication:
    def __call__(self, environ: Any, start_response: Any) -> list[bytes]:
        return []


class Unreadable:
    """Has no signature, as compiled callables may not."""

    __signature__ = "none"

    def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        pass


def returns_awaitable(scope: Any, receive: Any, send: Any) -> Any:
    return asgi3(scope, receive, send)


def with_option(scope: Any, receive: Any, send: Any, option: int = 0) -> Any:
    return asgi3(scope, receive, send)


def wrapped(*args: Any, **kwargs: Any) -> Any:
    return asgi3(*args, **kwargs)


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    return []


@functools.wraps(wsgi)
def adapted(scope: Any, receive: Any, send: Any) -> Any:
    return asgi3(scope, receive, send)


def asgi2(scope: Any) -> Callable[..., Any]:
    return asgi3


def create_app(debug: bool = False, name: str = "", other: int = 0) -> Any:
    return asgi3


async def create_app_async() -> Any:
    return asgi3


def make_django() -> Any:
    if not django_settings.configured:
        django_settings.configure()
    return ASGIHandler()


@pytest.mark.parametrize(
    "app",
    [
        asgi3,
        returns_awaitable,
        with_option,
        wrapped,
        adapted,
        functools.partial(with_option, option=1),
        functools.partial(lambda first, scope, receive, send: None, 1),
        lambda scope, receive, send: None,
        Application(),
        Application().__call__,
        Unreadable(),
        HTTPEndpoint,
        max,
    ],
)
def test_asgi3_callable_is_accepted(app: Any) -> None:
    assert resolve_app(app, factory=False) is app


@pytest.mark.parametrize("make", [Starlette, FastAPI, make_django, lambda: Quart("app"), Litestar, falcon.asgi.App])
def test_application_of_framework_is_accepted(make: Callable[[], Any]) -> None:
    app = make()
    assert resolve_app(app, factory=False) is app


@pytest.mark.parametrize("make", [create_app, Application, functools.partial(create_app, debug=True)])
def test_factory_is_called(make: Callable[[], Any]) -> None:
    assert isinstance(resolve_app(make, factory=True), Application | type(asgi3))


def refusal_of(obj: Any, factory: bool = False) -> str:
    with pytest.raises(ConfigurationError) as caught:
        resolve_app(obj, factory, "app:app")
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "app",
    [
        wsgi,
        WSGIApplication(),
        WSGIApplication().__call__,
        lambda env, start: [],
        lambda environ, start_response, exc_info=None: [],
    ],
)
def test_wsgi_application_is_refused_with_advice(app: Any) -> None:
    message = refusal_of(app)
    assert message.startswith("app:app looks like a WSGI application")
    assert "-k gthread" in message
    assert "a2wsgi.WSGIMiddleware" in message


@pytest.mark.parametrize("app", [asgi2, Application2, functools.partial(lambda _, scope: asgi3, 1)])
def test_asgi2_application_is_refused_with_advice(app: Any) -> None:
    message = refusal_of(app)
    assert message.startswith("app:app looks like an ASGI 2 application")
    assert "guarantee_single_callable" in message


@pytest.mark.parametrize(
    "app,what",
    [
        (create_app, "factory"),
        (create_app_async, "factory"),
        (lambda debug=True: None, "factory"),
        (Application, "class"),
        (Starlette, "class"),
    ],
)
def test_uncalled_factory_is_refused_with_advice(app: Any, what: str) -> None:
    message = refusal_of(app)
    assert message.startswith(f"app:app looks like a {what}, not an application")
    assert "app_factory = True" in message


async def async_of_two(receive: Any, send: Any) -> None:
    pass


class AsyncOfTwo:
    async def __call__(self, receive: Any, send: Any) -> None:
        pass


class ClassOfTwo:
    def __init__(self, one: Any, two: Any) -> None:
        pass


@pytest.mark.parametrize(
    "app", [async_of_two, AsyncOfTwo(), ClassOfTwo, lambda a, b, c, d: None, lambda *, scope: None]
)
def test_other_signature_is_refused(app: Any) -> None:
    assert refusal_of(app).endswith("but an ASGI application takes (scope, receive, send)")


@pytest.mark.parametrize(
    "obj,what",
    [(sys, "a module"), (5, "of type int"), ({"app": asgi3}, "of type dict"), (None, "of type NoneType")],
)
def test_object_that_cannot_be_called_is_refused(obj: Any, what: str) -> None:
    assert refusal_of(obj).startswith(f"app:app is {what}, which can't be called")


def test_factory_that_is_no_function_is_refused() -> None:
    message = refusal_of(5, factory=True)
    assert message == "app_factory is set, but app:app is of type int, which can't be called"


def test_application_is_refused_as_factory() -> None:
    message = refusal_of(Application(), factory=True)
    assert message.startswith("app_factory is set, but app:app requires arguments (scope")
    assert "unset app_factory" in message


def test_async_factory_is_refused() -> None:
    assert "is an async function" in refusal_of(create_app_async, factory=True)


def test_factory_of_a_wsgi_application_is_refused() -> None:
    message = refusal_of(lambda: wsgi, factory=True)
    assert message.startswith("what app:app returned looks like a WSGI application")


def test_factory_without_readable_signature_is_called() -> None:
    class Factory:
        __signature__ = "none"

        def __call__(self) -> Any:
            return asgi3

    assert resolve_app(Factory(), factory=True) is asgi3


def test_error_in_factory_is_not_hidden() -> None:
    def broken() -> Any:
        raise TypeError("its own")

    with pytest.raises(TypeError, match="its own"):
        resolve_app(broken, factory=True)


def test_error_application_answers_with_the_traceback() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    application: Any = make_error_app(SyntaxError("invalid syntax"))
    asyncio.run(application({"type": "lifespan"}, None, send))
    assert sent == []
    asyncio.run(application({"type": "http"}, None, send))
    start, body = sent
    assert start["status"] == 500
    assert (b"content-length", b"%d" % len(body["body"])) in start["headers"]
    assert body["body"] == b"SyntaxError: invalid syntax\n"
