"""An S3 on loopback (`moto`), and a proxy before it that fails as object stores do: errors, throttling, cut connections."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.object_http import BUCKET as BUCKET
from tests.support.object_http import Answer, ObjectHandler, served
from tests.support.object_http import Fault as Fault
from tests.support.object_http import ObjectServer as ObjectServer

SECRET = "moto-secret-key"
_ENVIRONMENT = {
    "AWS_ENDPOINT_URL": "http://127.0.0.1:{port}",
    "AWS_ACCESS_KEY_ID": "moto-access-key",
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_REGION": "us-east-1",
}
_SLOW_DOWN = (
    b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>'
)


@contextmanager
def served_objects() -> Iterator[ObjectServer]:
    """Serve until the end of the block, with the environment of this process set to it."""
    pytest.importorskip("moto.server", reason="moto is not installed: pip install 'moto[s3]'")
    from botocore.session import get_session
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    _, port = moto.get_host_and_port()
    try:
        with served(_Proxy, "s3", SECRET, _ENVIRONMENT, target=port) as server:
            client = get_session().create_client("s3", "us-east-1", endpoint_url=f"http://127.0.0.1:{port}")
            client.create_bucket(Bucket=BUCKET)
            yield server
    finally:
        moto.stop()


class _Proxy(ObjectHandler):
    def failure(self, status: int) -> Answer:
        return Answer(status, _SLOW_DOWN, {"Content-Type": "application/xml"})

    def answer(self, body: bytes) -> Answer:
        path = f"{self.path}&max-keys={self.objects.page}" if "list-type=2" in self.path else self.path
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.target, timeout=60)
        upstream.request(self.command, path, body, dict(self.headers))
        response = upstream.getresponse()
        content = response.read()
        headers = {
            name: value for name, value in response.getheaders() if name not in ("Transfer-Encoding", "Connection")
        }
        upstream.close()
        return Answer(response.status, content, headers)
