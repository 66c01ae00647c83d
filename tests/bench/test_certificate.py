from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import certificate
from address import Address


def test_certificate_serves_a_tls_address(tmp_path: Path) -> None:
    made = certificate.write(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.chain, made.key)
    assert made.key.stat().st_mode & 0o077 == 0

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with context.wrap_socket(connection, server_side=True) as secure:
            secure.sendall(b"hello")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        address = Address(listener.getsockname()[1], uses_tls=True)
        assert address.url == f"https://127.0.0.1:{address.port}"
        with address.connect() as connection:
            assert connection.recv(5) == b"hello"
        thread.join(10)
