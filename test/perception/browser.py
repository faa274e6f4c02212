"""Controls a headless Chromium over a pipe with the DevTools protocol: opens, measures and captures pages."""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from dataclasses import dataclass, field

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "headless_shell", "chrome")
SECONDS = 60


def find_browser():
    """Path of a Chromium, from the variable CHROMIUM or on PATH; None without one."""
    return os.environ.get("CHROMIUM") or next((found for name in NAMES if (found := shutil.which(name))), None)


@dataclass
class Visit:
    """The events of a page: requested addresses, and errors and warnings."""

    requests: list = field(default_factory=list)
    complaints: list = field(default_factory=list)


class Browser:
    """A browser with one page; a context manager."""

    def __init__(self, program, profile):
        # The browser reads commands from descriptor 3 and answers on 4; a zero byte ends each message.
        command_read, self._commands = os.pipe()
        self._answers, answer_write = os.pipe()
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"]
        words = [program, *options, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
        script = f'exec "$0" "$@" 3<&{command_read} 4>&{answer_write}'
        self._process = subprocess.Popen(
            ["/bin/bash", "-c", script, *words],
            pass_fds=(command_read, answer_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(command_read)
        os.close(answer_write)
        self._rest, self._number, self._session = b"", 0, None
        self.visit = Visit()

    def __enter__(self):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError, AssertionError):
            self._session = None
            self.call("Browser.close")
        os.close(self._commands)
        os.close(self._answers)
        self._process.wait(timeout=SECONDS)

    def open(self, path, *, width, height=900, scheme="light", media="screen"):
        """Load a file at a width in CSS pixels, for a colour scheme and a medium; returns the ``Visit``."""
        self.visit = Visit()
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)
        self.call("Page.navigate", url=path.as_uri())
        self._until(lambda message: message.get("method") == "Page.loadEventFired")
        return self.visit

    def evaluate(self, expression):
        """The value of a JavaScript expression; promises are awaited."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key, code):
        """Press and release a key, by its name and code, such as " " and "Space"."""
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if kind == "keyDown" and len(key) == 1 else {}
            virtual = {"Space": 32, "Tab": 9}[code]
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=code, windowsVirtualKeyCode=virtual, **text)

    def photograph(self, path, *, selector=None):
        """Write a screenshot of the whole page, or of an element, as PNG."""
        box = self.evaluate(
            "(e => { const r = e.getBoundingClientRect(); return [r.x + scrollX, r.y + scrollY, r.width, r.height] })"
            f"(document.querySelector({json.dumps(selector or 'html')}))"
        )
        clip = dict(zip(("x", "y", "width", "height"), box, strict=True), scale=1)
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(answer["data"]))

    def call(self, method, **arguments):
        """Call a method of the protocol; returns its result."""
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": arguments}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        answer = self._until(lambda message: message.get("id") == number)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def _until(self, wanted):
        end = time.monotonic() + SECONDS
        while True:
            while b"\0" not in self._rest:
                ready, _, _ = select.select([self._answers], [], [], max(0, end - time.monotonic()))
                data = os.read(self._answers, 1 << 16) if ready else b""
                assert data, "the browser ended" if ready else f"the browser did not answer within {SECONDS} s"
                self._rest += data
            raw, _, self._rest = self._rest.partition(b"\0")
            message = json.loads(raw)
            self._note(message.get("method"), message.get("params", {}))
            if wanted(message):
                return message

    def _note(self, method, event):
        if method == "Network.requestWillBeSent":
            self.visit.requests.append(event["request"]["url"])
        elif method == "Log.entryAdded":
            self.visit.complaints.append(event["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.visit.complaints.append(event["exceptionDetails"]["text"])
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "warning", "assert"):
            self.visit.complaints.append(str(event["args"]))
