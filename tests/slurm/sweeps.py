"""A sweep under a real Slurm: `make test-slurm` runs it. Two jobs of two processes each train the same; one of them is
asked to leave, comes back, and must end with the weights of the other."""

import subprocess
import sys
import time

import torch

from mvit_train.checkpoint import read_checkpoint

TINY = (
    *("model.embed_dim=16", "model.blocks_per_stage=[1,1]", "model.dropout=0.3"),
    *("clip.num_frames=4", "clip.sampling_rate=2", "clip.crop_size=32", "views=1x1"),
    *("data.num_workers=0", "data.batch_size=2", "data.eval_batch_size=8", "optim.warmup_epochs=1"),
    *("logger.wandb=off", "trainer.accelerator=cpu", "checkpoints.every_steps=1"),
)
SAME = ("logger.notes=left_alone,asked_to_leave", "trainer.max_epochs=6", "trainer.devices=2", "run_id=pilot")
LAUNCHER = ("hydra/launcher=submitit_slurm", "hydra.launcher.tasks_per_node=2", "hydra.launcher.timeout_min=30")


def test_a_job_that_slurm_asks_to_leave_goes_on_to_the_same_weights(lab, folder, tmp_path, record_time):
    begin = time.monotonic()
    runs = [tmp_path / "runs" / "motion" / f"pilot-notes_{name}" for name in ("left_alone", "asked_to_leave")]
    sweep = subprocess.Popen(
        [sys.executable, "-m", "mvit_train", "-m", *LAUNCHER, *TINY, *SAME, f"data.root={folder}"],
        cwd=tmp_path,
        env=lab.environment | {"MASTER_ADDR": "127.0.0.1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        while not list(runs[1].glob("checkpoints/step_*.ckpt")):
            assert sweep.poll() is None, sweep.communicate()[0]
            time.sleep(0.05)
        jobs = lab.run("squeue", "-h", "-n", "sweep-pilot", "-o", "%i").split()
        (number,) = [number for number in jobs if number.endswith("_1")]
        lab.run("scancel", "--signal=USR2", number)
        printed = sweep.communicate(timeout=300)[0]
    finally:
        sweep.kill()
    logs = {file.name.split("_")[1]: file.read_text() for file in tmp_path.glob("runs/sweeps/pilot/logs/*/*_0_log.out")}
    assert sweep.returncode == 0, printed
    assert "sweep pilot: 2 of 2 jobs done" in printed
    assert logs["1"].count("Requeued job") == logs["1"].count("resuming from") == 1, logs["1"]
    assert "Requeued job" not in logs["0"]
    left_alone, came_back = (read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"] for run in runs)
    assert all(torch.equal(left_alone[key], value) for key, value in came_back.items())
    record_time("a sweep, one job requeued", time.monotonic() - begin)
