"""`metrics.csv` of a run: a row for each set of numbers, kept over all its legs.

Lightning's CSVLogger deletes the file that it finds, and writes it anew, in place, for each new column: a run that is
killed at that moment, or whose disk is full, loses its history.
"""

import csv
import errno
import io
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger

from mvit_train.predictions import replace_file

log = logging.getLogger(__name__)

MAX_WAITING = 20  # rows


class MetricsLog(Logger):
    """Appends whole rows to `metrics.csv` in the run folder, on rank 0; on other ranks it does nothing.

    Rows are held back until there are `MAX_WAITING`, or `save` is called. Where they cannot be written, as on a full
    disk, there is one warning, and they are kept until they can be. The last row of an earlier leg is taken out if it
    is not whole.
    """

    def __init__(self, run_dir: Path) -> None:
        super().__init__()
        self.file = run_dir / "metrics.csv"
        self._columns: list[str] | None = None  # of the file; None: not known yet
        self._rows: list[dict[str, Any]] = []
        self._warned = False

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """They are in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._rows.append({"step": step, **metrics})
        if len(self._rows) >= MAX_WAITING:
            self.save()

    @rank_zero_only
    def save(self) -> None:
        if not self._rows:
            return
        try:
            if self._columns is None:
                self._columns = columns(self.file)
            if new := {name for row in self._rows for name in row}.difference(self._columns):
                self._add_columns(sorted(new))
            append(self.file, rows_as_text(self._rows, self._columns))
        except OSError as error:
            if not self._warned:
                log.warning("%s: rows wait until they can be written: %s", self.file, error)
            self._warned = True
        else:
            self._rows = []

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()

    def _add_columns(self, names: list[str]) -> None:
        """Replaces the file, at once, by one in which these are empty."""
        assert self._columns is not None
        rows = list(csv.DictReader(self.file.read_text(encoding="utf-8").splitlines())) if self._columns else []
        wider = [*self._columns, *names]
        text = rows_as_text([dict(zip(wider, wider, strict=True)), *rows], wider)
        replace_file(self.file, lambda file: file.write(text.encode()))
        self._columns = wider


def rows_as_text(rows: list[dict[str, Any]], names: list[str]) -> str:
    text = io.StringIO(newline="")
    csv.DictWriter(text, names, lineterminator="\n").writerows(rows)
    return text.getvalue()


def columns(file: Path) -> list[str]:
    """Those of a file, whose last row is taken out if it is not whole; none if there is no file, or only half a row."""
    if not file.exists():
        return []
    content = file.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(file, whole)
    return next(csv.reader([content[:whole].decode().partition("\n")[0]]), [])


def append(file: Path, text: str) -> None:
    """Adds all of a text to a file, or nothing."""
    size, content = file.stat().st_size, text.encode()
    with file.open("ab", buffering=0) as opened:
        try:
            if opened.write(content) < len(content):  # all that there was room for
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.truncate(file, size)
            raise
