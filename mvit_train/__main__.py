"""The only entry point: `python -m mvit_train [task=...] [experiment=...] [key=value ...]`.

Composes and checks the configuration, seeds, and runs the named task. torch and lightning are imported only once there
is work for them: `--help` is quick, and processes that import this file again, as data workers do, do nothing.
"""

import signal

if __name__ == "__main__":  # before anything takes time: the cluster may ask a run to leave while it still starts
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)

import ast
import errno
import importlib
import importlib.metadata
import logging
import re
import sys
import textwrap
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from mvit_train import launch
from mvit_train.config import ConfigError, check, compose, conf_dir, to_yaml
from mvit_train.redaction import CleanFormatter, clean
from mvit_train.schema import NEED_A_MODEL, Config
from mvit_train.sweep import sweep

OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
INDENTED: dict[str, Any] = dict(initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
TASKS: tuple[str, ...] = get_args(Config.__annotations__["task"])
SHARED = ("train", "evaluate")  # tasks that several devices do together

USAGE = """\
Usage: python -m mvit_train [task=TASK] [experiment=NAME] [KEY=VALUE ...]

Tasks
{tasks}

Experiments
{experiments}

Often set
  data.root=/data/k400 data.batch_size=8    your videos: train.csv and val.csv, or class folders
  data.num_workers=8                        decoding processes for each training process
  trainer.max_epochs=30 trainer.devices=8 trainer.precision=bf16-mixed
  optim.lr=1e-3 model.drop_path_rate=0.1    any argument of what a node's _target_ names
  run_id=a                                  the run folder is runs/NAME/a; the same again resumes
  ckpt=runs/NAME/a views=5x3                task=evaluate: a run or file, and clips x crops
  weights=mvit_v2_s.pth                     start from, or evaluate, published weights

Flags
  -m: a run of each value, as in seed=0,1; --cfg job: show the configuration; --traceback; --version"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line and returns the exit code: 0, 1 for a task that failed, 2 for mistakes in what was asked."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "-h" in arguments or "--help" in arguments:
        print(usage())
        return 0
    if "--version" in arguments:
        print(f"mvit_train {_version()}")
        return 0
    show_traceback = _take(arguments, "--traceback")
    try:
        show_config = _take(arguments, "--cfg", "job") or _take(arguments, "--cfg=job")
        several = _take(arguments, "-m") or _take(arguments, "--multirun")
        if flags := [argument for argument in arguments if argument.startswith("-")]:
            raise ConfigError([_explain_flag(flag) for flag in flags])
        if several and show_config:
            raise ConfigError(["-m: --cfg job prints the configuration of one run"])
        if several:
            return sweep(arguments, configured, ["--traceback"] * show_traceback)
        if show_config:
            return print_config(arguments)
        return run(arguments, ["--traceback"] * show_traceback)
    except (KeyboardInterrupt, SystemExit) as stop:  # Lightning turns an interruption into sys.exit(1)
        if isinstance(stop, SystemExit) and not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        print("\nmvit_train: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if launch.one_of_several():
            launch.leave(error, brief=_is_for_the_user(error) and not show_traceback)
        if show_traceback or not _is_for_the_user(error):
            raise
        print(f"mvit_train: {clean(str(error))}", file=sys.stderr)
        if isinstance(error, ConfigError):
            print("Nothing was started. See python -m mvit_train --help", file=sys.stderr)
            launch.tell_batch_script("MISTAKE")
            return 2
        print("(--traceback shows where this comes from)", file=sys.stderr)
        return 1


def run(overrides: Sequence[str], flags: Sequence[str] = ()) -> int:
    """Composes, checks, seeds, and runs the task. A task returns an exit code, or None for 0.

    What several devices share runs in a process for each, started with these overrides and flags.
    """
    launch.follow_parent()
    warnings.filterwarnings("ignore", module=r"lightning\.|torch\.utils\.data|torch\.jit")
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view")  # of the class token: 96 numbers
    cfg = configured(overrides)
    from lightning import seed_everything

    quieten()
    if cfg.task in SHARED and (number := launch.num_to_start(cfg.trainer)):
        from mvit_train.checkpoint import run_folder

        run_folder(Path(cfg.runs), cfg.name, cfg.run_id)  # one for all
        return launch.start([sys.executable, "-m", "mvit_train", *flags, *overrides], number)
    seed_everything(cfg.seed, workers=True, verbose=False)
    return importlib.import_module(f"mvit_train.{cfg.task}").run(cfg) or 0


def configured(overrides: Sequence[str]) -> Any:
    """The configuration, checked."""
    cfg = compose(overrides)
    if cfg.task in NEED_A_MODEL and isinstance(cfg.ckpt, str) and Path(cfg.ckpt).exists():
        cfg = compose(overrides, saved=_saved_config(Path(cfg.ckpt)))
    check(cfg)
    return cfg


def quieten() -> None:
    """Our own messages only: Lightning's, once it is imported, advertise and repeat what the summary says."""
    handler = logging.StreamHandler()
    handler.setFormatter(CleanFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _saved_config(ckpt: Path) -> dict[str, Any]:
    from mvit_train.checkpoint import read_checkpoint, resolve_checkpoint, saved_config

    source = resolve_checkpoint(ckpt)
    return saved_config(read_checkpoint(source), source)


def print_config(overrides: Sequence[str]) -> int:
    """Prints the configuration as YAML, then whatever is wrong with it."""
    cfg = compose(overrides)
    try:
        text = to_yaml(cfg)
    except ValueError:  # an interpolation that cannot be resolved; check() names it
        text = to_yaml(cfg, resolve=False)
    print(text, end="")
    sys.stdout.flush()
    check(cfg)
    return 0


def usage() -> str:
    """The help text: one screen."""
    package = Path(__file__).parent
    tasks = {task: _first_sentence(package, task) for task in TASKS}
    files = sorted((conf_dir() / "experiment").glob("*.yaml"))
    published = [file for file in files if re.search("arXiv", _head(file))]
    own = {file.stem: _first_comment(file) for file in files if file not in published}
    names = textwrap.fill("of the papers: " + " ".join(file.stem for file in published), 100, **INDENTED)
    return USAGE.format(tasks=_table(tasks), experiments=f"{_table(own)}\n{names}")


def _version() -> str:
    try:
        return importlib.metadata.version("mvit_train")
    except importlib.metadata.PackageNotFoundError:
        return "from a folder that is not installed"


def _first_sentence(package: Path, task: str) -> str:
    module = package / f"{task}.py"
    module = module if module.exists() else package / task / "__init__.py"
    docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0].removeprefix(f"`task={task}`: ")


def _head(file: Path) -> str:
    """The comments of an experiment."""
    return "\n".join(line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#"))


def _first_comment(file: Path) -> str:
    comments = [line[1:].strip() for line in _head(file).splitlines()]
    return next((comment for comment in comments if not comment.startswith("@package")), "")


def _table(rows: dict[str, str], width: int = 100) -> str:
    indent = max(map(len, rows), default=0) + 4
    lines = []
    for name, sentence in rows.items():
        room = width - indent
        lines.append(f"  {name:{indent - 2}}{sentence if len(sentence) <= room else sentence[: room - 3] + '...'}")
    return "\n".join(lines)


def _take(arguments: list[str], *words: str) -> bool:
    """Removes consecutive words from the arguments, and tells whether they were there."""
    for i in range(len(arguments) - len(words) + 1):
        if tuple(arguments[i : i + len(words)]) == words:
            del arguments[i : i + len(words)]
            return True
    return False


def _explain_flag(flag: str) -> str:
    if flag.startswith("--cfg"):
        return f"{flag}: write --cfg job"
    key = flag.lstrip("-").partition("=")[0]
    return f"{flag}: is no flag; settings have no dashes, {key}=VALUE"


def _is_for_the_user(error: Exception) -> bool:
    """Whether the message is meant to be read without a traceback: our own exceptions, and ValueErrors we raise."""
    if type(error).__module__.startswith("mvit_train.") or getattr(error, "errno", None) in OF_THE_DISK:
        return True
    frames = list(traceback.walk_tb(error.__traceback__))
    raised_in = frames[-1][0].f_globals.get("__name__", "")
    return isinstance(error, ValueError) and (raised_in == "__main__" or raised_in.startswith("mvit_train."))


if __name__ == "__main__":
    sys.exit(main())
