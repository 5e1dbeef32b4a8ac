"""A headless Chromium that tests drive through its DevTools pipe: no driver, no port, no network.

With `--remote-debugging-pipe` Chromium reads commands from file descriptor 3 and writes answers to 4, each a JSON document that
ends with a zero byte.
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
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)
# Chromium requires descriptors 3 and 4; dash cannot redirect descriptors above 9.
_EXEC = """
import fcntl, os, sys
commands, answers = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 64) for number in sys.argv[1:3])
os.dup2(commands, 3), os.dup2(answers, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str | None:
    """The browser's path; None if none is installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """A browser with one page; closing the context manager ends its process and deletes its profile."""

    def __init__(self, executable: str) -> None:
        self.messages: list[str] = []  # console warnings and errors, exceptions, failed requests
        self.requests: list[str] = []
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()
        arguments = [executable, *FLAGS, f"--user-data-dir={self._profile.name}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _EXEC, str(commands), str(answers), *arguments],
            pass_fds=(commands, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self._buffer = b""
        self._next = 0
        self._session: str | None = None
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *raised: object) -> None:
        try:
            self._session = None
            self._call("Browser.close")
            self._process.wait(10)
        except (OSError, TimeoutError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait(10)
        os.close(self._write)
        os.close(self._read)
        self._profile.cleanup()

    def open(self, page: Path, *, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Show a local file in a window of that size (CSS pixels), and wait until its charts are drawn."""
        self._call("Page.navigate", url="about:blank")
        self.wait_for("location.href === 'about:blank'")  # a page before may still ask a server that is gone
        self.messages.clear()
        self.requests.clear()
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.prefer(dark=dark)
        self._call("Page.navigate", url=page.resolve().as_uri())
        self.wait_for("document.readyState === 'complete'")
        self.wait_for("!document.querySelector('.chart') || document.documentElement.dataset.drawn > 0")

    def visit(self, url: str, *, timeout_s: float = 240, width: int = 2600, height: int = 900) -> None:
        """Show a page of a server that may still be starting; a page that is shown already is loaded again.

        Raises:
            TimeoutError: the server did not answer in time.
        """
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self._call("Page.navigate", url="about:blank")
        deadline = time.monotonic() + timeout_s
        while "errorText" in self._call("Page.navigate", url=url):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{url} does not answer")
            time.sleep(0.5)

    def wait_for_text(self, text: str, timeout_s: float = 240) -> None:
        """Wait until the page shows a text.

        Raises:
            TimeoutError: it did not in time.
        """
        self.wait_for(f"(document.body?.innerText ?? '').includes({json.dumps(text)})", timeout_s)

    def prefer(self, *, dark: bool) -> None:
        """Set the colour scheme that the reader's system prefers."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", media="", features=[scheme])

    def show_as_paper(self) -> None:
        """Lay the page out with its style for print; `open` goes back to the screen."""
        self._call("Emulation.setEmulatedMedia", media="print")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited.

        Raises:
            RuntimeError: the expression threw.
        """
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if (details := answer.get("exceptionDetails")) is not None:
            raise RuntimeError(str(details.get("exception", details)))
        return answer["result"].get("value")

    def wait_for(self, expression: str, timeout_s: float = 240) -> None:
        """Wait until a JavaScript expression is true.

        Raises:
            TimeoutError: it was not in time.
        """
        deadline = time.monotonic() + timeout_s
        while not self.evaluate(expression):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not true within {timeout_s:g} s: {expression}; console messages: {self.messages}")
            time.sleep(0.05)

    def choose(self, control: str, value: str) -> None:
        """Choose a selector's value as a reader would, and let the charts settle."""
        self.evaluate(
            f"(async () => {{ const c = document.getElementById('{control}'); c.value = {json.dumps(value)}; "
            "c.dispatchEvent(new Event('change')); await new Promise((r) => setTimeout(r, 300)); })()"
        )

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press and release a key, such as "Tab" or "ArrowLeft"."""
        code = {"Tab": 9, "ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "End": 35}[key]
        for kind in ("rawKeyDown", "keyUp"):
            self._call(
                "Input.dispatchKeyEvent",
                **{"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 * shift},
            )

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press the mouse at one point of the window (CSS pixels), move it to another and release it."""
        for kind, (x, y) in (("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end)):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def pdf(self) -> bytes:
        """The page as the print dialog saves it: the paper size of its style sheet, backgrounds left out."""
        printed = self._call("Page.printToPDF", preferCSSPageSize=True)
        return base64.b64decode(printed["data"])

    def type_text(self, text: str) -> None:
        """Type into the element that has the focus."""
        self._call("Input.insertText", text=text)

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Write the whole page, or what is in view, as PNG."""
        picture = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **self._clip(whole))
        path.write_bytes(base64.b64decode(picture["data"]))

    def _clip(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        size = self._call("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._next += 1
        call: dict[str, Any] = {"id": self._next, "method": method, "params": parameters}
        if self._session:
            call["sessionId"] = self._session
        os.write(self._write, json.dumps(call).encode() + b"\0")
        while True:
            answer = self._message(timeout_s=240)
            if answer.get("id") == self._next:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _message(self, timeout_s: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], timeout_s)
            chunk = os.read(self._read, 1 << 20) if ready else b""
            if not chunk:
                raise TimeoutError("the browser does not answer")
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        parsed: dict[str, Any] = json.loads(message)
        return parsed

    def _note(self, event: dict[str, Any]) -> None:
        method, details = event.get("method"), event.get("params", {})
        if method == "Runtime.consoleAPICalled" and details["type"] in ("error", "warning", "assert"):
            self.messages.append(" ".join(str(argument.get("value", argument)) for argument in details["args"]))
        elif method == "Runtime.exceptionThrown":
            self.messages.append(str(details["exceptionDetails"]))
        elif method == "Log.entryAdded" and details["entry"]["level"] in ("error", "warning"):
            self.messages.append(details["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(details["request"]["url"])
