"""Sends a run that was logged offline to W&B: `make wandb-sync RUN=runs/motion/a`, or python -m mvit_train.wandb_sync.

Every leg of a run has written a folder of its own, all with one id; `wandb sync` takes them in the order of time.
"""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

FOLDERS = ("offline-run-*", "run-*")  # the latter of online legs that did not get to send everything


def sync_command(run_dir: Path) -> list[str]:
    """The command line that sends all legs of a run, oldest first.

    Raises:
        ValueError: the folder holds nothing to send, or legs of different runs.
    """
    legs = sorted(
        (file.parent for pattern in FOLDERS for file in run_dir.glob(f"wandb/{pattern}/run-*.wandb")), key=_started
    )
    if not legs:
        raise ValueError(f"{run_dir} holds no W&B folders (wandb/offline-run-*); RUN is a run folder: runs/NAME/RUN_ID")
    ids = {file.stem.removeprefix("run-") for leg in legs for file in leg.glob("run-*.wandb")}
    if len(ids) > 1:
        raise ValueError(f"{run_dir / 'wandb'} holds several runs: {', '.join(sorted(ids))}")
    return ["wandb", "sync", "--yes", "--include-online", "--id", ids.pop(), *map(str, legs)]


def main(argv: Sequence[str]) -> int:
    """Prints the command and runs it; its exit code, or 2 if there is nothing to send."""
    if len(argv) != 1:
        print("give one run folder: make wandb-sync RUN=runs/NAME/RUN_ID", file=sys.stderr)
        return 2
    try:
        command = sync_command(Path(argv[0]))
    except ValueError as error:
        print(f"wandb-sync: {error}", file=sys.stderr)
        return 2
    print(shlex.join(command), flush=True)
    try:
        return subprocess.run(command, check=False).returncode
    except FileNotFoundError:
        print("wandb-sync: no command `wandb` in PATH; activate .venv, or use make wandb-sync", file=sys.stderr)
        return 2


def _started(leg: Path) -> str:
    """20261123_014702 of offline-run-20261123_014702-motion-a."""
    return leg.name.removeprefix("offline-").removeprefix("run-")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
