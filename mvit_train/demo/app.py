"""The web application: a page, and one address that takes a file and answers line by line."""

import asyncio
import json
import logging
import tempfile
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import asynccontextmanager, closing
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.concurrency import iterate_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mvit_train.data.manifest import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from mvit_train.data.stream import DecodeError
from mvit_train.demo.answer import Part, RefusedError, TimeLimit
from mvit_train.demo.queue import Queue
from mvit_train.demo.settings import Settings

MAX_VISITORS = 20  # with a file at the server; each holds at most serve.max_megabytes of disk
UPLOAD = "application/octet-stream"  # pages of other sites cannot send this type without being allowed to

PAGE = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src blob: data:; media-src blob:; frame-ancestors 'none'",
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
}

log = logging.getLogger(__name__)

Answer = Callable[[Path, str], Generator[Part]]


def make_app(answer: Answer, limit: TimeLimit, settings: Settings, about: dict[str, Any]) -> Starlette:
    """The page at /, what the model is at /about, and POST /clips?name=..., which takes a file, answered in JSON lines.

    answer: (file, its name on the visitor's machine) -> parts of the answer; runs in a thread, one at a time.
    """
    queue = Queue(MAX_VISITORS)

    async def clips(request: Request) -> Response:
        if request.headers.get("content-type") != UPLOAD:
            return JSONResponse({"error": f"send the file itself, with content-type: {UPLOAD}"}, 415)
        if queue.is_full:
            return JSONResponse({"error": f"{MAX_VISITORS} visitors are waiting; try again later"}, 503)
        folder = tempfile.TemporaryDirectory(prefix="mvit_train-")
        name = Path(unquote(request.query_params.get("name", ""))).name or "clip.mp4"
        try:
            path = await _received(request, Path(folder.name), name, settings)
        except RefusedError as error:
            folder.cleanup()
            return JSONResponse({"error": str(error)}, 413)
        except BaseException:
            folder.cleanup()
            raise
        return StreamingResponse(lines(folder, path, name), media_type="application/x-ndjson", headers=HEADERS)

    async def lines(folder: tempfile.TemporaryDirectory, path: Path, name: str) -> AsyncIterator[str]:
        with folder, queue.place() as place:
            async for ahead in queue.ahead(place):
                yield _line({"ahead": ahead})
            yield _line({"ahead": 0})
            with limit.running(), closing(answer(path, name)) as parts:
                async for part in iterate_in_threadpool(_or_error(parts, path, name)):
                    yield _line(part)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        limit.close()

    def page(file: str, kind: str) -> Callable[[Request], Response]:
        text = files("mvit_train.demo").joinpath(file).read_text(encoding="utf-8")
        return lambda _: Response(text, media_type=kind, headers=HEADERS)

    routes = [Route(url, page(*what)) for url, what in PAGE.items()]
    routes += [
        Route("/about", lambda _: JSONResponse(about, headers=HEADERS)),
        Route("/clips", clips, methods=["POST"]),
    ]
    # A name of another site that leads to this machine must not make its pages ours.
    # "[" is what starlette makes of any IPv6 address, which is no name.
    known = ["localhost", "127.0.0.1", "[", settings.host] if settings.is_private else ["*"]
    return Starlette(
        routes=routes, lifespan=lifespan, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=known)]
    )


async def _received(request: Request, folder: Path, name: str, settings: Settings) -> Path:
    """The file that the request brings. RefusedError: it is empty, too large or too slow."""
    # Never the suffix of a playlist, which FFmpeg would follow to other files of this machine.
    suffix = Path(name).suffix.lower()
    path = folder / f"clip{suffix if suffix in VIDEO_SUFFIXES | IMAGE_SUFFIXES else '.mp4'}"
    limit = settings.max_megabytes * 1e6
    too_large = f"the file is larger than {settings.max_megabytes:g} MB (serve.max_megabytes)"
    if int(request.headers.get("content-length") or 0) > limit:
        raise RefusedError(too_large)
    size = 0
    try:
        async with asyncio.timeout(settings.timeout_sec):
            with path.open("wb") as file:
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > limit:
                        raise RefusedError(too_large)
                    file.write(chunk)
    except TimeoutError as error:
        raise RefusedError(f"the upload took longer than {settings.timeout_sec:g} s (serve.timeout_sec)") from error
    if not size:
        raise RefusedError("the file is empty")
    return path


def _or_error(parts: Iterator[Part], path: Path, name: str) -> Iterator[Part]:
    """The parts, and in the place of an exception what the visitor is told."""
    try:
        yield from parts
    except DecodeError as error:
        yield {"error": error.reason.replace(f"file:{path}", name).replace(str(path), name)}
    except RefusedError as error:
        yield {"error": str(error)}
    except Exception:
        log.exception("a clip has no answer")
        yield {"error": "the server failed at this clip; its log says more"}


def _line(part: Part) -> str:
    return json.dumps(part) + "\n"
