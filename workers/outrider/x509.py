"""What the server reads in an X.509 certificate (RFC 5280): the subject, the DNS names, the end of its validity.

OpenSSL has parsed each of these certificates before, so the DER in them is well-formed; it just does not tell Python.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from typing import NamedTuple

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

_VERSION = 0xA0
_EXTENSIONS = 0xA3
_DNS_NAME = 0x82
_UTC_TIME = 0x17
_OID_SUBJECT_ALT_NAME = bytes((0x55, 0x1D, 0x11))  # 2.5.29.17

_STRINGS = {
    0x0C: "utf-8",  # UTF8String
    0x12: "ascii",  # NumericString
    0x13: "ascii",  # PrintableString
    0x14: "latin-1",  # TeletexString, as everybody reads it
    0x16: "ascii",  # IA5String
    0x1A: "ascii",  # VisibleString
    0x1C: "utf-32-be",  # UniversalString
    0x1E: "utf-16-be",  # BMPString
}

# The descriptors that are registered for attributes of names (RFC 4514 §2.3, RFC 4519, RFC 5280 §4.1.2.6).
_DESCRIPTORS = {
    "0.9.2342.19200300.100.1.1": "UID",
    "0.9.2342.19200300.100.1.25": "DC",
    "1.2.840.113549.1.9.1": "emailAddress",
    "2.5.4.3": "CN",
    "2.5.4.4": "sn",
    "2.5.4.5": "serialNumber",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.9": "STREET",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "2.5.4.12": "title",
    "2.5.4.15": "businessCategory",
    "2.5.4.17": "postalCode",
    "2.5.4.41": "name",
    "2.5.4.42": "givenName",
    "2.5.4.43": "initials",
    "2.5.4.44": "generationQualifier",
    "2.5.4.46": "dnQualifier",
}
_SPECIAL = re.compile(r'(^[ #]|[ ]\Z|["+,;<>\\])')


class Certificate(NamedTuple):
    """A certificate: its subject (RFC 4514), the DNS names it is for in lower case, and its last day (ISO 8601)."""

    subject: str
    dns_names: tuple[str, ...]
    last_day: str


class _Element(NamedTuple):
    tag: int
    content: bytes
    encoded: bytes


def first_certificate(pem: str) -> bytes | None:
    """The first certificate of a PEM file, as DER: the server's own in a chain. None if there is none."""
    found = _PEM.search(pem)
    return ssl.PEM_cert_to_DER_cert(found.group()) if found else None


def read_certificate(der: bytes) -> Certificate:
    """Read a certificate that OpenSSL has accepted."""
    fields = _fields(der)
    *_, not_after = _elements(fields[3].content)
    extensions = next((field.content for field in fields if field.tag == _EXTENSIONS), b"")
    return Certificate(_name(fields[4].content), tuple(_dns_names(extensions)), _day(not_after))


def subject_of(der: bytes) -> str:
    """The subject of a certificate that OpenSSL has accepted, as RFC 4514 writes it."""
    return _name(_fields(der)[4].content)


def _fields(der: bytes) -> list[_Element]:
    """The fields of a TBSCertificate from the serial number on: the version is left out where it is the default."""
    (certificate,) = _elements(der)
    tbs, *_ = _elements(certificate.content)
    return [field for field in _elements(tbs.content) if field.tag != _VERSION]


def _elements(der: bytes) -> Iterator[_Element]:
    position = 0
    while position < len(der):
        start = position
        tag, length = der[position], der[position + 1]
        position += 2
        if length >= 0x80:  # the long form: so many bytes of length
            size = length & 0x7F
            length = int.from_bytes(der[position : position + size])
            position += size
        end = position + length
        yield _Element(tag, der[position:end], der[start:end])
        position = end


def _name(rdn_sequence: bytes) -> str:
    """Write a Name from its last part to its first (RFC 4514 §2.1)."""
    rdns = ["+".join(map(_attribute, _elements(rdn.content))) for rdn in _elements(rdn_sequence)]
    return ",".join(reversed(rdns))


def _attribute(pair: _Element) -> str:
    oid, value = _elements(pair.content)
    dotted = _dotted(oid.content)
    kind = _DESCRIPTORS.get(dotted)
    codec = _STRINGS.get(value.tag)
    if kind is None or codec is None:
        return f"{kind or dotted}=#{value.encoded.hex()}"  # RFC 4514 §2.4
    text = value.content.decode(codec, "replace")
    return f"{kind}={_SPECIAL.sub(_escape, text)}".replace("\0", "\\00")


def _escape(found: re.Match[str]) -> str:
    return f"\\{found.group()}"


def _dotted(oid: bytes) -> str:
    arcs = []
    arc = 0
    for byte in oid:
        arc = arc << 7 | byte & 0x7F
        if byte < 0x80:
            arcs.append(arc)
            arc = 0
    root = min(arcs[0] // 40, 2)
    return ".".join(map(str, (root, arcs[0] - 40 * root, *arcs[1:])))


def _dns_names(extensions: bytes) -> Iterator[str]:
    for sequence in _elements(extensions):
        for extension in _elements(sequence.content):
            oid, *_, value = _elements(extension.content)
            if oid.content == _OID_SUBJECT_ALT_NAME:
                (names,) = _elements(value.content)
                yield from (
                    name.content.decode("ascii", "replace").lower()
                    for name in _elements(names.content)
                    if name.tag == _DNS_NAME
                )


def _day(time: _Element) -> str:
    text = time.content.decode("ascii")
    if time.tag == _UTC_TIME:  # RFC 5280 §4.1.2.5.1
        text = ("19" if text >= "50" else "20") + text
    return f"{text[:4]}-{text[4:6]}-{text[6:8]}"
