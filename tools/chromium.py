"""Chromium without a window, driven by the DevTools protocol over a pair of pipes (``--remote-debugging-pipe``).

    with Chromium() as browser:
        page = browser.open(Path("out.html").as_uri(), size=(1280, 800))
        page.wait("document.body.dataset.ready === 'yes'")
        page.key("ArrowRight")
        Path("out.png").write_bytes(page.picture())

For tests and for the pictures in docs/. Messages are JSON objects that end in a zero byte, on file descriptors 3 (to
the browser) and 4 (Chromium, devtools_agent_host and ``content/browser/devtools/devtools_pipe_handler.cc``); the
methods' names and fields are the protocol's (https://chromedevtools.github.io/devtools-protocol/).
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from types import TracebackType
from typing import Any

__all__ = ["BrowserError", "Chromium", "Page", "executable"]

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_TIMEOUT = 60.0
_KEYS = {"ArrowRight": 39, "ArrowLeft": 37, "ArrowUp": 38, "ArrowDown": 40, "Home": 36, "End": 35, "Enter": 13,
         "Escape": 27}


class BrowserError(RuntimeError):
    """The browser did not start, did not answer, or the page threw."""


def executable() -> str | None:
    """The program, or None where there is none."""
    return next((found for name in _NAMES if (found := shutil.which(name)) is not None), None)


class Chromium:
    """A browser process. :raises BrowserError: if there is none, or it does not come up."""

    def __init__(self, timeout: float = _TIMEOUT) -> None:
        program = executable()
        if program is None:
            raise BrowserError(f"no browser: none of {', '.join(_NAMES)} is on PATH; on Debian: apt install chromium")
        self.timeout = timeout
        self._profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        command = [program, "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={self._profile.name}",
                   "--no-first-run", "--no-default-browser-check", "--disable-gpu", "--disable-dev-shm-usage",
                   "--disable-extensions", "--disable-background-networking", "--hide-scrollbars", "--mute-audio",
                   "--force-device-scale-factor=1"]
        if os.geteuid() == 0:
            command.append("--no-sandbox")      # the sandbox refuses to run as root
        # a small Python between puts the pipes where Chromium looks for them
        between = ("import os,sys\nr,w=int(sys.argv[1]),int(sys.argv[2])\nr,w=os.dup(r),os.dup(w)\n"
                   "os.dup2(r,3);os.dup2(w,4)\nos.set_inheritable(3,True);os.set_inheritable(4,True)\n"
                   "os.execv(sys.argv[3],sys.argv[3:])")
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", between, str(to_browser), str(from_browser), *command],
            pass_fds=(to_browser, from_browser), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        os.close(to_browser)
        os.close(from_browser)
        self._number = 0
        self._pending = b""
        self.events: list[dict[str, Any]] = []
        try:
            self.version = self.call("Browser.getVersion")["product"]
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for end in (self._in, self._out):
            if end >= 0:
                os.close(end)
        self._in = self._out = -1
        self._profile.cleanup()

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Do something and wait for what it gives. :raises BrowserError:"""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        try:
            while data:
                data = data[os.write(self._out, data):]
        except OSError as error:
            raise BrowserError(f"{method}: the browser is gone ({error})") from error
        end = time.monotonic() + self.timeout
        while True:
            answer = self._receive(end, method)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error'].get('message')}")
                return answer["result"]     # type: ignore[no-any-return]
            if "method" in answer:
                self.events.append(answer)

    def _receive(self, end: float, what: str) -> dict[str, Any]:
        while b"\0" not in self._pending:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._in], [], [], left)[0]:
                raise BrowserError(f"{what}: no answer within {self.timeout:.0f} s")
            more = os.read(self._in, 1 << 20)
            if not more:
                raise BrowserError(f"{what}: the browser ended with status {self._process.poll()}")
            self._pending += more
        message, _, self._pending = self._pending.partition(b"\0")
        return json.loads(message)      # type: ignore[no-any-return]

    def open(self, url: str, size: tuple[int, int] = (1280, 800), dark: bool = False) -> Page:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return Page(self, session, url, size, dark)


class Page:
    """A page of :class:`Chromium`."""

    def __init__(self, browser: Chromium, session: str, url: str, size: tuple[int, int], dark: bool) -> None:
        self.browser, self.session = browser, session
        self.call("Page.enable")
        self.call("Runtime.enable")
        self.resize(*size)
        self.dark(dark)
        self.call("Page.navigate", url=url)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self.browser.call(method, self.session, **parameters)

    def resize(self, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def dark(self, on: bool) -> None:
        """What the system prefers."""
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": "dark" if on else "light"}])

    def run(self, script: str) -> Any:
        """The value of an expression, as JSON has it. :raises BrowserError: what the page threw."""
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if (thrown := done.get("exceptionDetails")) is not None:
            text = thrown.get("exception", {}).get("description") or thrown.get("text")
            raise BrowserError(f"{script[:80]}: {text}")
        return done["result"].get("value")

    def wait(self, condition: str) -> None:
        """Until an expression is true. :raises BrowserError: with what threw meanwhile, if something did."""
        end = time.monotonic() + self.browser.timeout
        while not self.run(f"(() => {{ try {{ return !!({condition}); }} catch {{ return false; }} }})()"):
            if time.monotonic() > end:
                raise BrowserError(f"{condition} did not come true; errors: {self.errors()}")
            time.sleep(0.02)

    def errors(self) -> list[str]:
        """What the page's scripts threw and nobody caught, so far."""
        return [e["params"]["exceptionDetails"].get("exception", {}).get("description", "")
                for e in self.browser.events
                if e["method"] == "Runtime.exceptionThrown" and e.get("sessionId") == self.session]

    def key(self, name: str, *, shift: bool = False) -> None:
        """Press and release: a character, or a name such as ArrowRight."""
        common: dict[str, Any] = {"key": name, "modifiers": 8 if shift else 0,
                                  "windowsVirtualKeyCode": _KEYS.get(name, ord(name[0].upper()))}
        text = "\r" if name == "Enter" else name if len(name) == 1 else None
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def write(self, text: str) -> None:
        """Type into what has the focus."""
        self.call("Input.insertText", text=text)

    def click(self, x: float, y: float, count: int = 1) -> None:
        for turn in range(1, count + 1):
            for kind in ("mousePressed", "mouseReleased"):
                self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=turn)

    def drag(self, x: float, y: float, dx: float, dy: float) -> None:
        self.call("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, button="left", clickCount=1)
        for turn in range(1, 5):
            self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + dx * turn / 4, y=y + dy * turn / 4,
                      button="left", buttons=1)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", x=x + dx, y=y + dy, button="left", clickCount=1)

    def wheel(self, x: float, y: float, dy: float) -> None:
        self.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=dy)

    def picture(self) -> bytes:
        """A PNG of what is seen, once two frames were drawn."""
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
