"""What the application is told about a TLS connection: `scope["extensions"]["tls"]` of ASGI."""

from __future__ import annotations

import ssl
from contextlib import suppress
from functools import cache
from typing import Any

from outrider.x509 import subject_of

_VERSIONS = {"TLSv1": 0x0301, "TLSv1.1": 0x0302, "TLSv1.2": 0x0303, "TLSv1.3": 0x0304}
_EVERY_CIPHER = "ALL:COMPLEMENTOFALL:@SECLEVEL=0"


def tls_extension(ssl_object: Any, server_certificate: str | None) -> dict[str, Any]:
    """Describe a connection whose handshake is over.

    Args:
        ssl_object: the transport's "ssl_object": `ssl.SSLObject`, or what has its methods.
        server_certificate: PEM of the certificate that the client was shown, if it is known.
    """
    chain = _client_chain(ssl_object)
    name, *_ = ssl_object.cipher() or ("",)
    return {
        "server_cert": server_certificate,
        "client_cert_chain": tuple(map(ssl.DER_cert_to_PEM_cert, chain)),
        "client_cert_name": subject_of(chain[0]) if chain else None,
        # A certificate that OpenSSL can't verify ends the handshake.
        "client_cert_error": None,
        "tls_version": _VERSIONS.get(ssl_object.version()),
        "cipher_suite": _cipher_suites().get(name),
    }


def _client_chain(ssl_object: Any) -> list[bytes]:
    """The client's certificate and those that it sent along, as DER."""
    own = ssl_object.getpeercert(True)
    if own is None:
        return []
    if hasattr(ssl_object, "get_unverified_chain"):
        chain = ssl_object.get_unverified_chain()
    else:  # public from Python 3.13 on
        sent = ssl_object._sslobj.get_unverified_chain() or ()  # noqa: SLF001
        chain = [ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in sent]
    return chain or [own]  # a resumed session remembers the first one only


def presented_certificate(context: ssl.SSLContext) -> str | None:
    """PEM of the certificate that a context shows to a client that names no server; None if it can't be had.

    Python does not tell what somebody else has loaded into a context, so this asks it, by a handshake in memory.
    """
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    client_context.verify_mode = ssl.CERT_NONE
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server)
    server = context.wrap_bio(to_server, to_client, server_side=True)
    try:
        for _ in range(3):  # a TLS 1.2 client is done after two answers of the server
            for side in (client, server):
                _advance(side)
        certificate = client.getpeercert(True)
    except ssl.SSLError:  # the handshake failed
        return None
    return ssl.DER_cert_to_PEM_cert(certificate) if certificate else None


def _advance(side: ssl.SSLObject) -> None:
    with suppress(ssl.SSLWantReadError):
        side.do_handshake()


@cache
def _cipher_suites() -> dict[str, int]:
    """Numbers of the cipher suites by OpenSSL's names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers(_EVERY_CIPHER)
    return {cipher["name"]: cipher["id"] & 0xFFFF for cipher in context.get_ciphers()}
