"""Serves a page that is made again when its files change, to browsers of this machine alone.

The server has one page and reads no path from a request, so that no other file can be asked for.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from highway_jax.errors import UserError, brief, in_one_line

HOST = "127.0.0.1"
_REST = 4.0
"""Times as long as a page takes is waited before the next, so that training keeps the processor."""


class LivePage:
    """A page that follows files.

    A page that cannot be made, as where a run has not written its config yet, keeps the one before.
    """

    def __init__(self, workdirs: Sequence[Path], make: Callable[[str, str], str]):
        """Initializes the page without making it.

        Args:
            workdirs: Directories of runs.
            make: Returns the page. Takes its version, and why the newest could not be made or "";
                raises a `UserError` if it cannot be made.
        """
        self._workdirs, self._make = workdirs, make
        self._lock = threading.Lock()
        self._seen: object = None
        self._ready = 0.0
        self._page, self._version, self._trouble = "", "", ""

    def current(self) -> tuple[str, str, str]:
        """Returns the page, its version, and why it is not the newest, or ""."""
        with self._lock:
            seen = _state(self._workdirs)
            began = time.monotonic()
            if seen != self._seen and began >= self._ready:
                self._seen, version = seen, str(time.time_ns())
                try:
                    self._page, self._trouble = self._make(version, ""), ""
                    self._version = version
                except UserError as error:
                    self._trouble = in_one_line(error)
                except Exception as error:  # Without this, browsers would get no answer.
                    self._trouble = f"error: {type(error).__name__}: {brief(str(error), 300)}"
                self._ready = time.monotonic() + _REST * (time.monotonic() - began)
            if not self._page:
                return self._make("", self._trouble), "", self._trouble
            return self._page, self._version, self._trouble


def _state(workdirs: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Returns what changes when a record of the runs does: name, time and size of each file."""
    found = []
    for directory in workdirs:
        for path in sorted((*directory.glob("*.*"), *directory.glob("analysis/*/*.npz"))):
            try:
                found.append((str(path), path.stat().st_mtime_ns, path.stat().st_size))
            except OSError:  # A temporary file that is gone.
                continue
    return found


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = allow_reuse_port = False
    page: LivePage

    def handle_error(self, request, client_address):  # A browser left; nothing to report.
        pass


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "highway-jax", ""

    def do_GET(self):
        # A page of another site whose name was made to mean this machine must not read this one.
        # The port may be another one that is forwarded.
        if self.headers.get("Host", "").partition(":")[0] not in (HOST, "localhost"):
            return self._answer(403, "allowed: requests to localhost")
        if self.path != "/":
            return self._answer(404, "allowed: /")
        page, version, trouble = self.server.page.current()
        if self.headers.get("If-None-Match", "none") != version:
            return self._answer(200, page, "text/html")
        return self._answer(503, trouble) if trouble else self._answer(304, "")

    def _answer(self, status: int, text: str, kind: str = "text/plain") -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if status != 304:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format, *args):
        pass


def serve(page: LivePage, port: int, say: Callable[[str], None]) -> None:
    """Serves a page until Ctrl-C.

    Args:
        page: The page.
        port: The port on this machine, from 1 to 65535; 0 for any that is free.
        say: Reports a line to the user.

    Raises:
        UserError: If the port cannot be used.
    """
    allowed = "0, for any that is free, or a port from 1 to 65535 that nothing else uses"
    try:
        server = _Server((HOST, port), _Handler)
    except (OSError, OverflowError) as error:
        raise UserError(f"--port is {port}; allowed: {allowed} ({error})") from error
    server.page = page
    with server:
        say(f"Open http://localhost:{server.server_address[1]}/ in a browser; Ctrl-C ends it.")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("stopped")
