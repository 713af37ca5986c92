"""`python -m mvit_train -m seed=0,1 ...`: a sweep, one run for each combination of values. docs/sweeps.md

Hydra's launcher decides where the jobs run: one after the other here, or by submitit on a cluster. Each is a process of
its own with a command line of its own, composed and checked as any other (`mvit_train.sweep_job`). The result of a
sweep is read from its files, so that it can be shown again: python -m mvit_train.sweep runs/sweeps/NAME
"""

import importlib.util
import itertools
import json
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from mvit_train.config import ConfigError, conf_dir
from mvit_train.sweep_job import DONE, Job, Jobs, outcome_file

MAX_NAME = 100  # characters of a run id; with the name before it, W&B allows 128
JOBS = "jobs.json"

Values = list[list[tuple[str, bool]]]
"""Of each override of a command line, its alternatives, and whether there are several."""


def sweep(arguments: Sequence[str], configured: Callable[[Sequence[str]], Any], flags: Sequence[str] = ()) -> int:
    """Runs a command line in which overrides may have several values. 0: all jobs did what they were asked to, else 1.

    configured: composes and checks the configuration of a job. Every job's is, before the first starts.
    flags: of all command lines.

    Raises:
        ConfigError: all mistakes of all jobs, and those about Hydra's own settings.
    """
    hydra_lines, values, mistakes = parse(arguments)
    name, values = _take_run_id(values, mistakes)
    cfgs = [configuration for lines in combinations(values) if (configuration := _try(configured, lines, mistakes))]
    mistakes += _launcher_mistakes(hydra_lines)
    if mistakes:
        raise ConfigError(list(dict.fromkeys(mistakes)))
    folder = reserve(Path(cfgs[0].runs) / "sweeps", name)
    jobs = list(plan(values, cfgs, folder.name))
    _save(jobs, folder)
    again = f"python -m mvit_train.sweep {folder}"
    print(f"sweep {folder.name}: {len(jobs)} jobs; the result again, or so far: {again}", flush=True)
    failure = launch(jobs, folder, hydra_lines, flags)
    print(f"\n{result(folder)}")
    if failure:
        print(f"mvit_train: {failure}", file=sys.stderr)
    return 0 if all(_outcome(folder, job) == DONE for job in jobs) else 1


def parse(arguments: Sequence[str]) -> tuple[list[str], Values, list[str]]:
    """The overrides of Hydra's own settings, the alternatives of all others, and mistakes. What cannot be parsed is
    left to those who compose the configuration."""
    hydra_lines: list[str] = []
    values: Values = []
    mistakes: list[str] = []
    with hydra.initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())
        for line in arguments:
            try:
                (override,) = parser.parse_overrides([line])  # it alone knows conf/, for glob()
            except HydraException:
                values.append([(line, False)])
                continue
            key = override.get_key_element()
            if override.is_hydra_override():
                hydra_lines.append(line)
            elif not override.is_sweep_override():
                values.append([(line, False)])
            elif override.is_discrete_sweep():
                values.append([(f"{key}={value}", True) for value in override.sweep_string_iterator()])
            else:
                mistakes.append(f"{line}: name the values, {key}=1,2, or {key}=range(1,5)")
    return [*_launcher_settings(hydra_lines), *hydra_lines], values, mistakes


def combinations(values: Values) -> list[list[str]]:
    """The command lines of all jobs, the last override varying fastest."""
    return [[line for line, _ in chosen] for chosen in itertools.product(*values)]


def plan(values: Values, cfgs: Sequence[Any], sweep_name: str) -> Iterator[Job]:
    """The jobs. Each has a run folder named after the sweep and what the job varies, and the sweep is its W&B group."""
    taken: set[str] = set()
    for number, (chosen, cfg) in enumerate(zip(itertools.product(*values), cfgs, strict=True)):
        swept = [line for line, varies in chosen if varies]
        run_id = _unique(run_name(sweep_name, swept), taken)
        overrides = [line for line, _ in chosen] + [f"run_id={run_id}"]
        if cfg.logger.get("group") is None:
            overrides.append(f"logger.group={sweep_name}")
        yield Job(number, swept, overrides, Path(cfg.runs) / cfg.name / run_id)


def run_name(sweep_name: str, swept: Sequence[str]) -> str:
    """pilot, ["optim.lr=1e-3", "model.kv_stride=[1,4,4]"] -> pilot-lr_1e-3-kv_stride_1_4_4"""
    keys = [line.partition("=")[0].lstrip("+") for line in swept]
    last = [key.split(".")[-1] for key in keys]
    short = [word if last.count(word) == 1 else key for key, word in zip(keys, last, strict=True)]
    values = [re.sub(r"[^\w.+-]+", "_", line.partition("=")[2]).strip("_") for line in swept]
    return "-".join([sweep_name, *(f"{key}_{value}" for key, value in zip(short, values, strict=True))])


def reserve(sweeps: Path, name: str | None) -> Path:
    """The folder of a sweep, by its name, or a new one named after the time, which no other process gets."""
    if name is not None:
        (sweeps / name).mkdir(parents=True, exist_ok=True)
        return sweeps / name
    now = time.strftime("%Y%m%d-%H%M%S")
    for number in itertools.count(1):
        folder = sweeps / (now if number == 1 else f"{now}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise AssertionError


def launch(jobs: Sequence[Job], folder: Path, hydra_lines: Sequence[str], flags: Sequence[str] = ()) -> str | None:
    """Runs all jobs by Hydra's launcher and waits for them. Returns why the launcher gave up, if it did: a job may have
    been killed, and others may still be waiting for their turn."""
    lines = [*hydra_lines, f"job=range({len(jobs)})", f"hydra.sweep.dir={_quoted(str(folder))}"]
    with hydra.initialize_config_dir(config_dir=str(conf_dir()), job_name=f"sweep-{folder.name}", version_base="1.3"):
        application = GlobalHydra.instance().hydra
        assert application is not None
        try:
            application.multirun("sweep", Jobs(folder, list(jobs), list(flags)), lines, with_log_configuration=False)
        except Exception as error:  # of submitit, or of sbatch
            return f"the launcher gave up: {error}"
    return None


def result(folder: Path) -> str:
    """A line for each job, its accuracy with the 95 % interval or how it ended, and the command that compares them.

    ValueError: the folder is not that of a sweep.
    """
    jobs = _load(folder)
    outcomes = [_outcome(folder, job) for job in jobs]
    names = [" ".join(job.swept) or "-" for job in jobs]
    found = [_score(job) or DONE if outcome == DONE else outcome for job, outcome in zip(jobs, outcomes, strict=True)]
    widths = max(map(len, names)), max(map(len, found))
    lines = [f"sweep {folder.name}: {outcomes.count(DONE)} of {len(jobs)} jobs done"]
    for name, text, job in zip(names, found, jobs, strict=True):
        lines.append(f"  {name:{widths[0]}}  {text:{widths[1]}}  {job.run_dir}")
    scored = [str(job.run_dir) for job, outcome in zip(jobs, outcomes, strict=True) if outcome == DONE and _score(job)]
    if len(scored) > 1:
        sources = f"input=[{','.join(map(_quoted, scored))}]"
        lines.append(f"compare: python -m mvit_train task=report {shlex.quote(sources)}")
    if (logs := folder / "logs").is_dir():
        lines.append(f"logs: {logs}")
    return "\n".join(lines)


def _score(job: Job) -> str | None:
    """The headline number of the evaluation that has ended a training: "top-1  98.5 % [97.0, 100.0]"."""
    file = job.run_dir / "metrics.json"
    if not file.exists():
        return None
    metrics = json.loads(file.read_text())
    order = "forward" if "forward" in metrics["orders"] else next(iter(metrics["orders"]))
    name = "mAP" if "mAP" in metrics["orders"][order] else "top1"
    low, high = metrics["intervals"][order][name]
    return f"{'top-1' if name == 'top1' else name} {metrics['orders'][order][name]:5.1f} % [{low:.1f}, {high:.1f}]"


def _outcome(folder: Path, job: Job) -> str:
    file = outcome_file(folder, job)
    return file.read_text(encoding="utf-8").strip() if file.exists() else "no result"


def _take_run_id(values: Values, mistakes: list[str]) -> tuple[str | None, Values]:
    """`run_id` names the sweep; its jobs have run ids of their own."""
    given = [alternatives for alternatives in values if alternatives[0][0].startswith("run_id=")]
    rest = [alternatives for alternatives in values if alternatives not in given]
    if not given or given[-1][0][0] in ("run_id=null", "run_id="):
        return None, rest
    name = given[-1][0][0].partition("=")[2].strip("'\"")
    if given[-1][0][1] or not re.fullmatch(r"\w[\w.+-]*", name):
        mistakes.append(f"run_id = {name}: names a sweep, by one word of letters, digits and . _ + -")
    return name, rest


def _try(configured: Callable[[Sequence[str]], Any], lines: Sequence[str], mistakes: list[str]) -> Any:
    try:
        return configured(lines)
    except ConfigError as error:
        mistakes += error.mistakes
        return None


def _launcher(hydra_lines: Sequence[str]) -> str:
    chosen = [line.partition("=")[2] for line in hydra_lines if line.startswith("hydra/launcher=")]
    return chosen[-1] if chosen else "basic"


def _launcher_settings(hydra_lines: Sequence[str]) -> list[str]:
    """The override that sets the launcher as suits these runs; those of the command line come after it."""
    launcher = _launcher(hydra_lines)
    ours = (conf_dir() / "hydra" / "launcher_settings" / f"{launcher}.yaml").exists()
    return [f"hydra/launcher_settings={launcher}"] if ours else []


def _launcher_mistakes(hydra_lines: Sequence[str]) -> list[str]:
    """What is wrong with Hydra's own settings."""
    launcher = _launcher(hydra_lines)
    if launcher.startswith("submitit") and importlib.util.find_spec("submitit") is None:
        return [f"hydra/launcher = {launcher}: submitit is not installed: pip install 'mvit_train[slurm]'"]
    with hydra.initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
        try:
            hydra.compose("sweep", [*hydra_lines, "job=0"], return_hydra_config=True)
        except (HydraException, OmegaConfBaseException) as error:
            text = str(error.__cause__ or error).partition("Config search path")[0]
            return [" ".join(text.split())]
    return []


def _save(jobs: Sequence[Job], folder: Path) -> None:
    rows = [vars(job) | {"run_dir": str(job.run_dir)} for job in jobs]
    (folder / JOBS).write_text(json.dumps(rows, indent=1), encoding="utf-8")
    for job in jobs:  # of an earlier time
        outcome_file(folder, job).unlink(missing_ok=True)


def _load(folder: Path) -> list[Job]:
    file = folder / JOBS
    if not file.is_file():
        raise ValueError(f"{folder} is no folder of a sweep, runs/sweeps/NAME: it has no {JOBS}")
    return [Job(**row | {"run_dir": Path(row["run_dir"])}) for row in json.loads(file.read_text(encoding="utf-8"))]


def _unique(name: str, taken: set[str]) -> str:
    """The name, shortened if it is too long, numbered if it is taken."""
    name = name[:MAX_NAME]
    numbered = (f"{name}-{number}" if number > 1 else name for number in itertools.count(1))
    taken.add(chosen := next(candidate for candidate in numbered if candidate not in taken))
    return chosen


def _quoted(text: str) -> str:
    """As a value of an override: quoted where Hydra would read more into it."""
    if re.fullmatch(r"[A-Za-z_./][\w./+-]*", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def main(argv: Sequence[str]) -> int:
    """Shows the result of a sweep, as far as there is one."""
    if len(argv) != 1:
        print("give the folder of a sweep: python -m mvit_train.sweep runs/sweeps/NAME", file=sys.stderr)
        return 2
    try:
        print(result(Path(argv[0])))
    except ValueError as error:
        print(f"mvit_train.sweep: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
