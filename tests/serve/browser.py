"""Headless Chromium driven through its DevTools protocol over a pair of pipes: no port, no driver, no package."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 20.0  # seconds until a page that does nothing fails a test
KEYS = {"Enter": 13, "Tab": 9, "Escape": 27, "ArrowUp": 38, "ArrowDown": 40, " ": 32}
OPTIONS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",  # Chromium refuses root otherwise; it only ever sees the pages of the tests
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
)


class Browser:
    """A running Chromium; every tab has cookies and storage of its own."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._to, self._from = process.stdin, process.stdout.fileno()
        self._rest, self._last = b"", 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._tabs: dict[str, Tab] = {}

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """The result of a command."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        self._to.write(json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        self._to.flush()
        deadline = time.monotonic() + PATIENCE
        while self._last not in self._answers:
            self._read(deadline - time.monotonic())
        answer = self._answers.pop(self._last)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return dict(answer["result"])

    def _read(self, patience: float) -> None:
        ready, _, _ = select.select([self._from], [], [], max(patience, 0))
        data = os.read(self._from, 1 << 20) if ready else b""
        assert data, "Chromium ended" if ready else "Chromium does not answer"
        *messages, self._rest = (self._rest + data).split(b"\0")
        for message in map(json.loads, messages):
            if "id" in message:
                self._answers[message["id"]] = message
            elif message.get("sessionId") in self._tabs:
                self._tabs[message["sessionId"]].note(message["method"], message["params"])

    @contextlib.contextmanager
    def tab(self) -> Iterator[Tab]:
        """A new tab, closed at the end of the block."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = self._tabs[session] = Tab(self, session)
        for domain in ("Page", "Runtime", "Network", "Log"):
            tab.call(f"{domain}.enable")
        try:
            yield tab
        finally:
            del self._tabs[session]
            self.call("Target.disposeBrowserContext", browserContextId=context)


class Tab:
    """One page.

    Attributes:
        requests: Addresses that it asked for.
        errors: What its console complains of: exceptions, violations of its policy, errors it logs, and answers of
            the service with an error status.
    """

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session
        self.requests: list[str] = []
        self.errors: list[str] = []

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **params)

    def note(self, method: str, params: dict[str, Any]) -> None:
        """Keep what an event says."""
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.errors.append(json.dumps(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"])

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def js(self, expression: str) -> Any:
        """The value of an expression."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, expression: str) -> Any:
        """The value of an expression once it is true, or true for an element; what throws is not true yet."""
        deadline = time.monotonic() + PATIENCE
        kept = f"const value = {expression}; return value instanceof Element || value"
        while not (value := self.js(f"(() => {{ try {{ {kept} }} catch {{ return null }} }})()")):
            assert time.monotonic() < deadline, (
                f"never true: {expression}\n{self.js('document.body.innerText')}"
            )
            time.sleep(0.02)
        return value

    def text(self, selector: str) -> str:
        """What a reader sees of an element."""
        return str(self.js(f"document.querySelector({selector!r}).innerText"))

    def texts(self, selector: str) -> list[str]:
        return list(self.js(f"[...document.querySelectorAll({selector!r})].map((node) => node.innerText)"))

    def press(self, *keys: str) -> None:
        for key in keys:
            about = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
            text = {"text": "\r"} if key == "Enter" else {}
            self.call("Input.dispatchKeyEvent", type="keyDown", **about, **text)
            self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def type(self, text: str) -> None:
        """Type into the field with the focus, over what is there."""
        self.js("document.activeElement.select()")
        self.call("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        """Click the middle of an element with the mouse."""
        find = f"document.querySelector({selector!r})"
        x, y = self.js(
            f"(() => {{ {find}.scrollIntoView({{block: 'center'}}); const box = {find}.getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2] })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def prefer(self, **features: str) -> None:
        """Media features such as ``color_scheme="dark"``."""
        named = [
            {"name": f"prefers-{name.replace('_', '-')}", "value": value} for name, value in features.items()
        ]
        self.call("Emulation.setEmulatedMedia", features=named)

    def screenshot(self) -> bytes:
        """A PNG file of what is on the screen."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])


@contextlib.contextmanager
def running(profile: Path) -> Iterator[Browser]:
    """A browser with a fresh profile, ended with the block."""
    assert CHROMIUM is not None
    # the protocol speaks on descriptors 3 and 4; the shell hands it the two pipes that it got as 0 and 1
    script = 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1'
    command = ["sh", "-c", script, "sh", CHROMIUM, *OPTIONS, f"--user-data-dir={profile}"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    browser = Browser(process)
    try:
        yield browser
    finally:
        with contextlib.suppress(AssertionError, BrokenPipeError):
            browser.call("Browser.close")
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
