"""`task=serve`: a web page for your own clips: top-5, frame-order test, where the model looks.

docs/serve.md tells what it shows and what it accepts.
"""

import importlib.util
import logging
import signal
import socket
import sys
from functools import partial
from typing import Any

from mvit_train.config import build
from mvit_train.demo.answer import TimeLimit, answer
from mvit_train.demo.settings import Settings
from mvit_train.prediction.predictor import Predictor

NEEDED = ("starlette", "uvicorn")
GRACE_SEC = 5  # for what runs when the server is stopped


def run(cfg: Any) -> None:
    """Serves the page until SIGINT or SIGTERM. ValueError: a package is missing, or the address cannot be had."""
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise ValueError(f"task=serve needs {', '.join(missing)}: pip install 'mvit_train[serve]'")
    settings: Settings = build(cfg.serve)
    listening = listen(settings)
    with listening:
        predictor = Predictor.of(cfg)
        predictor.data.num_workers = 1  # a file that hangs or kills its reader must not do so to the server
        predictor.data.timeout_sec = settings.timeout_sec
        serve(predictor, listening, settings, views=cfg.views, top_k=cfg.top_k)


def listen(settings: Settings) -> socket.socket:
    """A socket that waits for visitors. ValueError: the address is in use, or none of this machine's."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family)
    except OSError as error:
        raise ValueError(
            f"serve.host={settings.host} serve.port={settings.port}: {error.strerror}; "
            "serve.port=0 takes a port that is free"
        ) from error


def serve(predictor: Predictor, listening: socket.socket, settings: Settings, *, views: str, top_k: int) -> None:
    """Prints the address of a socket, and answers its visitors until a signal ends it."""
    import uvicorn

    from mvit_train.demo.app import make_app

    limit = TimeLimit(predictor.module.model, timeout_sec=settings.timeout_sec)
    about = {
        "source": "/".join(predictor.source.parts[-3:]),  # not where the home folder is
        "classes": len(predictor.labels),
        "views": views,
        "multi_label": predictor.module.multi_label,
        "max_megabytes": settings.max_megabytes,
        "max_seconds": settings.max_seconds,
    }
    answers = partial(answer, predictor, settings=settings, views=views, top_k=top_k)
    config = uvicorn.Config(
        make_app(answers, limit, settings, about),
        log_config=None,
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SEC,
    )
    server = uvicorn.Server(config)

    def stop(*_: Any) -> None:
        server.should_exit = True

    # uvicorn has handlers of its own once it runs; it stops in good order, and then raises the signal again for ours.
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        announce(predictor, listening, settings)
        server.run(sockets=[listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def announce(predictor: Predictor, listening: socket.socket, settings: Settings) -> None:
    """Prints where the page is, and a warning if it is not for this machine alone."""
    if not settings.is_private:
        print(
            f"mvit_train: serve.host={settings.host}: anyone who can reach this machine can use the page, without "
            "a password or encryption",
            file=sys.stderr,
        )
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    port = listening.getsockname()[1]
    print(f"http://{host}:{port}/ shows what {predictor.source} says of a clip; Ctrl-C stops it", flush=True)
