"""W&B's service is killed, or stopped, while a run logs offline."""

import os
import signal

import pytest
from legs import Config, Run, at_steps, find_children

from mvit_train import wandb_run


def strike_service(disturbed: Run, number: signal.Signals, step: int):
    """Sends W&B's service a signal at a step; its process id is written down."""

    def settle(rank: int) -> None:
        wandb_run.FINISH_SEC = 3.0

        def act(module, batch_idx) -> None:
            if rank == 0 and module.global_step == step:
                (service,) = find_children("wandb-core")
                (disturbed.notes / "service").write_text(str(service))
                os.kill(service, number)

        at_steps(act)

    return settle


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["SIGKILL", "SIGSTOP"])
def test_the_service_is_lost_and_the_run_does_not_mind(
    run, expected, ends_as_expected, ledger, rng, share, number, processes
):
    for _ in range(share(3)):
        with ledger.run(f"W&B's service: {number.name}") as row:
            disturbed = run(Config(processes, 0, ("logger.wandb=offline", "logger.media_clips=2")))
            disturbed.settle = strike_service(disturbed, number, rng.randrange(10))
            try:
                assert disturbed.leg() == [0] * processes, disturbed.logs[-1].read_text()[-3000:]
                row.faults += 1
            finally:
                service = int((disturbed.notes / "service").read_text())
                if os.path.exists(f"/proc/{service}"):
                    os.kill(service, signal.SIGKILL)
            printed = disturbed.logs[-1].read_text()
            assert printed.count("W&B is left alone from here on") == 1
            assert "Traceback" not in printed
            ends_as_expected(disturbed, like=expected(Config(processes, 0)))
