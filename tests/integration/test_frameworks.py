"""The frameworks people use serve their own basics, each with its lifespan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from outrider_testing.gunicorn_process import GunicornProcess
from outrider_testing.serving import serving

FRAMEWORKS = ["starlette", "fastapi", "django", "quart", "litestar", "falcon"]
WITHOUT_LIFESPAN = {"django"}


@dataclass
class Served:
    """A framework's name and the server that runs its application."""

    framework: str
    server: GunicornProcess


@pytest.fixture(scope="module", params=FRAMEWORKS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    framework: str = request.param
    with serving(tmp_path_factory.mktemp(framework)) as serve:
        yield Served(framework, serve(f"outrider_testing.apps.{framework}_app:app"))


def test_framework_serves_json(served: Served) -> None:
    response = served.server.get("/json")
    assert response.status == 200
    assert response.field("content-type").startswith("application/json")
    assert response.json() == {"framework": served.framework}


def test_framework_reads_json_body(served: Served) -> None:
    with served.server.connect() as connection:
        for value in (1, 2):
            response = connection.request(
                "POST", "/json", fields=[("Content-Type", "application/json")], body=b'{"value": %d}' % value
            )
            assert response.status in {200, 201}
            assert response.json() == {"value": value + 1}


def test_framework_streams_response(served: Served) -> None:
    response = served.server.get("/stream")
    assert response.status == 200
    assert response.field("transfer-encoding") == "chunked"
    assert response.text == "".join(f"piece {number}\n" for number in range(5))


def test_framework_answers_head_without_body(served: Served) -> None:
    with served.server.connect() as connection:
        connection.request("HEAD", "/stream")
        assert connection.request("GET", "/json").status == 200


def test_framework_answers_404(served: Served) -> None:
    with served.server.connect() as connection:
        assert connection.request("GET", "/missing").status == 404
        assert connection.request("GET", "/json").status == 200


def test_framework_error_is_500_and_leaves_worker_serving(served: Served) -> None:
    workers = served.server.workers()
    assert served.server.get("/fail").status == 500
    assert served.server.get("/json").status == 200
    assert served.server.workers() == workers


def test_framework_runs_its_lifespan(tmp_path: Path, served: Served) -> None:
    with serving(tmp_path) as serve:
        server = serve(f"outrider_testing.apps.{served.framework}_app:app")
        if served.framework in WITHOUT_LIFESPAN:
            assert server.get("/started").status == 404
        else:
            assert server.get("/started").json() == {"started": True}
        server.stop()
        assert server.process.returncode == 0
        assert ("shutdown" in server.events()) == (served.framework not in WITHOUT_LIFESPAN)
        assert "Traceback" not in server.log_text()
