"""Where numbers go while a run is under way: always metrics.csv, and Weights & Biases."""

import csv
import io
import logging
import netrc
import os
import warnings
from contextlib import nullcontext, redirect_stderr
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

log = logging.getLogger(__name__)

WANDB_HOST = "api.wandb.ai"


class Tracking:
    """The loggers of a run.

    Args:
        wandb: "online", "offline" (files in the run folder, to be synced later), "off", or "auto": online for a user
            who is logged in, else offline.
        project: name of the W&B project.
    """

    def __init__(
        self, *, wandb: Literal["auto", "online", "offline", "off"] = "auto", project: str = "mvit_train"
    ) -> None:
        self.wandb, self.project = wandb, project

    def loggers(self, run_dir: Path, name: str, config: dict[str, Any]) -> list[Logger]:
        """The loggers, writing below `run_dir`. `config` is what W&B shows beside the curves."""
        loggers: list[Logger] = [csv_logger(run_dir)]
        if self.wandb != "off":
            online = self.wandb == "online" or (self.wandb == "auto" and logged_in())
            loggers += wandb_logger(run_dir, name, self.project, config, offline=not online)
        return loggers


def csv_logger(run_dir: Path) -> CSVLogger:
    """Lightning's CSV logger, writing `run_dir/metrics.csv`; a resumed run goes on in the file it finds."""
    logger = CSVLogger(run_dir, name="", version="", flush_logs_every_n_steps=20)
    if getattr(rank_zero_only, "rank", 0) == 0:
        file = run_dir / "metrics.csv"
        earlier = file.read_text() if file.exists() else ""
        with warnings.catch_warnings():  # it warns that it deletes what is there, which is put back below
            warnings.simplefilter("ignore")
            writer = logger.experiment
        if earlier:
            file.write_text(earlier)
            writer.metrics_keys = next(csv.reader(earlier.splitlines()[:1]))
    return logger


def wandb_logger(run_dir: Path, name: str, project: str, config: dict[str, Any], *, offline: bool) -> list[WandbLogger]:
    """W&B's logger, or none with a warning: a tracker that does not start must not stop a training run."""
    run_id = f"{name}-{run_dir.name}"
    if offline:  # where there is no address to show, its messages are about itself
        os.environ.setdefault("WANDB_SILENT", "true")
    try:
        logger = WandbLogger(
            name=run_id,
            id=run_id,
            project=project,
            save_dir=run_dir,
            offline=offline,
            config=config,
        )
        with redirect_stderr(io.StringIO()) if offline else nullcontext():
            _ = logger.experiment  # starts the service now, where a failure can be told
    except Exception as error:  # whatever its service, network or login brings up
        if not offline:
            log.warning("W&B does not start online (%s); logging offline below %s", error, run_dir)
            return wandb_logger(run_dir, name, project, config, offline=True)
        log.warning("W&B does not start (%s); the run goes on with metrics.csv alone", error)
        return []
    return [logger]


def logged_in() -> bool:
    """Whether this user has given W&B a key, by environment or by `wandb login`."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators(WANDB_HOST) is not None
    except (OSError, netrc.NetrcParseError):
        return False
