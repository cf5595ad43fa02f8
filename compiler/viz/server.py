"""A server for one page, on this machine's own address only."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

__all__ = ["PORT", "Server"]

PORT = 8765             # or VIZ_PORT; the next free one if it is taken
_TRIES = 50


class Server:
    """Serves what ``make_page`` gives at ``/``, anew each time, and what ``make_json`` gives at ``/recording.json``.

    Requests are answered one after the other, in a thread that does not keep the program alive.
    """

    def __init__(self, make_page: Callable[[], str], make_json: Callable[[], str], port: int | None = None) -> None:
        """:param port: 0 for any; by default ``VIZ_PORT``, else 8765 or one of the next.
        :raises OSError: if none is free. :raises ValueError: for a ``VIZ_PORT`` that is no port."""
        wanted = os.environ.get("VIZ_PORT", "")
        if port is None and wanted and not (wanted.isascii() and wanted.isdigit() and int(wanted) < 1 << 16):
            raise ValueError(f"VIZ_PORT={wanted}: give a port's number, 0 for any")
        first = port if port is not None else int(wanted) if wanted else PORT
        handler = _handler({"/": ("text/html; charset=utf-8", make_page),
                            "/recording.json": ("application/json", make_json)})
        for candidate in (first, *range(first + 1, first + _TRIES), 0) if first else (0,):
            try:
                self._http = HTTPServer(("127.0.0.1", candidate), handler)
                break
            except (OSError, OverflowError):
                if candidate == 0:
                    raise
        self.port = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self._thread = threading.Thread(target=self._http.serve_forever, name="viz", daemon=True)

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def wait(self) -> None:
        """Until Ctrl-C."""
        try:
            while self._thread.is_alive():
                self._thread.join(1)
        except KeyboardInterrupt:
            pass

    def close(self) -> None:
        """Answer no more; the port is free."""
        if self._thread.is_alive():
            self._http.shutdown()
            self._thread.join()
        self._http.server_close()


def _handler(pages: dict[str, tuple[str, Callable[[], str]]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host = self.headers.get("Host", "").rpartition(":")[0]
            if host not in ("127.0.0.1", "localhost"):      # a page of somebody else's that found its way here
                self.send_error(403)
                return
            if (found := pages.get(self.path.partition("?")[0])) is None:
                self.send_error(404)
                return
            try:
                body = found[1]().encode()
            except Exception as error:
                self.send_error(500, f"{type(error).__name__}")
                raise
            self.send_response(200)
            self.send_header("Content-Type", found[0])
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass        # the terminal is the program's
    return Handler
