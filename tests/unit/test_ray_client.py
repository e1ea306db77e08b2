"""Addresses of Ray clusters, as they are typed."""

import http.server
import threading

import pytest

from getiaction_launch.backends.ray.client import connect
from getiaction_launch.errors import UnreachableError, UsageError
from getiaction_launch.system.ports import reserve_port


class _Dashboard(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"ray_version": "2.50.0"}')

    def log_message(self, *_):
        pass


def test_dashboard_without_http_is_refused_at_once():
    """Ray would wait a minute for another service to answer there."""
    with http.server.HTTPServer(("127.0.0.1", 0), _Dashboard) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_port}"
        with pytest.raises(UsageError) as refused:
            connect(address)
        server.shutdown()
    assert refused.value.fix == f"--address http://{address}"


@pytest.mark.parametrize("scheme", ["", "http://", "ray://"])
def test_port_at_which_nobody_listens_is_known_at_once(scheme):
    """The fix has the host that was named."""
    port, claim = reserve_port()
    with claim, pytest.raises(UnreachableError, match=r"does not answer.*refused") as error:
        connect(f"{scheme}127.0.0.1:{port}")
    assert "--address http://127.0.0.1:8265" in error.value.fix
