"""The drawing page: a small web server for :mod:`siamese_utils.app.drawing`.

Why not Gradio, ipywidgets or ipycanvas? Gradio 6 would do, but it asks for Pillow below 13, while the project is tested
with Pillow 13; it brings some twenty packages and 100 MB, sends usage statistics unless told not to, and its sketchpad
sends whole images where strokes are needed, for undo and for a pen of any width, so the page would be our own all the
same. With ipywidgets and ipycanvas every move of the pen goes through the kernel, a page of its own needs Voilà and a
kernel for each visitor, and on Colab the widgets come from a CDN. So the page is plain HTML, CSS and JavaScript, served
by Tornado, the server that Jupyter itself runs on and that is therefore already installed. A browser sends strokes as
JSON, some kilobytes, and everything comes from this one server: a content security policy forbids the page to load
anything from elsewhere.

The server keeps no state but caches, so any number of pages may be open. It listens on the loopback address unless told
otherwise, and answers there only what is addressed to this machine by its own names.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import ipaddress
import json
import logging
import signal
import socket
import threading
import webbrowser
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siamese_utils.app.drawing import (
    MAX_CLASSES,
    MAX_EXAMPLES,
    MAX_NAME,
    MAX_UPLOAD,
    DrawingModel,
    parse_drawing,
    parse_support,
    read_upload,
    symbol_png,
)
from siamese_utils.app.examples import CANVAS, EXAMPLE_PAIRS, EXAMPLE_SETS, Strokes, redrawn
from siamese_utils.errors import ConfigError, DataError, MissingPackageError, SiameseError
from siamese_utils.system import project

if TYPE_CHECKING:
    from tornado.web import Application

STATIC = Path(__file__).parent / "static" / "drawing"
DEFAULT_PORT = 8765
_PORTS_TRIED = 20
_PEN = 16  # width of the strokes of the examples
_MAX_JSON = 4_000_000  # bytes of a request: ten symbols with a few drawings have some 100,000
_FILES = {
    "": ("page.html", "text/html"),
    "page.css": ("page.css", "text/css"),
    "page.js": ("page.js", "text/javascript"),
}
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_HEADERS = {
    # The browser itself refuses whatever the page might ask of another host.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

_REFUSALS = {
    400: "The request is not readable; reload the page.",
    403: "This server does not go by that name; open the page at the address that was shown when it was started, or, "
    "behind a proxy, start it with --any-name.",
    404: "There is no such page here.",
    405: "This address does not take requests of this kind; questions are sent with POST, all else is read with GET.",
    413: "The request is too large; send fewer or smaller drawings.",
    415: "This address takes other content: questions are application/json, uploads application/octet-stream.",
}

_log = logging.getLogger(__name__)


# --- requests and answers -------------------------------------------------------------------------


def answer(model: DrawingModel, question: str, data: object) -> dict[str, Any]:
    """Answer what the page asks, in values that JSON can hold.

    Args:
        model: see ``DrawingModel``.
        question: ``"compare"`` with ``{"left": drawing, "right": drawing}``; ``"rank"`` with ``{"support": [...],
            "query": drawing}``; or ``"see"`` with ``{"drawing": drawing}`` for what the network sees of it. Drawings
            and support sets are those of ``parse_drawing`` and ``parse_support``.
        data: the request as JSON gave it.

    Returns:
        ``similarity``, ``probability`` and ``same``; or ``ranking``, a list of ``name``, ``similarity`` and
        ``probability``, best first; and the pictures that the network sees, as data addresses.

    Raises:
        DataError: the request makes no sense, or a drawing is empty.
        SamplingError: fewer than two symbols in the support set.
    """
    if not isinstance(data, dict):
        raise DataError("A request must be a JSON object; reload the page.")
    if question == "compare":
        left, right = parse_drawing(data.get("left")), parse_drawing(data.get("right"))
        return {**asdict(model.compare(left, right)), "left": _seen(model, left), "right": _seen(model, right)}
    if question == "rank":
        support, query = parse_support(data.get("support")), parse_drawing(data.get("query"))
        return {"ranking": [asdict(one) for one in model.rank(support, query)], "query": _seen(model, query)}
    if question == "see":
        return {"drawing": _seen(model, parse_drawing(data.get("drawing")))}
    raise DataError("The page asks for something this server does not know; reload it.")


def _seen(model: DrawingModel, drawing: Any) -> str:
    return "data:image/png;base64," + base64.b64encode(symbol_png(model.symbol(drawing))).decode("ascii")


@cache
def start_values() -> dict[str, Any]:
    """What the page needs to know at its start: limits, and examples with a second drawing of each as a query."""

    def drawing(strokes: Strokes) -> dict[str, Any]:
        return {"strokes": [{"width": _PEN, "points": [list(point) for point in stroke]} for stroke in strokes]}

    sets = []
    for title, symbols in EXAMPLE_SETS.items():
        listed = [
            {"name": name, "drawing": drawing(strokes), "again": drawing(redrawn(strokes, seed=number))}
            for number, (name, strokes) in enumerate(symbols.items())
        ]
        sets.append({"name": title, "symbols": listed})
    pairs = [
        {
            "name": title,
            "left": drawing(EXAMPLE_SETS[left[0]][left[1]]),
            "right": drawing(redrawn(EXAMPLE_SETS[right[0]][right[1]], seed=100 + number)),
        }
        for number, (title, left, right) in enumerate(EXAMPLE_PAIRS)
    ]
    limits = {"classes": MAX_CLASSES, "examples": MAX_EXAMPLES, "name": MAX_NAME, "upload": MAX_UPLOAD}
    return {"canvas": CANVAS, "limits": limits, "sets": sets, "pairs": pairs}


def make_application(model: DrawingModel) -> Application:
    """The page and its answers as a Tornado application.

    Its setting ``names``, if there is one, has the hosts, in lower case, that requests may be addressed to.

    Raises:
        MissingPackageError: Tornado is not installed.
    """
    try:
        from tornado import web
    except ImportError as error:
        raise MissingPackageError(
            "The drawing page needs the package tornado; install it with: pip install 'siamese_utils[draw]'"
        ) from error

    # One worker: drawings are answered in the order they come, and the network never competes with itself.
    worker = ThreadPoolExecutor(1, thread_name_prefix="drawing")

    class Base(web.RequestHandler):
        def set_default_headers(self) -> None:
            self.clear_header("Server")
            for name, value in _HEADERS.items():
                self.set_header(name, value)

        def prepare(self) -> None:
            # A site can let its own name lead to this machine, and its page then counts as one from here.
            names, asked = self.settings.get("names"), self.request.host_name.rstrip(".")
            if names is not None and asked not in names and not asked.endswith(".localhost"):
                raise web.HTTPError(403)

        def write_error(self, status_code: int, **_: Any) -> None:
            self.finish({"error": _REFUSALS.get(status_code, "The server has failed.")})

        async def answer(self, call: Callable[[], dict[str, Any]]) -> None:
            """Work in the other thread; a sentence for the user is an answer too, not a failure of the protocol."""
            try:
                self.finish(await asyncio.get_running_loop().run_in_executor(worker, call))
            except SiameseError as error:
                self.finish({"error": str(error)})

    class File(Base):
        def get(self, name: str) -> None:
            file, kind = _FILES[name]
            self.set_header("Content-Type", f"{kind}; charset=utf-8")
            self.finish((STATIC / file).read_bytes())

    class Start(Base):
        def get(self) -> None:
            self.finish(start_values())

    class Question(Base):
        async def post(self, question: str) -> None:
            # Pages of other sites can send forms without asking, but not JSON.
            if self.request.headers.get("Content-Type", "").split(";")[0] != "application/json":
                raise web.HTTPError(415)
            if len(self.request.body) > _MAX_JSON:
                self.finish({"error": "These drawings are too large for one request; remove some examples."})
                return
            try:
                data = json.loads(self.request.body)
            except (ValueError, RecursionError):
                self.finish({"error": "The request is not readable; reload the page."})
                return
            await self.answer(lambda: answer(model, question, data))

    class Upload(Base):
        async def post(self) -> None:
            if self.request.headers.get("Content-Type") != "application/octet-stream":
                raise web.HTTPError(415)
            data = self.request.body
            await self.answer(lambda: {"picture": base64.b64encode(read_upload(data)).decode("ascii")})

    routes: list[Any] = [
        (r"/(|page\.css|page\.js)", File),
        (r"/start", Start),
        (r"/upload", Upload),
        (r"/(compare|rank|see)", Question),
    ]
    missing = type("Missing", (Base,), {"prepare": _missing})
    return web.Application(routes, default_handler_class=missing, log_function=_quiet, worker=worker)


def _missing(handler: Any) -> None:
    handler.set_status(404)
    handler.write_error(404)


def _quiet(handler: Any) -> None:
    """Log failures of the server alone, not every request."""
    if handler.get_status() >= 500:
        _log.error("%s %s failed", handler.request.method, handler.request.path)


# --- the server -----------------------------------------------------------------------------------


class DrawingServer:
    """The drawing page, served from a thread of its own until ``stop``; also a context manager.

    Args:
        model: see ``DrawingModel``.
        host: address to listen on; the default can be reached from this machine alone.
        port: where to listen; ``None`` takes the first free one from 8765 on, 0 any free one.
        any_name: whether requests may be addressed to a host of any name, as a proxy in front may do; if not, a server
            that can be reached from this machine alone takes those to ``host`` and to this machine's own names.

    Attributes:
        url: address of the page.
        port: where it listens.

    Raises:
        ConfigError: the port is in use or not allowed, or the host is not one of this machine.
        MissingPackageError: Tornado is not installed.
    """

    def __init__(
        self, model: DrawingModel, host: str = "127.0.0.1", port: int | None = None, any_name: bool = False
    ) -> None:
        application = make_application(model)
        listening = _listen(host, port)
        if not any_name and ipaddress.ip_address(listening.getsockname()[0]).is_loopback:
            application.settings["names"] = {*_LOOPBACK, host.lower(), f"[{host.lower()}]"}
        self.port: int = listening.getsockname()[1]
        shown = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
        self.url = f"http://{shown}:{self.port}/"
        self._loop = asyncio.new_event_loop()
        self._stopped = threading.Event()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(application, listening, ready), daemon=True)
        self._thread.start()
        ready.wait(10)

    def _serve(self, application: Application, listening: socket.socket, ready: threading.Event) -> None:
        from tornado.httpserver import HTTPServer

        asyncio.set_event_loop(self._loop)

        async def begin() -> HTTPServer:
            # An upload over the limit is read, up to twice the limit, so that its sender is told the reason.
            server = HTTPServer(application, max_body_size=2 * MAX_UPLOAD, idle_connection_timeout=3600)
            server.add_sockets([listening])
            return server

        server = self._loop.run_until_complete(begin())
        ready.set()
        try:
            self._loop.run_forever()
        finally:
            server.stop()
            self._loop.run_until_complete(server.close_all_connections())
            application.settings["worker"].shutdown(wait=False)
            self._loop.close()
            self._stopped.set()

    def stop(self) -> None:
        """Stop serving and free the port; a second call does nothing."""
        if not self._stopped.is_set() and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._stopped.wait(5)

    def wait(self) -> None:
        """Wait until ``stop`` is called or the user interrupts."""
        while not self._stopped.wait(0.5):
            pass

    def __enter__(self) -> DrawingServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _listen(host: str, port: int | None) -> socket.socket:
    if port is not None and not 0 <= port <= 65535:
        raise ConfigError(f"A port is a number from 0 to 65535, not {port}.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for number in range(DEFAULT_PORT, DEFAULT_PORT + _PORTS_TRIED) if port is None else (port,):
        try:
            listening = socket.create_server((host, number), family=family, backlog=128)
        except PermissionError as error:
            raise ConfigError(f"Port {number} is reserved for the system; choose one from 1024 on.") from error
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ConfigError(
                    f"Cannot listen on {host!r}; leave --host out, or name an address of this machine."
                ) from error
        else:
            listening.setblocking(False)
            return listening
    if port is None:
        raise ConfigError(f"The ports from {DEFAULT_PORT} to {number} are all in use; choose a free one with --port.")
    raise ConfigError(f"Port {port} is in use; choose another with --port, or leave it out to have a free one found.")


def run(
    checkpoint: Path | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    browser: bool = True,
    any_name: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Serve the page until Ctrl+C (or SIGTERM) and open a browser at it: the command ``draw``.

    Args:
        checkpoint: the encoder to use; ``None`` takes the stored one.
        host, port: see ``DrawingServer``.
        browser: whether to open a browser.
        any_name: see ``DrawingServer``.
        say: where messages go.

    Raises:
        CheckpointError: the checkpoint is missing, damaged or not made for drawings.
        ConfigError, MissingPackageError: see ``DrawingServer``.
    """
    import torch

    torch.set_num_threads(1)  # one small image at a time: a second thread would only cost
    model = DrawingModel.load(checkpoint or default_checkpoint())
    with DrawingServer(model, host, port, any_name) as server:
        say(f"The drawing page is at {server.url} (stop with Ctrl+C).")
        if host not in ("127.0.0.1", "localhost", "::1"):
            say("Everyone who reaches this machine can use it; leave --host out to keep it to yourself.")
        if browser:
            webbrowser.open(server.url)
        terminate = _stop_on_terminate()
        try:
            server.wait()
        except KeyboardInterrupt:
            say("Stopped.")
        finally:
            if terminate is not None:
                signal.signal(signal.SIGTERM, terminate)


def _stop_on_terminate() -> Any:
    """Let ``kill`` stop the server as Ctrl+C does, which shells keep from programs in the background.

    Returns:
        what was done on SIGTERM before; ``None`` outside the main thread, where nothing can be changed.
    """
    if threading.current_thread() is not threading.main_thread():
        return None

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    return signal.signal(signal.SIGTERM, interrupt)


def default_checkpoint() -> Path:
    """The stored encoder for drawings."""
    return project.project_root() / "results" / "checkpoints" / "drawing.safetensors"
