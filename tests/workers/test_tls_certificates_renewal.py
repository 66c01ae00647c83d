"""Certificates that change while the worker runs."""

from __future__ import annotations

import errno
import os
import shutil
import ssl
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from outrider import tls
from outrider import tls_certificates as module
from outrider.tls_certificates import LOOK_PERIOD, RETRY_PERIOD
from outrider_testing.certificates import Authority, Pair, handshake, serial_of, trusting_context
from outrider_testing.fakes import FakeLog, ManualLoop
from outrider_testing.rotation import Rotation, encrypt, hook_with, make, serial, text, use, write_pairs
from outrider_testing.server_fakes import configure_tls, eventually

Hook = Callable[[Any, Callable[[], ssl.SSLContext]], ssl.SSLContext]


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def pairs(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    return write_pairs(authority, tmp_path_factory.mktemp("pem"))


@pytest.fixture
def rotation(loop: ManualLoop, tmp_path: Path, pairs: dict[str, Pair]) -> Rotation:
    return Rotation(loop, tmp_path, pairs["main"])


def test_changed_certificate_is_used(rotation: Rotation, pairs: dict[str, Pair]) -> None:
    before = rotation.tls.context
    use(pairs["next"], rotation.directory)
    rotation.look(2)
    assert serial_of(rotation.tls.context) == serial(pairs["next"])
    assert rotation.tls.certificate_of(rotation.tls.context) == text(pairs["next"])
    assert serial_of(before) == serial(pairs["main"]), "handshakes that have begun go on"
    (message,) = rotation.log.messages("info")
    assert message.startswith(f"A changed certificate is now in use: certfile '{rotation.directory}/live.crt', O")
    assert ", valid until 3000-01-01" in message


def test_unchanged_files_are_not_read(rotation: Rotation) -> None:
    before = rotation.tls.context
    rotation.look(5)
    assert rotation.tls.context is before
    assert rotation.log.entries == []


def test_files_are_looked_at_seldom(rotation: Rotation, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    real = module._stamp

    def stamp(path: str | None) -> tuple[int, ...] | None:
        looks.append(path)
        return real(path)

    monkeypatch.setattr(module, "_stamp", stamp)
    for _ in range(16):
        rotation.loop.clock += LOOK_PERIOD / 8
        rotation.tls.look(rotation.loop)
    assert len(looks) == 2 * 3


def test_files_that_still_change_are_not_read_yet(rotation: Rotation, pairs: dict[str, Pair]) -> None:
    shutil.copyfile(pairs["next"][0], rotation.directory / "live.crt")
    rotation.look()
    shutil.copyfile(pairs["next"][1], rotation.directory / "live.key")
    rotation.look()
    assert rotation.log.entries == []
    rotation.look()
    assert serial_of(rotation.tls.context) == serial(pairs["next"])
    assert rotation.errors == []


def test_switched_link_is_followed(loop: ManualLoop, tmp_path: Path, pairs: dict[str, Pair]) -> None:
    """Kubernetes: the files are links into ..data, which is a link to a directory."""
    for name in ("main", "next"):
        (tmp_path / name).mkdir()
        use(pairs[name], tmp_path / name)
    (tmp_path / "..data").symlink_to("main")
    for name in ("live.crt", "live.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    log = FakeLog()
    tls = make((str(tmp_path / "live.crt"), str(tmp_path / "live.key")), log=log)
    (tmp_path / "..data_tmp").symlink_to("next")
    (tmp_path / "..data_tmp").replace(tmp_path / "..data")
    for _ in range(2):
        loop.clock += LOOK_PERIOD
        tls.look(loop)
        eventually(loop, lambda: tls._reading is None or tls._reading.done())
    assert serial_of(tls.context) == serial(pairs["next"])
    assert log.messages("error") == []


def test_changed_authorities_are_used(
    loop: ManualLoop, tmp_path: Path, pairs: dict[str, Pair], authority: Authority
) -> None:
    other = Authority()
    path = other.write_authority(tmp_path / "clients.pem")
    rotation = Rotation(loop, tmp_path, pairs["main"], ca_certs=path, cert_reqs=ssl.CERT_REQUIRED)
    client_context = trusting_context()
    client_context.load_cert_chain(*pairs["one"])
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(rotation.tls.context, client_context)
    authority.write_authority(tmp_path / "clients.pem")
    rotation.look(2)
    handshake(rotation.tls.context, client_context)


def test_pair_that_does_not_match_changes_nothing_but_the_log(rotation: Rotation, pairs: dict[str, Pair]) -> None:
    before = rotation.tls.context
    use((pairs["next"][0], pairs["main"][1]), rotation.directory)
    rotation.look(6)
    assert rotation.tls.context is before
    (message,) = rotation.errors
    assert "live.key' is not the key of the certificate in certfile" in message
    assert ". The old one stays in use: certfile " in message
    assert "HUP" not in message
    use(pairs["next"], rotation.directory)
    rotation.look(2)
    assert serial_of(rotation.tls.context) == serial(pairs["next"])


def test_bad_pair_that_is_taken_back_is_forgotten(rotation: Rotation, tmp_path: Path) -> None:
    key = tmp_path / "live.key"
    kept = tmp_path / "kept.key"
    key.rename(kept)
    rotation.look(1)
    kept.rename(key)
    rotation.look(3)
    assert rotation.errors == []


@pytest.mark.parametrize("content", [None, "", "junk"])
@pytest.mark.parametrize("name", ["live.crt", "live.key"])
def test_file_that_cannot_be_used_is_told_of_once(rotation: Rotation, name: str, content: str | None) -> None:
    path = rotation.directory / name
    path.unlink()
    if content is not None:
        path.write_text(content, encoding="ascii")
    before = rotation.tls.context
    rotation.look(4)
    assert rotation.tls.context is before
    (message,) = rotation.errors
    assert str(path) in message


def assert_advises_to_replace_the_workers(message: str) -> None:
    assert f". This worker is uid {os.geteuid()} and has given up what it was at its start; let that user " in message
    assert "or have the workers replaced after each renewal (HUP). The old one stays in use" in message


@pytest.mark.parametrize("name", ["live", "further"])
def test_key_that_may_not_be_read_any_more_is_told_with_what_to_do(
    loop: ManualLoop, tmp_path: Path, pairs: dict[str, Pair], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    rotation = Rotation(loop, tmp_path, pairs["main"], use(pairs["one"], tmp_path, "further"))
    real = tls.read_regular_file

    def read(path: str) -> bytes:
        if path.endswith(f"{name}.key"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    use(pairs["next"], tmp_path, name)
    monkeypatch.setattr(tls, "read_regular_file", read)
    rotation.look(2)
    (message,) = rotation.errors
    assert f"{name}.key' can't be read ([Errno 13] Permission denied" in message
    assert ("sni_certificates: " in message) is (name == "further")
    assert_advises_to_replace_the_workers(message)
    assert rotation.log.exceptions == []


def test_hook_is_called_again(loop: ManualLoop, tmp_path: Path, pairs: dict[str, Pair]) -> None:
    made: list[ssl.SSLContext] = []

    def hook(_: Any, default_ssl_context_factory: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        made.append(default_ssl_context_factory())
        return made[-1]

    rotation = Rotation(loop, tmp_path, pairs["main"], ssl_context=hook)
    use(pairs["next"], tmp_path)
    rotation.look(2)
    assert len(made) == 2
    assert rotation.tls.context is made[1]
    assert serial_of(made[1]) == serial(pairs["next"])


def hook_that_fails_later(error: Exception) -> Hook:
    calls: list[None] = []

    def hook(_: Any, default_ssl_context_factory: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        calls.append(None)
        if len(calls) > 1:
            raise error
        return default_ssl_context_factory()

    return hook


def test_hook_that_raises_the_second_time_changes_nothing_but_the_log(
    loop: ManualLoop, tmp_path: Path, pairs: dict[str, Pair]
) -> None:
    error = KeyError("vault")
    rotation = Rotation(loop, tmp_path, pairs["main"], ssl_context=hook_that_fails_later(error))
    before = rotation.tls.context
    use(pairs["next"], tmp_path)
    rotation.look(3)
    assert rotation.tls.context is before
    (message,) = rotation.errors
    assert message.startswith(
        "A changed certificate can't be used: the ssl_context hook raised KeyError('vault'). The old one stays in use"
    )
    assert rotation.log.exceptions == [error]


def test_hook_that_may_not_read_its_file_any_more_is_told_with_what_to_do(
    loop: ManualLoop, tmp_path: Path, pairs: dict[str, Pair]
) -> None:
    error = PermissionError(13, "Permission denied", "vault")
    rotation = Rotation(loop, tmp_path, pairs["main"], ssl_context=hook_that_fails_later(error))
    use(pairs["next"], tmp_path)
    rotation.look(2)
    (message,) = rotation.errors
    assert "[Errno 13] Permission denied: 'vault'" in message
    assert_advises_to_replace_the_workers(message)
    assert rotation.log.exceptions == []


def test_further_certificate_is_renewed_by_itself(loop: ManualLoop, tmp_path: Path, pairs: dict[str, Pair]) -> None:
    further = use(pairs["one"], tmp_path, "further")
    rotation = Rotation(loop, tmp_path, pairs["main"], further)
    use((pairs["next"][0], pairs["main"][1]), tmp_path)  # the first one is bad meanwhile
    use(pairs["wild"], tmp_path, "further")
    rotation.look(2)
    assert len(rotation.errors) == 1
    assert serial_of(rotation.tls.context, "two.example") == serial(pairs["wild"])
    assert serial_of(rotation.tls.context, "one.example") == serial(pairs["wild"])
    assert serial_of(rotation.tls.context) == serial(pairs["main"])


def test_first_certificate_goes_on_choosing_when_it_is_renewed(
    loop: ManualLoop, tmp_path: Path, pairs: dict[str, Pair]
) -> None:
    rotation = Rotation(loop, tmp_path, pairs["main"], pairs["one"])
    use(pairs["next"], tmp_path)
    rotation.look(2)
    assert serial_of(rotation.tls.context, "one.example") == serial(pairs["one"])
    assert serial_of(rotation.tls.context) == serial(pairs["next"])


def test_certificate_that_lost_its_names_is_not_used(loop: ManualLoop, tmp_path: Path, pairs: dict[str, Pair]) -> None:
    further = use(pairs["one"], tmp_path, "further")
    rotation = Rotation(loop, tmp_path, pairs["main"], further)
    use(pairs["address"], tmp_path, "further")
    rotation.look(2)
    assert "is for no DNS name" in rotation.errors[0]
    assert serial_of(rotation.tls.context, "one.example") == serial(pairs["one"])


def test_certificate_without_a_file_of_its_own_is_not_renewed(loop: ManualLoop, pairs: dict[str, Pair]) -> None:
    log = FakeLog()
    tls = configure_tls(log, keyfile="in the vault", ssl_context=hook_with(pairs["one"]))
    context = tls.context
    for _ in range(3):
        loop.clock += LOOK_PERIOD
        tls.look(loop)
        loop.run_ready()
    assert tls.context is context
    assert tls.certificate_of(context) == text(pairs["one"])
    assert log.entries == []


def test_file_that_only_the_hook_can_read_is_named_when_it_changes(
    loop: ManualLoop, tmp_path: Path, pairs: dict[str, Pair]
) -> None:
    rotation = Rotation(loop, tmp_path, pairs["main"], ssl_context=hook_with(pairs["one"]))
    path = tmp_path / "live.crt"
    path.write_text("of the hook's own kind", encoding="ascii")
    rotation.look(2)
    assert rotation.log.messages("info") == [f"A changed certificate is now in use: certfile {str(path)!r}"]


def test_files_are_not_read_twice_at_a_time(rotation: Rotation, pairs: dict[str, Pair]) -> None:
    use(pairs["next"], rotation.directory)
    for _ in range(2):
        rotation.loop.clock += LOOK_PERIOD
        rotation.tls.look(rotation.loop)
    reading = rotation.tls._reading
    assert reading is not None
    rotation.loop.clock += LOOK_PERIOD
    rotation.tls.look(rotation.loop)
    assert rotation.tls._reading is reading
    eventually(rotation.loop, reading.done)


@pytest.mark.parametrize("differs", ["st_dev", "st_ino", "st_size", "st_ctime_ns"])
def test_file_has_changed_where_one_thing_about_it_has(monkeypatch: pytest.MonkeyPatch, differs: str) -> None:
    """As with a file system that is mounted over it, a link, a second change at once, `chmod` or `cp -p`."""
    status = {"st_dev": 1, "st_ino": 2, "st_size": 3, "st_ctime_ns": 4}
    monkeypatch.setattr(Path, "stat", lambda _: SimpleNamespace(**status))
    before = module._stamp("live.crt")
    assert module._stamp("live.crt") == before
    status[differs] += 1
    assert module._stamp("live.crt") != before


def test_name_that_no_file_can_have_is_one_of_no_file() -> None:
    assert module._stamp("a\0b") is None


def test_password_holds_for_the_renewed_certificate(loop: ManualLoop, tmp_path: Path, pairs: dict[str, Pair]) -> None:
    further = use(encrypt(pairs["one"], tmp_path), tmp_path, "further")
    rotation = Rotation(loop, tmp_path, encrypt(pairs["main"], tmp_path), further, keyfile_password="secret")
    use(encrypt(pairs["wild"], tmp_path), tmp_path, "further")
    rotation.look(2)
    assert rotation.errors == []
    assert serial_of(rotation.tls.context, "two.example") == serial(pairs["wild"])


def test_pipe_in_place_of_a_certificate_ends_no_renewal(rotation: Rotation, pairs: dict[str, Pair]) -> None:
    path = rotation.directory / "live.crt"
    path.unlink()
    os.mkfifo(path)
    rotation.look(5)
    (message,) = rotation.errors
    assert message.startswith(
        f"A changed certificate can't be used: certfile {str(path)!r} can't be read (it is not a regular file); "
    )
    assert serial_of(rotation.tls.context) == serial(pairs["main"])
    path.unlink()
    use(pairs["next"], rotation.directory)
    rotation.look(2)
    assert serial_of(rotation.tls.context) == serial(pairs["next"])


def test_files_that_could_not_be_read_for_a_reason_that_passes_are_read_again(
    rotation: Rotation, pairs: dict[str, Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(_path: str) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(tls, "read_regular_file", exhausted)
        use(pairs["next"], rotation.directory)
        rotation.look(int(RETRY_PERIOD))
        assert len(rotation.errors) == 1
    rotation.look(int(RETRY_PERIOD))
    assert serial_of(rotation.tls.context) == serial(pairs["next"])


def test_files_that_the_worker_may_not_look_at_are_not_taken_for_changed(
    rotation: Rotation, pairs: dict[str, Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(tls, "read_regular_file", closed)
        patch.setattr(Path, "stat", closed)
        rotation.look(5)
    (message,) = rotation.log.messages("warning")
    assert message.startswith("A renewal will not be noticed: certfile ")
    assert "let that user read the file, or have the workers replaced after each renewal (HUP). In use: " in message
    assert rotation.errors == []
    use(pairs["next"], rotation.directory)
    rotation.look(2)
    assert serial_of(rotation.tls.context) == serial(pairs["next"])
