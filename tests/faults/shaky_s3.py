"""A proxy before an S3 server that lets a share of requests fail as real stores do: 500, a connection that is reset, a slow answer."""

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import pytest

INTERNAL_ERROR = b"<?xml version='1.0'?><Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"
KINDS = ("500", "reset before", "reset amid", "slow")
"""reset before: the request never arrives. reset amid: it is done, and half of its answer comes. slow: an answer after SLOW_S."""
SLOW_S = 1.0


class ShakyProxy:
    """Forwards to ``endpoint`` on a port of its own; ``fired`` counts what it did to whom."""

    def __init__(self, endpoint: str, share: float, seed: int) -> None:
        self.fired: Counter[str] = Counter()
        self.num_requests = 0
        self.share = share
        self._random, self._lock = random.Random(seed), threading.Lock()
        target = urlsplit(endpoint).netloc
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing: a test prints its own story."""

            def forward(self) -> None:
                kind = proxy._draw()
                body = self.body()
                if kind == "reset before":
                    return self.reset()
                if kind == "500":
                    return self.answer(500, [("Content-Type", "application/xml")], INTERNAL_ERROR)
                if kind == "slow":
                    time.sleep(SLOW_S)
                upstream = http.client.HTTPConnection(target, timeout=60)
                sent = {
                    name: value
                    for name, value in self.headers.items()
                    if name.lower() not in ("transfer-encoding", "content-length", "expect")
                }
                upstream.request(self.command, self.path, body, sent | {"Content-Length": str(len(body))})
                reply = upstream.getresponse()
                data = reply.read()
                upstream.close()
                left_out = ("transfer-encoding", "connection", "content-length")
                headers = [(name, value) for name, value in reply.getheaders() if name.lower() not in left_out]
                # Of a HEAD the length is that of the object, without a body.
                length = int(reply.getheader("Content-Length") or len(data)) if self.command == "HEAD" else len(data)
                self.answer(reply.status, headers, data, length, cut=kind == "reset amid")

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward  # noqa: N815

            def body(self) -> bytes:
                if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                parts = []
                while length := int(self.rfile.readline().split(b";")[0], 16):
                    parts.append(self.rfile.read(length))
                    self.rfile.readline()
                while self.rfile.readline().strip():
                    """Trailers: checksums, which the server makes anew."""
                return b"".join(parts)

            def answer(
                self, status: int, headers: list[tuple[str, str]], data: bytes, length: int | None = None, cut: bool = False
            ) -> None:
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data) if length is None else length))
                self.end_headers()
                self.wfile.write(data[: len(data) // 2] if cut else data)
                self.wfile.flush()
                if cut:
                    self.reset()

            def reset(self) -> None:
                """RST instead of FIN: the client learns that the connection broke."""
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                self.connection.close()

            def finish(self) -> None:
                if self.connection.fileno() >= 0:
                    super().finish()

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Clients that hang up are the point."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def _draw(self) -> str:
        with self._lock:
            self.num_requests += 1
            kind = self._random.choice(KINDS) if self._random.random() < self.share else ""
            if kind:
                self.fired[kind] += 1
        return kind

    def __enter__(self) -> "ShakyProxy":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def shaky_bucket(share: float, seed: int) -> Iterator[tuple[str, ShakyProxy]]:
    """An empty bucket behind a proxy, named by the environment as a cluster's would be; processes begun inside inherit it."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    with ShakyProxy(f"http://{host}:{port}", share, seed) as proxy, pytest.MonkeyPatch.context() as patch:
        for name, value in {**keys, "AWS_ENDPOINT_URL": proxy.endpoint}.items():
            patch.setenv(name, value)
        boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="shaky")
        yield "s3://shaky", proxy
    server.stop()
