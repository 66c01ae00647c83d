"""A certificate for the servers under test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Certificate:
    """The files of a certificate chain and its key, as PEM."""

    chain: Path
    key: Path


def write(directory: Path) -> Certificate:
    """Make a certificate for the loopback address in ``directory``."""
    import trustme  # noqa: PLC0415 -- a load without TLS does not need it

    made = trustme.CA().issue_cert("127.0.0.1", "localhost")
    certificate = Certificate(directory / "server.pem", directory / "server.key")
    certificate.key.touch(mode=0o600)
    made.private_key_pem.write_to_path(certificate.key)
    for number, pem in enumerate(made.cert_chain_pems):
        pem.write_to_path(certificate.chain, append=number > 0)
    return certificate
