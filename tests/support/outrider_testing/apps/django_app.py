"""The basics of Django with asynchronous views. Django has no lifespan."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="for tests")


async def show_or_add(request: HttpRequest) -> HttpResponse:
    if request.method == "POST":
        return JsonResponse({"value": json.loads(request.body)["value"] + 1})
    return JsonResponse({"framework": "django"})


async def stream(_request: HttpRequest) -> StreamingHttpResponse:
    async def pieces() -> AsyncIterator[str]:
        for number in range(5):
            yield f"piece {number}\n"

    return StreamingHttpResponse(pieces(), content_type="text/plain")


async def fail(_request: HttpRequest) -> HttpResponse:
    raise RuntimeError("this view fails on purpose")


urlpatterns = [path("json", show_or_add), path("stream", stream), path("fail", fail)]

django.setup()
app = get_asgi_application()
