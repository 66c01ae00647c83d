"""What the server reads in certificates, against what cryptography wrote into them."""

from __future__ import annotations

import datetime as dt
import ssl

import pytest
from cryptography import x509 as crypto
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from outrider.x509 import first_certificate, read_certificate, subject_of

KEY = ec.generate_private_key(ec.SECP256R1())
CN = NameOID.COMMON_NAME


def make(subject: crypto.Name, names: list[crypto.GeneralName] | None = None, year: int = 2031) -> bytes:
    builder = (
        crypto.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(crypto.Name([crypto.NameAttribute(CN, "issuer")]))
        .public_key(KEY.public_key())
        .serial_number(1 << 150)
        .not_valid_before(dt.datetime(min(year, 2020), 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(year, 2, 3, 4, 5, 6, tzinfo=dt.UTC))
        .add_extension(crypto.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(crypto.IssuerAlternativeName([crypto.DNSName("issuer.example")]), critical=False)
    )
    if names is not None:
        builder = builder.add_extension(crypto.SubjectAlternativeName(names), critical=False)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def name(*attributes: tuple[crypto.ObjectIdentifier, str]) -> crypto.Name:
    return crypto.Name([crypto.NameAttribute(oid, value) for oid, value in attributes])


# -- subjects (RFC 4514)


def test_subject_is_written_from_its_last_part_to_its_first() -> None:
    subject = name((NameOID.COUNTRY_NAME, "SE"), (NameOID.ORGANIZATION_NAME, "Example"), (CN, "a client"))
    assert subject_of(make(subject)) == "CN=a client,O=Example,C=SE"


def test_empty_subject_is_an_empty_string() -> None:
    assert subject_of(make(crypto.Name([]))) == ""


def test_subject_with_several_values_in_a_part() -> None:
    pair = crypto.RelativeDistinguishedName(
        [crypto.NameAttribute(CN, "both"), crypto.NameAttribute(NameOID.USER_ID, "7")]
    )
    single = crypto.RelativeDistinguishedName([crypto.NameAttribute(NameOID.DOMAIN_COMPONENT, "x")])
    subject = crypto.Name([single, pair])
    assert subject_of(make(subject)) in ("CN=both+UID=7,DC=x", "UID=7+CN=both,DC=x")


@pytest.mark.parametrize(
    "value, written",
    [
        ("plain", "plain"),
        (" front", "\\ front"),
        ("back ", "back\\ "),
        (" ", "\\ "),
        ("in the middle", "in the middle"),
        ("#sharp", "\\#sharp"),
        ("c#", "c#"),
        ('a,b+c"d\\e<f>g;h', 'a\\,b\\+c\\"d\\\\e\\<f\\>g\\;h'),
        ("a=b", "a=b"),
        ("nul\0", "nul\\00"),
        ("Zoë 漢字", "Zoë 漢字"),
        ("line\nbreak\n", "line\nbreak\n"),
    ],
)
def test_special_characters_of_a_subject_are_escaped(value: str, written: str) -> None:
    assert subject_of(make(name((CN, value)))) == f"CN={written}"


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=16))
def test_subject_is_what_cryptography_writes(value: str) -> None:
    subject = name((NameOID.COUNTRY_NAME, "DE"), (NameOID.LOCALITY_NAME, "here"), (CN, value))
    assert subject_of(make(subject)) == subject.rfc4514_string()


@pytest.mark.parametrize(
    "kind, codec",
    [
        (_ASN1Type.UTF8String, "utf-8"),
        (_ASN1Type.BMPString, "utf-16-be"),
        (_ASN1Type.T61String, "latin-1"),
        (_ASN1Type.UniversalString, "utf-32-be"),
    ],
)
def test_subject_in_any_character_set_is_text(kind: _ASN1Type, codec: str) -> None:
    attribute = crypto.NameAttribute(CN, "Zoë", kind)
    der = make(crypto.Name([attribute]))
    assert subject_of(der) in ("CN=Zoë", f"CN={'Zoë'.encode().decode(codec, 'replace')}")


def test_attribute_without_a_descriptor_is_written_in_hexadecimal() -> None:
    subject = name((crypto.ObjectIdentifier("1.3.6.1.4.1.99999.1.300"), "ab"))
    assert subject_of(make(subject)) == "1.3.6.1.4.1.99999.1.300=#0c026162"


@pytest.mark.parametrize(
    "oid", ["2.999.5", "1.2.840.113549.1.9.2", "0.5.1", "0.39.1", "1.0.1", "1.39.16384", "2.0.16383", "2.40.1"]
)
def test_attribute_is_named_by_its_number(oid: str) -> None:
    assert subject_of(make(name((crypto.ObjectIdentifier(oid), "x")))).startswith(f"{oid}=#")


def test_attribute_that_is_no_string_is_written_in_hexadecimal() -> None:
    attribute = crypto.NameAttribute(NameOID.X500_UNIQUE_IDENTIFIER, b"\x05", _ASN1Type.BitString)
    assert subject_of(make(crypto.Name([attribute]))) == "2.5.4.45=#030105"


def test_registered_attribute_that_is_no_string_is_written_in_hexadecimal() -> None:
    octets = make(name((CN, "x"))).replace(b"\x55\x04\x03\x0c\x01x", b"\x55\x04\x03\x04\x01x")
    assert subject_of(octets) == "CN=#040178"


def test_registered_attributes_go_by_their_descriptors() -> None:
    subject = name((NameOID.EMAIL_ADDRESS, "a@b"), (NameOID.SERIAL_NUMBER, "12"), (NameOID.STATE_OR_PROVINCE_NAME, "s"))
    assert subject_of(make(subject)) == "ST=s,serialNumber=12,emailAddress=a@b"


# -- names and validity


def test_dns_names_are_read_in_lower_case() -> None:
    names = [
        crypto.DNSName("One.example"),
        crypto.RFC822Name("a@b.example"),
        crypto.DNSName("*.two.example"),
        crypto.UniformResourceIdentifier("https://three.example"),
    ]
    assert read_certificate(make(name((CN, "x")), names)).dns_names == ("one.example", "*.two.example")


def test_certificate_without_alternative_names_has_no_dns_names() -> None:
    assert read_certificate(make(name((CN, "host.example")))).dns_names == ()


@pytest.mark.parametrize("year", [1950, 1999, 2031, 2049, 2050, 2150])
def test_last_day_is_read_from_either_kind_of_time(year: int) -> None:
    certificate = read_certificate(make(name((CN, "x")), year=year))
    assert certificate.last_day == f"{year}-02-03"
    assert certificate.subject == "CN=x"


# -- files


def test_first_certificate_of_a_file_is_read() -> None:
    first, second = make(name((CN, "first"))), make(name((CN, "second")))
    pem = f"comment\n{ssl.DER_cert_to_PEM_cert(first)}{ssl.DER_cert_to_PEM_cert(second)}"
    assert first_certificate(pem) == first


def test_file_without_certificate_has_none() -> None:
    assert first_certificate("-----BEGIN PRIVATE KEY-----\n") is None
