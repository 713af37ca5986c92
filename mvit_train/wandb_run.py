"""A Weights & Biases run that can neither stop nor slow down the training it shows: every call to W&B is made by a
thread of its own, from a queue, and the first one that fails is the last.

What W&B 0.31 does without this: when its service process dies, each call raises ConnectionResetError; when it hangs,
`finish` waits for ever, and so does the interpreter's exit; when the server cannot be reached, `init` waits 90 s.
"""

import logging
import os
import queue
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import wandb
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger
from PIL.Image import Image

log = logging.getLogger(__name__)

START_SEC = 20.0  # how long the training waits for the start, which goes on without it
CONNECT_SEC = 60.0  # how long the thread waits for the server, before it turns to offline
FINISH_SEC = 60.0
MAX_WAITING = 10_000  # calls
MAX_MEDIA_WAITING = 2  # they hold clips
DATA_DIR = "WANDB_DATA_DIR"  # for what awaits its upload; W&B itself would fill the home folder
STEP = "trainer/global_step"  # the x-axis: W&B's own step begins anew with every leg of a run


class Table(NamedTuple):
    """A cell that is a path is an mp4."""

    columns: list[str]
    rows: list[list[Any]]


class Picture(NamedTuple):
    image: Image
    caption: str


class WandbRun(Logger):
    """W&B's side of a run, on rank 0; on other ranks it does nothing. No method raises, and none but `close` waits.

    After a failure there is one warning, and nothing goes to W&B any more.

    Args:
        folder: of the run; W&B's files go to `wandb` below it, those that await their upload too.
        offline: writes files only. A run that does not start online goes on offline.
        init: arguments of `wandb.init`: id, name, project, entity, group, tags, notes, config.
    """

    def __init__(self, folder: Path, *, offline: bool, init: Mapping[str, Any]) -> None:
        super().__init__()
        self._folder, self._offline, self._init = folder, offline, init
        self._calls: queue.Queue[Callable[[Any], None] | None] = queue.Queue(MAX_WAITING)
        self._over, self._started = threading.Event(), threading.Event()
        self._media_room, self._exit_code = threading.Semaphore(MAX_MEDIA_WAITING), 0
        self._said: set[str] = set()
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._chose_place = self._abandoned = False
        if getattr(rank_zero_only, "rank", 0) != 0:
            self._over.set()
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._chose_place = DATA_DIR not in os.environ
        os.environ.setdefault(DATA_DIR, str((folder / "wandb").absolute()))
        self._thread.start()
        self._started.wait(START_SEC)

    @property
    def name(self) -> str:
        return self._init["project"]

    @property
    def version(self) -> str:
        return self._init["id"]

    @property
    def on(self) -> bool:
        """Whether anything still goes to W&B."""
        return not self._over.is_set()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = dict(metrics) if step is None else {**metrics, STEP: step}
        self._send(lambda run: run.log(row))

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        values = dict(params)
        self._send(lambda run: run.config.update(values, allow_val_change=True))

    def log_media(self, make: Callable[[], Mapping[str, Table | Picture]], step: int) -> None:
        """Logs what `make` returns, which is called in W&B's thread. If it raises, that is left out with a warning."""
        if not self._media_room.acquire(blocking=False):
            self._warn_once("media of some validations are left out of W&B: earlier ones are still being written")
            return

        def call(run: Any) -> None:
            try:
                made = make()
            except Exception as error:
                self._warn_once(f"media cannot be made for W&B: {error}")
                return
            finally:
                self._media_room.release()
            run.log({key: _converted(value) for key, value in made.items()} | {STEP: step})

        self._send(call)

    def alert(self, title: str, text: str, level: Literal["INFO", "WARN", "ERROR"]) -> None:
        """Sends a message to whoever has subscribed to the project's alerts."""
        self._send(lambda run: run.alert(title, text, level=level))

    def attach(self, files: list[Path], kind: str) -> None:
        """Keeps files as an artifact `<run id>-<kind>`, as they are when W&B's thread comes to it."""

        def call(run: Any) -> None:
            artifact = wandb.Artifact(f"{run.id}-{kind}", type=kind)
            for file in files:
                artifact.add_file(str(file))
            run.log_artifact(artifact)

        self._send(call)

    def close(self, exit_code: int = 0) -> None:
        """Ends the run; waits at most `FINISH_SEC` for what is still to be written or uploaded."""
        self._exit_code = exit_code
        with suppress(queue.Full):
            self._calls.put_nowait(None)
        if self._thread.is_alive():
            self._thread.join(1.0 if self._over.is_set() else FINISH_SEC)
        if self._thread.is_alive():
            self._give_up(f"it has not finished within {FINISH_SEC:g} s; `make wandb-sync` can send the rest later")
            self._abandoned = True
            letting_go = threading.Thread(target=_let_go, daemon=True)
            letting_go.start()
            letting_go.join(1.0)
        self._over.set()
        if self._chose_place:
            os.environ.pop(DATA_DIR, None)

    def _send(self, call: Callable[[Any], None]) -> None:
        if self._over.is_set():
            return
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._give_up(f"it has left {MAX_WAITING} calls unanswered")

    def _work(self) -> None:
        try:
            run = self._start()
            self._started.set()
            while (call := self._calls.get()) is not None and not self._over.is_set():
                call(run)
            run.finish(exit_code=self._exit_code)
        except (Exception, SystemExit) as error:  # whatever its service, network, disk or login brings up
            self._give_up(str(error) or type(error).__name__)
        finally:
            self._started.set()
            if not self._abandoned:
                _let_go()  # which also waits until the service has written everything

    def _start(self) -> Any:
        mode = os.environ.get("WANDB_MODE") or ("offline" if self._offline else "online")
        if mode != "offline":
            try:
                return self._connected(mode)
            except (Exception, SystemExit) as error:
                self._warn_once(f"W&B does not start {mode} ({error}); logging offline below {self._folder}")
                _let_go()
        return self._connected("offline")

    def _connected(self, mode: Any) -> Any:
        """A run of W&B's, without the capture of the console, which makes each print wait for the service."""
        silent = mode == "offline"  # where there is no address to show, its messages are about itself
        settings = wandb.Settings(console="off", silent=silent, init_timeout=CONNECT_SEC)
        run = wandb.init(**self._init, dir=str(self._folder), mode=mode, resume="allow", settings=settings)
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP, step_sync=True)
        return run

    def _give_up(self, reason: str) -> None:
        if not self._over.is_set():
            self._over.set()
            log.warning("W&B is left alone from here on (%s); the run goes on, metrics.csv has all numbers", reason)

    def _warn_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            log.warning("%s", message)


def _converted(value: Table | Picture) -> Any:
    if isinstance(value, Picture):
        return wandb.Image(value.image, caption=value.caption)
    rows = [
        [wandb.Video(str(cell), format="mp4") if isinstance(cell, Path) else cell for cell in r] for r in value.rows
    ]
    return wandb.Table(columns=[*value.columns], data=rows)


def _let_go() -> None:
    """Ends W&B's service, or if that hangs, at least takes it off the list of what the interpreter's exit waits for."""
    with suppress(Exception, SystemExit):
        wandb.teardown()
