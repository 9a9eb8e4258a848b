"""A headless Chromium, driven over a pipe by the Chrome DevTools Protocol: for tests of pages, and screenshots."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find() -> str | None:
    """Returns the path of an installed Chromium."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser(contextlib.AbstractContextManager):
    """A browser with one page.

    Attributes:
      errors: messages of the console that are errors, and exceptions of scripts.
    """

    def __init__(self, *, width: int = 1280, height: int = 900):
        program = find()
        if program is None:
            raise FileNotFoundError(f"there is no Chromium: none of {', '.join(NAMES)} is installed")
        self.errors: list[str] = []
        self._home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        # The browser reads commands from its file 3 and writes answers to its file 4.
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        command = [
            program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--hide-scrollbars", "--force-device-scale-factor=1", f"--window-size={width},{height}",
            f"--user-data-dir={self._home.name}", "--remote-debugging-pipe", "about:blank",
        ]  # fmt: skip
        shell = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *command],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._pending, self._last, self._session = b"", 0, ""
        targets = self.send("Target.getTargets")["targetInfos"]
        page = next(target for target in targets if target["type"] == "page")
        found = self.send("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = found["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        os.close(self._out)
        self._home.cleanup()

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._pending:
            read = os.read(self._in, 1 << 16)
            if not read:
                raise ConnectionError("the browser has ended")
            self._pending += read
        text, self._pending = self._pending.split(b"\0", 1)
        return json.loads(text)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Calls a method of the protocol, and returns its result."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            self._note(answer)
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def _note(self, event: dict[str, Any]) -> None:
        about = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(about["exceptionDetails"].get("exception", about["exceptionDetails"])))
        if event.get("method") == "Runtime.consoleAPICalled" and about["type"] in ("error", "assert"):
            self.errors.append(str(about["args"]))
        if event.get("method") == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.errors.append(about["entry"]["text"])

    def evaluate(self, script: str) -> Any:
        """Returns the value of a JavaScript expression; a promise is awaited."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def wait_for(self, script: str, seconds: float = 20) -> None:
        """Waits until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(f"Boolean({script})"):
            if time.monotonic() > end:
                raise TimeoutError(f"{script} is not true after {seconds} s")
            time.sleep(0.05)

    def open(self, path: Path | str) -> None:
        """Opens a file from disk."""
        self.send("Page.navigate", url=Path(path).resolve().as_uri())
        self.wait_for("document.readyState === 'complete'")

    def click(self, selector: str) -> None:
        """Clicks the middle of the first element with a CSS selector, as a mouse does."""
        place = f"document.querySelector({json.dumps(selector)})"
        at = self.evaluate(
            f"(() => {{ const e = {place}; e.scrollIntoView({{block: 'center'}}); const r = e.getClientRects()[0];"
            " return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], button="left", clickCount=1)

    def press(self, key: str) -> None:
        """Presses and releases a key, such as Tab, Enter or ArrowRight."""
        codes = {"Tab": 9, "Enter": 13, "ArrowLeft": 37, "ArrowRight": 39}
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.send(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key],
                **(text if kind == "keyDown" else {}),
            )  # fmt: skip

    def accessible(self) -> list[dict[str, Any]]:
        """Returns the nodes that a screen reader sees, with role and name."""
        nodes = self.send("Accessibility.getFullAXTree")["nodes"]
        return [
            {"role": node["role"]["value"], "name": node.get("name", {}).get("value", "")}
            for node in nodes
            if not node.get("ignored") and "role" in node
        ]

    def screenshot(self, quality: int = 80) -> bytes:
        """Returns the visible part of the page as JPEG."""
        self.evaluate("Promise.all([...document.images].map((i) => i.decode().catch(() => 0))).then(() => 1)")
        answer = self.send("Page.captureScreenshot", format="jpeg", quality=quality)
        return base64.b64decode(answer["data"])


__all__ = ["Browser", "find"]
