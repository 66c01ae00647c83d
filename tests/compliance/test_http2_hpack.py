"""Field compression, RFC 7541: every representation is read, and every error in one is found."""

from __future__ import annotations

import pytest
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from outrider_testing import http2_frames as h2
from outrider_testing.http2_cases import Answer, Case, ConnectionFault, Response, Told, parametrize, play
from outrider_testing.http2_wire import Connect

COMPRESSION = ConnectionFault(h2.COMPRESSION_ERROR)
SCOPE = h2.request("/scope")
USER_AGENT = 58  # in the static table
ACCEPT_ENCODING = 16  # with the value "gzip, deflate"
FIRST = 62  # the newest entry of the dynamic table
huffman = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)


def coded(text: str) -> bytes:
    """A string in the Huffman code."""
    return h2.string(huffman.encode(text.encode("latin-1")), huffman=True)


def sends(section: str, what: str, *blocks: bytes, allowed: Answer) -> Case:
    """Requests for /scope on streams 1, 3, ..., each with something more in its field block."""
    frames = [h2.headers(2 * number + 1, SCOPE + block) for number, block in enumerate(blocks)]
    return Case(f"RFC 7541 {section}", what, frames, allowed)


def begins(section: str, what: str, block: bytes, allowed: Answer) -> Case:
    """A request with something before its fields."""
    return Case(f"RFC 7541 {section}", what, [h2.headers(1, block + SCOPE)], allowed)


def told(stream: int, name: str, value: str) -> Told:
    return Told(stream, headers=[(name, value)])


KINDS = {
    "with indexing": (h2.INDEXED, 6),
    "without indexing": (h2.WITHOUT_INDEXING, 4),
    "never indexed": (h2.NEVER_INDEXED, 4),
}

REPRESENTATIONS = [
    case
    for what, (kind, bits) in KINDS.items()
    for case in [
        sends("6.2", f"{what}, indexed name", h2.literal(USER_AGENT, "me", kind), allowed=told(1, "user-agent", "me")),
        sends("6.2", f"{what}, indexed name, Huffman", h2.integer(USER_AGENT, bits, kind) + coded("me"),
              allowed=told(1, "user-agent", "me")),
        sends("6.2", f"{what}, new name", h2.literal("x-test", "me", kind), allowed=told(1, "x-test", "me")),
        sends("6.2", f"{what}, new name, Huffman", bytes([kind]) + coded("x-test") + coded("me"),
              allowed=told(1, "x-test", "me")),
    ]
]  # fmt: skip

KEPT = h2.literal("x-test", "kept", h2.INDEXED)
LARGE = "v" * 4000
ENTRY = 32 + len("x-test") + len("kept")
SMALLEST = 2**5 - 1  # the smallest integer of a size update that takes a second octet

TABLES = [
    sends("6.1", "a field of the static table", h2.indexed(ACCEPT_ENCODING),
          allowed=told(1, "accept-encoding", "gzip, deflate")),
    sends("6.1", "the last field of the static table", h2.indexed(61), allowed=told(1, "www-authenticate", "")),
    sends("6.1", "a field of the dynamic table", KEPT, h2.indexed(FIRST), allowed=told(3, "x-test", "kept")),
    sends("6.1", "a field of the dynamic table in its own block", KEPT + h2.indexed(FIRST),
          allowed=Told(1, headers=[("x-test", "kept"), ("x-test", "kept")])),
    sends("6.2.1", "a name of the dynamic table", KEPT, h2.literal(FIRST, "new", h2.INDEXED), h2.indexed(FIRST),
          allowed=told(5, "x-test", "new")),
    sends("2.3.3", "the older of two fields", KEPT + h2.literal("x", "y", h2.INDEXED), h2.indexed(FIRST + 1),
          allowed=told(3, "x-test", "kept")),
    sends("2.3.2", "two fields that are the same", KEPT + KEPT, h2.indexed(FIRST) + h2.indexed(FIRST + 1),
          allowed=Told(3, headers=[("x-test", "kept"), ("x-test", "kept")])),
    sends("6.1", "index 0", h2.indexed(0), allowed=COMPRESSION),
    sends("2.3.3", "an index beyond the tables", h2.indexed(FIRST), allowed=COMPRESSION),
    sends("2.3.3", "an index beyond a table with one field", KEPT, h2.indexed(FIRST + 1), allowed=COMPRESSION),
    sends("2.3.3", "a large index", h2.indexed(100_000), allowed=COMPRESSION),
    sends("2.3.3", "a name beyond the tables", h2.literal(FIRST, "x"), allowed=COMPRESSION),
    sends("2.3.3", "a name beyond the tables, with indexing", h2.literal(FIRST, "x", h2.INDEXED), allowed=COMPRESSION),
    sends("6.2.2", "a field without indexing, which is in no table", h2.literal("x", "y"), h2.indexed(FIRST),
          allowed=COMPRESSION),
    sends("6.2.3", "a field never indexed, which is in no table", h2.literal("x", "y", h2.NEVER_INDEXED),
          h2.indexed(FIRST), allowed=COMPRESSION),
    sends("4.4", "a field larger than the table, which empties it",
          KEPT + h2.literal("x", LARGE + "v" * 100, h2.INDEXED), h2.indexed(FIRST), allowed=COMPRESSION),
    sends("4.4", "a field that drives out the oldest", KEPT + h2.literal("x", "v" * (4096 - 33), h2.INDEXED),
          h2.indexed(FIRST + 1), allowed=COMPRESSION),
    sends("4.4", "a field that fills what is left", KEPT + h2.literal("x", "v" * (4096 - ENTRY - 33), h2.INDEXED),
          h2.indexed(FIRST + 1), allowed=told(3, "x-test", "kept")),
    sends("4.4", "a field an octet larger than what is left",
          KEPT + h2.literal("x", "v" * (4096 - ENTRY - 32), h2.INDEXED), h2.indexed(FIRST + 1), allowed=COMPRESSION),
    sends("4.4", "a name of the very field that it drives out",
          h2.literal("x-name", LARGE, h2.INDEXED), h2.literal(FIRST, LARGE + "!", h2.INDEXED), h2.indexed(FIRST),
          allowed=told(5, "x-name", LARGE + "!")),
]  # fmt: skip

SIZES = [
    begins("6.3", "table size 0", h2.table_size(0), allowed=Response(1)),
    begins("6.3", "the largest table size", h2.table_size(4096), allowed=Response(1)),
    Case("RFC 7541 4.2", "table size 0, then the largest",
         [h2.headers(1, h2.table_size(0) + h2.table_size(4096) + SCOPE + KEPT),
          h2.headers(3, SCOPE + h2.indexed(FIRST))], told(3, "x-test", "kept")),
    begins("6.3", "too large a table size", h2.table_size(4097), allowed=COMPRESSION),
    begins("6.3", "much too large a table size", h2.table_size(2**31), allowed=COMPRESSION),
    sends("4.2", "a table size at the end of a block", h2.table_size(1), allowed=COMPRESSION),
    sends("4.2", "a table size between fields", h2.table_size(SMALLEST) + h2.literal("x", "y"), allowed=COMPRESSION),
    Case("RFC 7541 4.3", "a field after the table was emptied",
         [h2.headers(1, SCOPE + KEPT), h2.headers(3, h2.table_size(0) + SCOPE + h2.indexed(FIRST))], COMPRESSION),
    Case("RFC 7541 4.3", "a table size for which the field is an octet too large",
         [h2.headers(1, SCOPE + KEPT), h2.headers(3, h2.table_size(ENTRY - 1) + SCOPE + h2.indexed(FIRST))],
         COMPRESSION),
    Case("RFC 7541 4.3", "a table size of the field that is in it",
         [h2.headers(1, SCOPE + KEPT), h2.headers(3, h2.table_size(ENTRY) + SCOPE + h2.indexed(FIRST))],
         told(3, "x-test", "kept")),
]  # fmt: skip

EOS = b"\xff\xff\xff\xff"  # its thirty bits, and padding

PRIMITIVES = [
    sends("5.1", "an integer with needless zeros", b"\x0f\xab\x80\x80\x00" + h2.string("me"),
          allowed=told(1, "user-agent", "me")),
    sends("5.1", "an integer that never ends", b"\xff" + b"\xff" * 100, allowed=COMPRESSION),
    sends("5.1", "an integer of a hundred octets", b"\xff" + b"\x80" * 100 + b"\x01", allowed=COMPRESSION),
    sends("5.1", "an integer that the block cuts", b"\xff\x80", allowed=COMPRESSION),
    sends("5.1", "a string length of 2^63", b"\x00\x01x\x7f" + b"\xff" * 8 + b"\x7f", allowed=COMPRESSION),
    sends("5.2", "a string that the block cuts", b"\x00\x01x\x0aabc", allowed=COMPRESSION),
    sends("5.2", "a name that the block cuts", b"\x00\x0aabc", allowed=COMPRESSION),
    sends("5.2", "a name without a value", b"\x00" + h2.string("x"), allowed=COMPRESSION),
    sends("5.2", "the representation alone", b"\x00", allowed=COMPRESSION),
    sends("5.2", "a value of every visible octet, Huffman",
          b"\x00" + coded("x") + coded("".join(map(chr, [*range(0x21, 0x7F), *range(0x80, 0x100)]))),
          allowed=told(1, "x", "".join(map(chr, [*range(0x21, 0x7F), *range(0x80, 0x100)])))),
    sends("5.2", "padding of more than seven bits", b"\x00" + h2.string("x") + h2.string(b"\x1c\xff\xff", huffman=True),
          allowed=COMPRESSION),
    sends("5.2", "padding of a whole octet",
          b"\x00" + h2.string("x") + h2.string(huffman.encode(b"aaaaaaaa") + b"\xff", huffman=True),
          allowed=COMPRESSION),
    sends("5.2", "padding of zeros", b"\x00" + h2.string("x") + h2.string(b"\x18", huffman=True), allowed=COMPRESSION),
    sends("5.2", "a string with EOS", b"\x00" + h2.string("x") + h2.string(EOS, huffman=True), allowed=COMPRESSION),
    sends("5.2", "a string with EOS within", b"\x00" + h2.string("x") + h2.string(b"\x1f" + EOS, huffman=True),
          allowed=COMPRESSION),
]  # fmt: skip

BLOCKS = [
    Case("4.3", "a field block that is not one", [h2.headers(1, b"\xff" * 9)], COMPRESSION),
    Case("4.3", "a field block that ends too early", [h2.headers(1, SCOPE + b"\x40\x0axy")], COMPRESSION),
    Case("4.3", "a wrong field block in CONTINUATION",
         [h2.headers(1, SCOPE, h2.END_STREAM), h2.continuation(1, h2.indexed(0))], COMPRESSION),
    Case("4.3", "wrong trailers", [h2.post(1), h2.headers(1, h2.indexed(0))], COMPRESSION),
    # Whatever becomes of a request, its field block changes the table (§4.3, §5.1).
    Case("4.3", "a field that was kept from a malformed request",
         [h2.headers(1, KEPT), h2.headers(3, SCOPE + h2.indexed(FIRST))], told(3, "x-test", "kept")),
    Case("4.3", "a field that was kept from trailers",
         [h2.post(1), h2.headers(1, KEPT), h2.headers(3, SCOPE + h2.indexed(FIRST))], told(3, "x-test", "kept")),
    Case("4.3", "a field that was kept from a request that was reset",
         [h2.headers(1, h2.POST + KEPT, h2.END_HEADERS), h2.rst_stream(1), h2.headers(3, SCOPE + h2.indexed(FIRST))],
         told(3, "x-test", "kept")),
    Case("5.1", "a field that was kept from trailers after the server has reset the stream",
         [h2.post(1, ("content-length", "1")), h2.data(1, b"long", 0), h2.headers(1, KEPT),
          h2.headers(3, SCOPE + h2.indexed(FIRST))], told(3, "x-test", "kept")),
]  # fmt: skip


@parametrize(REPRESENTATIONS + TABLES + SIZES + PRIMITIVES + BLOCKS)
def test_server_reads_field_block_as_specified(connect: Connect, case: Case) -> None:
    play(case, connect)


@pytest.mark.parametrize("size", [0, 1, 100, 4096, 2**32 - 1])
def test_server_keeps_to_table_size_of_client(connect: Connect, size: int) -> None:
    """The client's decoder raises an error when a block uses more, or does not begin with the change (§4.2)."""
    with connect() as client:
        client.handshake(h2.settings((h2.HEADER_TABLE_SIZE, size)))
        client.table_size = size
        for stream in (1, 3, 5):
            client.send(h2.get(stream))
            assert client.response(stream).status == 200


def test_server_follows_client_that_makes_its_table_smaller(connect: Connect) -> None:
    with connect() as client:
        client.handshake()
        client.send(h2.get(1))
        client.response(1)
        client.send(h2.settings((h2.HEADER_TABLE_SIZE, 0), (h2.HEADER_TABLE_SIZE, 4096)))
        client.read_until(lambda: client.acknowledged == 2, "the acknowledgement")
        client.send(h2.get(3))
        assert client.response(3).status == 200
