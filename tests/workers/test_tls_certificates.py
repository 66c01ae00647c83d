"""Several certificates, chosen by server name; and certificates that change while the worker runs."""

from __future__ import annotations

import os
import shutil
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gunicorn.config import Config

from outrider import tls
from outrider import tls_certificates as module
from outrider.errors import ConfigurationError
from outrider.settings import OutriderSettings
from outrider.tls_certificates import LOOK_PERIOD, TLS
from outrider_testing.certificates import Authority, Pair, handshake, serial_of, trusting_context
from outrider_testing.fakes import FakeLog, ManualLoop
from outrider_testing.server_fakes import configure_tls, eventually


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def pairs(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    """Certificates for various names."""
    directory = tmp_path_factory.mktemp("pem")
    names = {
        "main": ["main.example"],
        "next": ["main.example"],
        "one": ["one.example", "uno.example"],
        "wild": ["*.example", "*.deep.example"],
        "address": ["192.0.2.1"],
    }
    return {name: authority.write_pair(directory, name, *hosts) for name, hosts in names.items()}


def use(pair: Pair, directory: Path, name: str = "live") -> Pair:
    """Put a certificate and its key where the server finds them, as certbot does: each file replaced at once."""
    paths = (str(directory / f"{name}.crt"), str(directory / f"{name}.key"))
    for source, path in zip(pair, paths, strict=True):
        shutil.copyfile(source, f"{path}.new")
        Path(f"{path}.new").replace(path)
    return paths


def serial(pair: Pair) -> int:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    return serial_of(context)


def make(pair: Pair, *others: Pair, log: FakeLog | None = None, **settings: Any) -> TLS:
    return configure_tls(log, certfile=pair[0], keyfile=pair[1], sni_certificates=others, **settings)


# -- several certificates


@pytest.mark.parametrize(
    "server_name, chosen",
    [
        (None, "main"),
        ("main.example", "main"),
        ("one.example", "one"),
        ("UNO.Example", "one"),
        ("two.example", "wild"),
        ("two.deep.example", "wild"),
        ("a.two.example", "main"),
        ("example", "main"),
        ("one.example.org", "main"),
    ],
)
def test_client_is_shown_the_certificate_of_the_name_it_asks_for(
    pairs: dict[str, Pair], server_name: str | None, chosen: str
) -> None:
    tls = make(pairs["main"], pairs["wild"], pairs["one"])
    assert serial_of(tls.context, server_name) == serial(pairs[chosen])


def test_first_certificate_of_a_name_counts(pairs: dict[str, Pair]) -> None:
    tls = make(pairs["one"], pairs["next"], pairs["main"])
    assert serial_of(tls.context, "main.example") == serial(pairs["next"])


def test_single_certificate_needs_no_choice(pairs: dict[str, Pair]) -> None:
    assert make(pairs["main"]).context.sni_callback is None


def test_settings_hold_for_every_certificate(pairs: dict[str, Pair]) -> None:
    tls = make(pairs["main"], pairs["one"], ciphers="ECDHE+AESGCM", http_protocols="h2,h1")
    client_context = trusting_context(["http/1.1", "h2"])
    client_context.maximum_version = ssl.TLSVersion.TLSv1_2
    client, server = handshake(tls.context, client_context, "one.example")
    assert client.selected_alpn_protocol() == "h2"
    assert server.context is not tls.context
    assert all("GCM" in cipher["name"] for cipher in server.context.get_ciphers() if cipher["protocol"] != "TLSv1.3")


def test_hook_makes_the_context_of_every_certificate(pairs: dict[str, Pair]) -> None:
    made = []

    def hook(cfg: Any, default_ssl_context_factory: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        made.append(cfg.certfile)
        assert cfg.workers == 1
        return default_ssl_context_factory()

    tls = make(pairs["main"], pairs["one"], ssl_context=hook)
    assert made == [pairs["main"][0], pairs["one"][0]]
    assert serial_of(tls.context, "one.example") == serial(pairs["one"])


def test_hook_may_choose_by_itself(pairs: dict[str, Pair]) -> None:
    def hook(_: Any, default_ssl_context_factory: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        other = default_ssl_context_factory()
        other.load_cert_chain(*pairs["one"])

        def choose(ssl_object: ssl.SSLObject, server_name: str | None, _: ssl.SSLContext) -> None:
            if server_name == "one.example":
                ssl_object.context = other

        context = default_ssl_context_factory()
        context.sni_callback = choose
        return context

    tls = make(pairs["main"], ssl_context=hook, http_protocols="h2,h1")
    assert serial_of(tls.context) == serial(pairs["main"])
    client, server = handshake(tls.context, trusting_context(["h2"]), "one.example")
    assert client.selected_alpn_protocol() == "h2"
    assert tls.certificate_of(server.context) == Path(pairs["one"][0]).read_text(encoding="ascii")
    assert tls.certificate_of(tls.context) == Path(pairs["main"][0]).read_text(encoding="ascii")


def test_two_who_choose_are_refused(pairs: dict[str, Pair]) -> None:
    def hook(_: Any, default_ssl_context_factory: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        context = default_ssl_context_factory()
        context.sni_callback = lambda *_: None
        return context

    with pytest.raises(ConfigurationError, match=r"sni_certificates is set, but .* has an sni_callback"):
        make(pairs["main"], pairs["one"], ssl_context=hook)


def test_further_certificate_that_cannot_be_used_is_refused(pairs: dict[str, Pair]) -> None:
    with pytest.raises(ConfigurationError, match=r"^sni_certificates: keyfile '.*main.key' is not the key of"):
        make(pairs["main"], (pairs["one"][0], pairs["main"][1]))


def test_further_certificate_without_names_is_refused(pairs: dict[str, Pair]) -> None:
    with pytest.raises(ConfigurationError, match=r"^sni_certificates: .*address.crt' is for no DNS name"):
        make(pairs["main"], pairs["address"])


def test_further_certificates_alone_are_refused(pairs: dict[str, Pair]) -> None:
    own = OutriderSettings(sni_certificates=(pairs["one"],))
    with pytest.raises(ConfigurationError, match=r"sni_certificates is .* certfile is not set"):
        TLS.from_gunicorn(Config(), own, FakeLog())


def test_no_certificate_is_no_tls() -> None:
    assert TLS.from_gunicorn(Config(), OutriderSettings(), FakeLog()) is None


@pytest.mark.parametrize("server_name, shown", [(None, "main"), ("one.example", "one")])
def test_certificate_of_a_connection_is_known(pairs: dict[str, Pair], server_name: str | None, shown: str) -> None:
    tls = make(pairs["main"], pairs["one"], ca_certs=pairs["main"][0], cert_reqs=ssl.CERT_OPTIONAL)
    _, server = handshake(tls.context, trusting_context(), server_name)
    assert tls.certificate_of(server.context) == Path(pairs[shown][0]).read_text(encoding="ascii")


# -- certificates that change


class Rotation:
    """A TLS whose files change, and the tick that looks at them."""

    def __init__(self, loop: ManualLoop, directory: Path, pair: Pair, *others: Pair, **settings: Any) -> None:
        self.loop = loop
        self.log = FakeLog()
        self.directory = directory
        self.tls = make(use(pair, directory), *others, log=self.log, **settings)
        self.look()

    def look(self, times: int = 1) -> None:
        """Let so many looks at the files pass, and what they begin come to its end."""
        for _ in range(times):
            self.loop.clock += LOOK_PERIOD
            self.tls.look(self.loop)
            eventually(self.loop, self._has_read)

    def _has_read(self) -> bool:
        return self.tls._reading is None or self.tls._reading.done()

    @property
    def errors(self) -> list[str]:
        return self.log.messages("error")


@pytest.fixture
def rotation(loop: ManualLoop, tmp_path: Path, pairs: dict[str, Pair]) -> Rotation:
    return Rotation(loop, tmp_path, pairs["main"])


def test_changed_certificate_is_used(rotation: Rotation, pairs: dict[str, Pair]) -> None:
    before = rotation.tls.context
    use(pairs["next"], rotation.directory)
    rotation.look(2)
    assert serial_of(rotation.tls.context) == serial(pairs["next"])
    assert rotation.tls.certificate_of(rotation.tls.context) == Path(pairs["next"][0]).read_text(encoding="ascii")
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


def test_key_that_may_not_be_read_any_more_is_told_with_what_to_do(
    rotation: Rotation, pairs: dict[str, Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tls.read_regular_file

    def read(path: str) -> bytes:
        if path.endswith("live.key"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    use(pairs["next"], rotation.directory)
    monkeypatch.setattr(tls, "read_regular_file", read)
    rotation.look(2)
    (message,) = rotation.errors
    assert "live.key' can't be read ([Errno 13] Permission denied" in message
    assert f"This worker is uid {os.geteuid()} and has given up what it was at its start" in message
    assert "(HUP)" in message


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


def test_hook_that_raises_the_second_time_changes_nothing_but_the_log(
    loop: ManualLoop, tmp_path: Path, pairs: dict[str, Pair]
) -> None:
    calls: list[None] = []

    def hook(_: Any, default_ssl_context_factory: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        calls.append(None)
        if len(calls) > 1:
            raise KeyError("vault")
        return default_ssl_context_factory()

    rotation = Rotation(loop, tmp_path, pairs["main"], ssl_context=hook)
    before = rotation.tls.context
    use(pairs["next"], tmp_path)
    rotation.look(3)
    assert rotation.tls.context is before
    (message,) = rotation.errors
    assert "the ssl_context hook raised KeyError('vault')" in message
    assert len(rotation.log.exceptions) == 1


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
    def hook(_: Any, default_ssl_context_factory: object) -> ssl.SSLContext:
        assert callable(default_ssl_context_factory)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*pairs["one"])
        return context

    log = FakeLog()
    tls = configure_tls(log, keyfile="in the vault", ssl_context=hook)
    context = tls.context
    for _ in range(3):
        loop.clock += LOOK_PERIOD
        tls.look(loop)
        loop.run_ready()
    assert tls.context is context
    assert tls.certificate_of(context) == Path(pairs["one"][0]).read_text(encoding="ascii")
    assert log.entries == []


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


def test_hook_that_shows_another_certificate_than_the_file_is_believed(pairs: dict[str, Pair]) -> None:
    def hook(_: Any, default_ssl_context_factory: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        context = default_ssl_context_factory()
        context.load_cert_chain(*pairs["one"])
        return context

    tls = make(pairs["main"], ssl_context=hook)
    assert tls.certificate_of(tls.context) == Path(pairs["one"][0]).read_text(encoding="ascii")


def test_file_that_was_replaced_by_one_of_its_size_and_time_is_another(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("one", "two")]
    for path in paths:
        path.write_bytes(b"same size")
        os.utime(path, ns=(0, 0))
    before = module._stamp(str(paths[0]))
    paths[1].replace(paths[0])
    assert module._stamp(str(paths[0])) != before


@pytest.mark.parametrize("is_fast", [True, False])
def test_fast_transport_is_used_by_setting(pairs: dict[str, Pair], is_fast: bool) -> None:
    assert make(pairs["main"], fast_tls=is_fast).fast is is_fast


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


def test_pipe_that_a_hook_does_not_read_is_not_read(tmp_path: Path, pairs: dict[str, Pair]) -> None:
    def hook(_: Any, default_ssl_context_factory: object) -> ssl.SSLContext:
        assert callable(default_ssl_context_factory)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*pairs["one"])
        return context

    os.mkfifo(tmp_path / "pipe")
    tls = make((str(tmp_path / "pipe"), pairs["one"][1]), ssl_context=hook)
    assert serial_of(tls.context) == serial(pairs["one"])
