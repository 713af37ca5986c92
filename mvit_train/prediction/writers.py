"""Predictions as text, each written out as soon as it is known: a table to read, JSON lines, CSV."""

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from mvit_train.prediction.predictor import Prediction
from mvit_train.redaction import clean

MAX_FILE, MAX_CLASS, BAR = 40, 32, 40  # columns


class Writer(ABC):
    """Writes to `out`; `timeline`: predictions have segments, which are then shown too."""

    def __init__(
        self,
        out: TextIO,
        *,
        files: Sequence[Path],
        classes: Sequence[str],
        top_k: int,
        threshold: float,
        timeline: bool,
    ) -> None:
        """files, classes: what may come, for the widths of columns. top_k, threshold: see `Prediction.top`."""
        self.out, self.top_k, self.threshold, self.timeline = out, top_k, threshold, timeline
        self.file_width = max(4, *(min(len(str(file)), MAX_FILE) for file in files))
        self.class_width = max(5, *(min(len(name), MAX_CLASS) for name in classes))
        self.begin()
        out.flush()

    def add(self, prediction: Prediction) -> None:
        """Writes one prediction, and lets whoever reads along see it at once."""
        self.write(prediction, prediction.top(self.top_k, threshold=self.threshold))
        self.out.flush()

    @abstractmethod
    def begin(self) -> None:
        """Writes what comes before all predictions."""

    @abstractmethod
    def write(self, prediction: Prediction, ranked: Sequence[tuple[str, float]]) -> None:
        """Writes one prediction, whose classes to show are `ranked`."""

    @abstractmethod
    def fail(self, file: Path, reason: str) -> None:
        """Notes a file without a prediction."""


class Table(Writer):
    """Columns; below the classes of a video its segments, each with its place in the video as a bar."""

    def begin(self) -> None:
        last = "windows that agree" if self.timeline else "views that agree"
        self._row("file", "rank", "class", "probability", last)

    def write(self, prediction: Prediction, ranked: Sequence[tuple[str, float]]) -> None:
        num_views = len(prediction.view_scores)
        agree = f"{round(prediction.agreement * num_views)} of {num_views}"
        file = _shortened(str(prediction.path), self.file_width)
        for rank, (name, probability) in enumerate(ranked or [("-", 0.0)], 1):
            score = f"{100 * probability:.1f} %" if ranked else f"all below {self.threshold:g}"
            self._row(file, str(rank), name, score, agree)
            file = agree = ""
        if not prediction.segments:
            return
        total = prediction.segments[-1].end_sec
        for segment in prediction.segments:
            first, last = (round(BAR * edge / (total or 1)) for edge in (segment.start_sec, segment.end_sec))
            first = min(first, BAR - 1)
            bar = ("." * first + "#" * max(last - first, 1)).ljust(BAR, ".")
            name = _shortened(segment.class_name, self.class_width)
            self.out.write(
                f"  {segment.start_sec:8.1f} - {segment.end_sec:8.1f} s  {name:{self.class_width}}"
                f"{100 * segment.probability:8.1f} %  |{bar}|\n"
            )

    def fail(self, file: Path, reason: str) -> None:
        self._row(_shortened(str(file), self.file_width), "-", "-", "-", reason)
        self.out.flush()

    def _row(self, file: str, rank: str, name: str, probability: str, agree: str) -> None:
        name = _shortened(name, self.class_width)
        file, agree = clean(file), clean(agree)
        row = f"{file:{self.file_width}}  {rank:>4}  {name:{self.class_width}}  {probability:>11}  {agree}"
        self.out.write(f"{row.rstrip()}\n")


class Json(Writer):
    """One object a line and file; one that cannot be read, or not to its end, has an `error`."""

    def begin(self) -> None:
        """Lines need no header."""

    def write(self, prediction: Prediction, ranked: Sequence[tuple[str, float]]) -> None:
        line = {
            "file": str(prediction.path),
            "classes": [{"class": name, "probability": round(value, 6)} for name, value in ranked],
            "views": len(prediction.view_scores),
            "agreement": round(prediction.agreement, 6),
        }
        if self.timeline:
            line["segments"] = [
                {
                    "start_sec": round(segment.start_sec, 3),
                    "end_sec": round(segment.end_sec, 3),
                    "class": segment.class_name,
                    "probability": round(segment.probability, 6),
                }
                for segment in prediction.segments
            ]
        notes = {"notice": prediction.notice, "error": prediction.damage}
        self._line(line | {key: text for key, text in notes.items() if text})

    def fail(self, file: Path, reason: str) -> None:
        self._line({"file": str(file), "error": reason})

    def _line(self, content: dict) -> None:
        self.out.write(json.dumps(content, ensure_ascii=False) + "\n")
        self.out.flush()


class Csv(Writer):
    """A row for each class shown of a video or, of a timeline, for each segment; none of a file that failed."""

    def begin(self) -> None:
        columns = ("start_sec", "end_sec", "class", "probability") if self.timeline else ()
        self._row("file", *(columns or ("rank", "class", "probability", "agreement")))

    def write(self, prediction: Prediction, ranked: Sequence[tuple[str, float]]) -> None:
        file = str(prediction.path)
        if self.timeline:
            for part in prediction.segments:
                times = (f"{part.start_sec:.3f}", f"{part.end_sec:.3f}")
                self._row(file, *times, part.class_name, f"{part.probability:.6f}")
            return
        for rank, (name, probability) in enumerate(ranked, 1):
            self._row(file, str(rank), name, f"{probability:.6f}", f"{prediction.agreement:.6f}")

    def fail(self, file: Path, reason: str) -> None:
        """Standard error names it; a program counts on the columns."""

    def _row(self, *cells: str) -> None:
        csv.writer(self.out, lineterminator="\n").writerow(cells)


WRITERS: dict[str, type[Writer]] = {"table": Table, "json": Json, "csv": Csv}


def _shortened(text: str, width: int) -> str:
    """The end of a text that is too long: of a path what tells it from its neighbours."""
    return text if len(text) <= width else f"...{text[3 - width :]}"
