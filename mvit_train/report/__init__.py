"""`task=report`: the numbers and page of evaluations once more, from their predictions, and compared.

predictions.save_predictions -> predictions.npz -> write_metrics -> metrics.json -> write_report -> report.html
"""

from pathlib import Path

from mvit_train.predictions import load_predictions
from mvit_train.report.comparison import compare
from mvit_train.report.metrics_file import PREDICTIONS, write_metrics
from mvit_train.report.page import write_report
from mvit_train.report.summary import print_summary

__all__ = ["print_summary", "run", "write_metrics", "write_report"]


def run(cfg) -> None:
    """Writes metrics.json and report.html of every `input` again; several are compared in a table, also in `output`."""
    sources = [cfg.input] if isinstance(cfg.input, str) else list(cfg.input)
    folders = [evaluation_folder(Path(source)) for source in sources]
    found = []
    for folder in folders:
        found.append(write_metrics(folder))
        write_report(folder)
    if len(folders) == 1:
        print_summary(found[0], folders[0])
    text = compare([str(folder) for folder in folders], found, [load_predictions(f / PREDICTIONS) for f in folders])
    if len(folders) > 1:
        print(text)
    if cfg.output:
        Path(cfg.output).write_text(text + "\n", encoding="utf-8")
        print(f"  {cfg.output}")


def evaluation_folder(source: Path) -> Path:
    """The folder of an evaluation: of a run, of task=evaluate in one, or of a predictions.npz. ValueError: no such."""
    folder = source.parent if source.name == PREDICTIONS else source
    if not (folder / PREDICTIONS).is_file():
        inside = sorted(str(file.parent) for file in folder.glob(f"*/{PREDICTIONS}"))
        hint = f"; there is one in {', '.join(inside)}" if inside else ""
        raise ValueError(f"input: {source}: there is no {PREDICTIONS}, which an evaluation leaves{hint}")
    return folder
