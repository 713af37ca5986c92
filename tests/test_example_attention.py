"""Where the model looks in the examples of a report, from an evaluation to the files and the page."""

import json
import re
import shutil

import av
import pytest
from tiny import TINY

from mvit_train.__main__ import main
from mvit_train.predictions import load_predictions
from mvit_train.report.examples import choose_clips

HERE = ["trainer.accelerator=cpu", "trainer.devices=1", "data.num_workers=0"]
SETTINGS = [*TINY, "views=2x1", "data.batch_size=2", "trainer.max_steps=1", "optim.warmup_epochs=0"]


@pytest.mark.usefixtures("own_environment")
def test_two_examples_of_each_group_show_where_the_model_looks(tmp_path, video):
    root = tmp_path / "videos"
    for split, count in (("train", 1), ("val", 8)):
        for name, first in (("low", 0), ("high", 2048)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                shutil.copy(video("a.mp4", 20 + i, first_index=first + i), folder / f"{i}.mp4")
    assert main([*SETTINGS, f"data.root={root}", f"runs={tmp_path}", "run_id=a"]) == 0
    run_dir = tmp_path / "motion" / "a"
    folder = run_dir / "evaluate-2x1-all"
    (folder / "attention").mkdir(parents=True)
    (folder / "attention" / "99.mp4").write_bytes(b"left by an earlier evaluation")
    assert main(["task=evaluate", f"ckpt={run_dir}", f"runs={tmp_path}", *HERE]) == 0
    chosen = choose_clips(load_predictions(folder / "predictions.npz"))
    groups = {group: [row for other, row in chosen if other == group] for group, _ in chosen}
    wanted = {row for rows in groups.values() for row in rows[:2]}
    assert {int(file.stem) for file in (folder / "attention").iterdir()} == wanted
    assert len(wanted) >= 3
    for file in (folder / "attention").iterdir():
        with av.open(str(file)) as container:
            sizes = {(frame.width, frame.height) for frame in container.decode(video=0)}
        assert sizes == {(512, 256)}  # the clip, and beside it the clip with heat
    page = (folder / "report.html").read_text()
    clips = json.loads(re.search(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)[1])[
        "clips"
    ]
    assert sum("attention" in clip for clip in clips) == len(wanted)
