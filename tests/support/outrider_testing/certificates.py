"""Certificates that the tests make, and handshakes in memory."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from pathlib import Path

import trustme
from cryptography import x509

Pair = tuple[str, str]


class Authority:
    """Signs certificates."""

    def __init__(self) -> None:
        self.ca = trustme.CA()

    def write_pair(self, directory: Path, name: str, *hosts: str, common_name: str | None = None) -> Pair:
        """Write a new certificate and its key to files; their paths."""
        issued = self.ca.issue_cert(*hosts, common_name=common_name)
        certfile, keyfile = directory / f"{name}.crt", directory / f"{name}.key"
        certfile.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        keyfile.write_bytes(issued.private_key_pem.bytes())
        return str(certfile), str(keyfile)

    def write_authority(self, path: Path) -> str:
        """Write the authority's own certificate to a file; its path."""
        self.ca.cert_pem.write_to_path(path)
        return str(path)

    def client_context(self, pair: Pair | None = None, alpn: Sequence[str] = ()) -> ssl.SSLContext:
        """A client that trusts this authority only, and may have a certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.ca.configure_trust(context)
        if pair:
            context.load_cert_chain(*pair)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context


def trusting_context(alpn: Sequence[str] = ()) -> ssl.SSLContext:
    """A client that trusts everybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def handshake(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, server_name: str | None = None
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Shake hands in memory; the client's side and the server's.

    Raises:
        ssl.SSLError: what the first side to fail has to say.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=server_name)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    pending: list[Callable[[], None]] = [client.do_handshake, server.do_handshake]
    for _ in range(10):
        for step in list(pending):
            try:
                step()
            except ssl.SSLWantReadError:
                continue
            pending.remove(step)
    assert not pending
    return client, server


def serial_of(context: ssl.SSLContext, server_name: str | None = None) -> int:
    """The serial number of the certificate that a context shows to a client."""
    client, _ = handshake(context, trusting_context(), server_name)
    der = client.getpeercert(True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number
