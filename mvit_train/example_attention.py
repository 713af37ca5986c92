"""Where a model looks in the example videos of its report: attention/<row>.mp4 in the folder of an evaluation."""

import shutil
from collections import Counter
from pathlib import Path

from mvit_train.data.datamodule import VideoDataModule
from mvit_train.data.stream import DecodeError
from mvit_train.models import MViT
from mvit_train.module import VideoClassifier
from mvit_train.prediction.attention import write_attention
from mvit_train.predictions import load_predictions
from mvit_train.report.examples import ATTENTION_FOLDER, choose_clips
from mvit_train.report.metrics_file import PREDICTIONS

CLIPS_PER_GROUP = 2  # a rollout of a large model takes seconds


def write_example_attention(module: VideoClassifier, data: VideoDataModule, run_dir: Path) -> None:
    """One central view of the first examples of each group; what an earlier evaluation left there is removed."""
    shutil.rmtree(run_dir / ATTENTION_FOLDER, ignore_errors=True)
    if not isinstance(module.model, MViT):
        return
    predictions = load_predictions(run_dir / PREDICTIONS)
    module.eval()
    taken: Counter[str] = Counter()
    for group, row in choose_clips(predictions):
        taken[group] += 1
        if taken[group] > CLIPS_PER_GROUP:
            continue
        video = Path(predictions.info["data_root"]) / predictions.video_ids[row]
        try:
            write_attention(module, data, video, run_dir / ATTENTION_FOLDER / f"{row}.mp4", views="1x1")
        except DecodeError:
            continue  # its place in the page says why it cannot be shown
