"""A real Chromium, driven over its DevTools protocol: pages as people have them, and what they say of themselves.

Source:
    https://chromedevtools.github.io/devtools-protocol/
"""

import asyncio
import base64
import json
import os
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Final

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.servers.software import program

IMAGES: Final = os.environ.get("AVX_CONSOLE_IMAGES")
"""The folder where pictures of the pages go, if there shall be some."""

OPTIONS: Final = (
    "--headless=new",
    "--no-sandbox",  # which root cannot have
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
_START_S: Final = 30.0
_KEYS: Final = {
    "Tab": (9, ""),
    "Enter": (13, "\r"),
    "Escape": (27, ""),
    "ArrowDown": (40, ""),
    "ArrowUp": (38, ""),
    "ArrowLeft": (37, ""),
    "ArrowRight": (39, ""),
    " ": (32, " "),
}


class NavigatedError(RuntimeError):
    """The page went to another document before a script of the old one ended."""


class Page:
    """One tab.

    Attributes:
        problems: What the browser complained of: errors of scripts, of the console and of loading.
    """

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loaded = asyncio.Event()
        self.problems: list[str] = []

    async def listen(self) -> None:
        with suppress(ConnectionClosed):
            async for text in self._connection:
                message = json.loads(text)
                if "id" in message:
                    self._answers.pop(message["id"]).set_result(message)
                else:
                    self._note(message["method"], message["params"])

    def _note(self, method: str, told: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded.set()
        elif method == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.problems.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
        elif method == "Runtime.consoleAPICalled" and told["type"] in {"error", "warning"}:
            self.problems.append(str(told["args"]))

    async def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        async with asyncio.timeout(30):
            message = await answer
        if "error" in message:
            raise (NavigatedError if "navigated" in str(message["error"]) else RuntimeError)(message["error"])
        result: dict[str, Any] = message["result"]
        return result

    async def go_to(self, url: str) -> None:
        self._loaded.clear()
        await self.send("Page.navigate", url=url)
        async with asyncio.timeout(20):
            await self._loaded.wait()

    async def eval(self, script: str) -> Any:
        """Return what ``script`` gives, its promise kept."""
        answer = await self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return answer["result"].get("value")

    async def until(self, condition: str, *, timeout_s: float = 10.0) -> Any:
        """Wait until a condition of the page holds, looking at each of its frames; return what it gives."""
        script = f"""new Promise((resolve, reject) => {{
            const end = performance.now() + {timeout_s * 1000};
            const look = () => {{
                let found;
                try {{ found = ({condition}); }} catch {{ found = false; }}
                if (found) resolve(found);
                else if (performance.now() > end) reject(new Error("never: " + {json.dumps(condition)}
                    + "\\n" + document.body.innerText.slice(0, 1500)));
                else setTimeout(look, 10);
            }};
            look();
        }})"""
        async with asyncio.timeout(timeout_s + 5):
            while True:
                try:
                    return await self.eval(script)
                except NavigatedError:
                    continue  # another document, which is looked at from its beginning

    async def click(self, selector: str) -> None:
        """Click where the element is, as a mouse does; again where it has moved away in that moment."""
        wanted = json.dumps(selector)
        is_hit = False
        while not is_hit:
            place = await self.until(
                f"(() => {{ const e = document.querySelector({wanted}); if (!e) return null;"
                "e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();"
                "window.isHit = false; document.addEventListener('click', event => {"
                f"window.isHit = Boolean(event.target.closest({wanted}));"
                "}, {capture: true, once: true});"
                "return r.width ? [r.x + r.width / 2, r.y + r.height / 2] : null; })()"
            )
            mouse = {"x": place[0], "y": place[1], "button": "left", "clickCount": 1}
            await self.send("Input.dispatchMouseEvent", type="mousePressed", **mouse)
            await self.send("Input.dispatchMouseEvent", type="mouseReleased", **mouse)
            try:
                is_hit = await self.eval("window.isHit !== false")
            except NavigatedError:  # that is what the click did
                is_hit = True

    async def press(self, key: str, *, times: int = 1) -> None:
        """Press a key and let it go."""
        code, text = _KEYS[key]
        for _ in range(times):
            down = {"type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": code}
            await self.send("Input.dispatchKeyEvent", **down, **({"text": text} if text else {}))
            await self.send("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)

    async def type(self, text: str) -> None:
        """Write where the focus is."""
        await self.send("Input.insertText", text=text)

    async def look_like(self, *, width: int = 1280, height: int = 800, is_dark: bool = False) -> None:
        """Be a screen of so many pixels, light or dark."""
        phone = width < 600
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        await self.send("Emulation.setEmulatedMedia", features=[scheme])

    async def picture(self, path: Path) -> None:
        """Keep what is seen as a PNG."""
        answer = await self.send("Page.captureScreenshot", format="png")
        await asyncio.to_thread(path.write_bytes, base64.b64decode(answer["data"]))


class Browser:
    """A running Chromium."""

    def __init__(self, address: str) -> None:
        self._address = address

    @asynccontextmanager
    async def page(self) -> AsyncGenerator[Page]:
        """Open a tab."""
        async with httpx.AsyncClient() as client:
            made = (await client.put(f"http://{self._address}/json/new?about:blank", timeout=20)).json()
        async with (
            connect(made["webSocketDebuggerUrl"], max_size=None, ping_interval=None) as connection,
            asyncio.TaskGroup() as tasks,
        ):
            page = Page(connection)
            listening = tasks.create_task(page.listen())
            for domain in ("Page", "Runtime", "Log", "Network"):
                await page.send(f"{domain}.enable")
            await page.look_like()
            try:
                yield page
            finally:
                await connection.close()
                await listening


@asynccontextmanager
async def browser_in(folder: Path) -> AsyncGenerator[Browser]:
    """Run Chromium with its profile in ``folder``.

    Raises:
        MissingServerError: There is no ``chromium`` on this machine.
    """
    command = [program("chromium"), *OPTIONS, f"--user-data-dir={folder}", "about:blank"]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={"HOME": str(folder), "PATH": "/usr/bin:/bin"}
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(_START_S):
            while b"DevTools listening on ws://" not in (line := await process.stderr.readline()):
                assert line, "chromium has ended"
        address = line.decode().partition("ws://")[2].partition("/")[0]
        async with asyncio.TaskGroup() as tasks:
            draining = tasks.create_task(process.stderr.read())
            try:
                yield Browser(address)
            finally:
                process.terminate()
                await draining
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
