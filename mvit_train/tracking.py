"""Where numbers go while a run is under way: always metrics.csv, Weights & Biases, and TensorBoard if asked for."""

import importlib.util
import logging
import netrc
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from lightning import Callback
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from mvit_train.metrics_log import MetricsLog
from mvit_train.redaction import clean

if TYPE_CHECKING:
    from mvit_train.wandb_run import WandbRun

log = logging.getLogger(__name__)

WANDB_URL = "https://api.wandb.ai"
MAX_CLIPS = 64  # a table of more is slow to open


class Record:
    """The open loggers of a run.

    Args:
        wandb: the one of them that takes media, or None.
        callbacks: what trains with these loggers needs to fill them.
    """

    def __init__(
        self, run_dir: Path, loggers: list[Logger], wandb: "WandbRun | None" = None, callbacks: Sequence[Callback] = ()
    ) -> None:
        self.run_dir, self.loggers, self.wandb, self.callbacks = run_dir, loggers, wandb, list(callbacks)

    def finish(self, metrics: Mapping[str, Any], step: int) -> None:
        """Logs the final evaluation's numbers as `test/<frame order>/<number>`, and keeps its report as an artifact."""
        numbers = final_numbers(metrics)
        for logger in self.loggers:
            logger.log_metrics(numbers, step)
            logger.save()
        if self.wandb:
            files = [self.run_dir / name for name in ("report.html", "metrics.json")]
            self.wandb.attach([file for file in files if file.exists()], "report")
            text = ", ".join(
                f"{name} {value:.1f}" for name, value in numbers.items() if name.startswith("test/forward")
            )
            self.wandb.alert("Finished", f"{self.wandb.version}: {text}", "INFO")


class Tracking:
    """The loggers of a run.

    Args:
        wandb: "online", "offline" (files in the run folder, to be synced later), "off", or "auto": online for a user
            who is logged in, else offline.
        project, entity: of W&B, where the run is shown; entity: null, the user's own.
        group, tags, notes: what W&B shows with the run and sorts runs by.
        media_clips: how many validation clips W&B shows with the model's answers; 0: no clips and no confusion matrix.
        tensorboard: writes `tensorboard/` into the run folder, too.
    """

    def __init__(
        self,
        *,
        wandb: Literal["auto", "online", "offline", "off"] = "auto",
        project: str = "mvit_train",
        entity: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        notes: str | None = None,
        media_clips: int = 64,
        tensorboard: bool = False,
    ) -> None:
        if not 0 <= media_clips <= MAX_CLIPS:
            raise ValueError(f"logger.media_clips is {media_clips}, it must be 0 to {MAX_CLIPS}")
        self.wandb, self.media_clips, self.tensorboard = wandb, media_clips, tensorboard
        self.shown = {"project": project, "entity": entity, "group": group, "tags": tags, "notes": notes}

    @classmethod
    def check_arguments(cls, arguments: dict) -> dict[str, str]:
        """Mistakes that types do not show; see `config.check`."""
        if arguments.get("tensorboard") and importlib.util.find_spec("tensorboard") is None:
            return {"tensorboard": "the package tensorboard is not installed: pip install 'mvit_train[tensorboard]'"}
        return {}

    @contextmanager
    def open(self, run_dir: Path, name: str, config: dict[str, Any]) -> Iterator[Record]:
        """The loggers, writing below `run_dir`, closed in the end; an exception becomes an alert first.

        config: what W&B shows beside the curves.
        """
        loggers: list[Logger] = [MetricsLog(run_dir)]
        if self.tensorboard:
            loggers.append(TensorBoardLogger(run_dir, name="", version="tensorboard", default_hp_metric=False))
        run = None if self.wandb == "off" else self._wandb_run(run_dir, name, config)
        if run is None:
            yield Record(run_dir, loggers)
            return
        from mvit_train.media import ValidationMedia

        media = [ValidationMedia(run, run_dir / "media", self.media_clips)] if self.media_clips else []
        exit_code = 1
        try:
            yield Record(run_dir, [*loggers, run], run, media)
            exit_code = 0
        except Exception as error:  # steps that are not finite, too many unreadable videos, a crash
            run.alert("Stopped", f"{run.version}: {clean(str(error))}", "ERROR")
            raise
        finally:
            run.close(exit_code)

    def _wandb_run(self, run_dir: Path, name: str, config: dict[str, Any]) -> "WandbRun | None":
        try:
            from mvit_train.wandb_run import WandbRun  # importing W&B takes a second
        except Exception as error:  # of a package in its tree
            log.warning("W&B cannot be imported (%s); the run goes on with metrics.csv alone", error)
            return None
        online = self.wandb in ("auto", "online") and logged_in()
        if self.wandb == "online" and not online:
            log.warning("logger.wandb=online, but no key is here (wandb login, or WANDB_API_KEY): logging offline")
        run_id = re.sub(r"[^\w.-]", "-", f"{name}-{run_dir.name}")  # the same for all legs of a run
        return WandbRun(
            run_dir, offline=not online, init={"id": run_id, "name": run_id, "config": config, **self.shown}
        )


def final_numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """`test/<frame order>/<number>` of metrics.json's content."""
    return {
        f"test/{order}/{name}": float(value)
        for order, numbers in metrics["orders"].items()
        for name, value in numbers.items()
        if isinstance(value, int | float)
    }


def logged_in() -> bool:
    """Whether this user has given W&B a key, by environment or by `wandb login`."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or WANDB_URL).hostname or ""
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
