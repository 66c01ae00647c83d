"""The ASGI `tls` extension, field by field, over handshakes in memory."""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme

from outrider.tls_extension import presented_certificate, tls_extension
from outrider_testing.certificates import Authority, handshake, trusting_context

PEM = "-----BEGIN CERTIFICATE-----"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pem")


@pytest.fixture
def server_context(authority: Authority, directory: Path) -> ssl.SSLContext:
    """A server that asks for certificates, but does without."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.write_pair(directory, "server", "localhost"))
    context.verify_mode = ssl.CERT_OPTIONAL
    authority.ca.configure_trust(context)
    return context


def extension(server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> dict[str, Any]:
    _, server = handshake(server_context, client_context)
    return tls_extension(server, "PEM")


@pytest.mark.parametrize(
    "version, number", [(ssl.TLSVersion.TLSv1_2, 0x0303), (ssl.TLSVersion.TLSv1_3, 0x0304)], ids=["1.2", "1.3"]
)
def test_extension_tells_the_version(server_context: ssl.SSLContext, version: ssl.TLSVersion, number: int) -> None:
    server_context.maximum_version = version
    assert extension(server_context, trusting_context())["tls_version"] == number


@pytest.mark.parametrize(
    "cipher, number",
    [
        ("ECDHE-RSA-AES128-GCM-SHA256", 0xC02F),
        ("ECDHE-ECDSA-AES256-GCM-SHA384", 0xC02C),
        ("ECDHE-ECDSA-AES128-CCM", 0xC0AC),  # not among those that Python offers by itself
    ],
)
def test_extension_tells_the_cipher_suite_of_tls_12(
    directory: Path, server_context: ssl.SSLContext, cipher: str, number: int
) -> None:
    kind = trustme.KeyType.RSA if "RSA" in cipher.split("-") else trustme.KeyType.ECDSA
    issued = trustme.CA().issue_cert("localhost", key_type=kind)
    issued.private_key_and_cert_chain_pem.write_to_path(directory / "key-type.pem")
    server_context.load_cert_chain(directory / "key-type.pem")
    server_context.maximum_version = ssl.TLSVersion.TLSv1_2
    client_context = trusting_context()
    server_context.set_ciphers(cipher)
    client_context.set_ciphers(cipher)
    assert extension(server_context, client_context)["cipher_suite"] == number


def test_extension_tells_the_cipher_suite_of_tls_13(server_context: ssl.SSLContext) -> None:
    client, server = handshake(server_context, trusting_context())
    numbers = {
        "TLS_AES_128_GCM_SHA256": 0x1301,
        "TLS_AES_256_GCM_SHA384": 0x1302,
        "TLS_CHACHA20_POLY1305_SHA256": 0x1303,
    }
    cipher = client.cipher()
    assert cipher is not None
    assert tls_extension(server, None)["cipher_suite"] == numbers[cipher[0]]


def test_client_without_certificate_has_no_name(server_context: ssl.SSLContext) -> None:
    described = extension(server_context, trusting_context())
    assert described["server_cert"] == "PEM"
    assert described["client_cert_chain"] == ()
    assert described["client_cert_name"] is None
    assert described["client_cert_error"] is None


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_client_with_certificate_is_named_after_its_subject(
    authority: Authority, directory: Path, server_context: ssl.SSLContext, version: ssl.TLSVersion
) -> None:
    server_context.maximum_version = version
    pair = authority.write_pair(directory, "client", "client@example.org", common_name="Client, the first")
    client_context = trusting_context()
    client_context.load_cert_chain(*pair)
    described = extension(server_context, client_context)
    assert described["client_cert_name"].startswith("CN=Client\\, the first,OU=")
    assert described["client_cert_chain"] == (Path(pair[0]).read_text(encoding="ascii"),)
    assert described["client_cert_error"] is None


def test_client_certificate_comes_with_what_the_client_sent_along(
    authority: Authority, directory: Path, server_context: ssl.SSLContext
) -> None:
    issued = authority.ca.create_child_ca().issue_cert("client@example.org", common_name="grandchild")
    path = directory / "chain.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(path)
    client_context = trusting_context()
    client_context.load_cert_chain(path)
    described = extension(server_context, client_context)
    assert [pem.startswith(PEM) for pem in described["client_cert_chain"]] == [True, True]
    assert "".join(described["client_cert_chain"]) == "".join(
        pem.bytes().decode() for pem in issued.cert_chain_pems
    ).replace("\r", "")
    assert described["client_cert_name"].startswith("CN=grandchild,")


@pytest.mark.parametrize("count", [0, 2])
def test_chain_is_asked_for_in_public_where_that_is_possible(authority: Authority, count: int) -> None:
    """As from Python 3.13 on, where there is none in a session that was resumed."""
    der = ssl.PEM_cert_to_DER_cert(authority.ca.cert_pem.bytes().decode("ascii"))

    class Modern:
        def getpeercert(self, binary: bool) -> bytes:
            assert binary
            return der

        def get_unverified_chain(self) -> list[bytes]:
            return [der] * count

        def version(self) -> str:
            return "TLSv1.3"

        def cipher(self) -> tuple[str, str, int]:
            return "TLS_AES_128_GCM_SHA256", "TLSv1.3", 128

    described = tls_extension(Modern(), None)
    assert described["client_cert_chain"] == (ssl.DER_cert_to_PEM_cert(der),) * max(1, count)


def resume(server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> ssl.SSLObject:
    """The server's side of a connection that resumes the session of another one."""
    before, _ = handshake(server_context, client_context)
    with suppress(ssl.SSLWantReadError):
        before.read()  # the tickets, which TLS 1.3 sends behind the handshake
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, session=before.session)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        for side in (client, server):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    assert client.session_reused
    return server


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_client_that_resumes_its_session_is_still_named(
    authority: Authority, directory: Path, server_context: ssl.SSLContext, version: ssl.TLSVersion
) -> None:
    server_context.maximum_version = version
    pair = authority.write_pair(directory, "returning", "client@example.org", common_name="back again")
    client_context = trusting_context()
    client_context.load_cert_chain(*pair)
    described = tls_extension(resume(server_context, client_context), None)
    assert described["client_cert_chain"] == (Path(pair[0]).read_text(encoding="ascii"),)
    assert described["client_cert_name"].startswith("CN=back again,")


def test_version_and_cipher_that_are_not_known_are_left_out() -> None:
    class Unusual:
        def getpeercert(self, binary: bool) -> None:
            assert binary

        def version(self) -> str:
            return "TLSv9"

        def cipher(self) -> None:
            return None

    described = tls_extension(Unusual(), None)
    assert described["tls_version"] is None
    assert described["cipher_suite"] is None


# -- what a context shows


def test_context_is_asked_what_it_shows(authority: Authority, directory: Path, server_context: ssl.SSLContext) -> None:
    certfile, _ = authority.write_pair(directory, "shown", "localhost")
    server_context.load_cert_chain(certfile, certfile.replace(".crt", ".key"))
    assert presented_certificate(server_context) == Path(certfile).read_text(encoding="ascii")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_context_of_one_version_is_asked_as_well(server_context: ssl.SSLContext, version: ssl.TLSVersion) -> None:
    server_context.minimum_version = server_context.maximum_version = version
    assert str(presented_certificate(server_context)).startswith(PEM)


def test_context_without_certificate_shows_none() -> None:
    assert presented_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)) is None


def test_context_whose_handshake_does_not_end_shows_none(server_context: ssl.SSLContext) -> None:
    server_context.maximum_version = ssl.TLSVersion.TLSv1_2
    server_context.verify_mode = ssl.CERT_REQUIRED
    assert presented_certificate(server_context) is None
