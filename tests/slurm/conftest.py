"""A cluster of five nodes on this host: real slurmctld and slurmd, in a private folder, on loopback only."""

import getpass
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Lock

import pytest

ROOT = Path(__file__).parents[2]
SBATCH = ROOT / "conf" / "slurm"

SLURM_CONF = """\
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={port}
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=0,batch_sched_delay=0
KillWait=60
MinJobAge=3600
FirstJobId={first_job}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
MailProg=/bin/true
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
{nodes}
PartitionName=plain Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=OFF
PartitionName=grace Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=abrupt Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=8000 State=UNKNOWN"
CPUS = {"n1": 4, "n2": 4, "p1": 2, "p2": 2, "p3": 2}
"""Of the nodes; on p1 to p3 only jobs that ask for them, to be preempted there."""

POLL_SEC = 0.5

TIMES = pytest.StashKey[dict[str, float]]()


class Job:
    """A submitted job; `log` is what its batch script and processes have printed, over all starts."""

    def __init__(self, lab: "Lab", number: str, folder: Path) -> None:
        self.lab, self.number, self.folder = lab, number, folder

    def __str__(self) -> str:
        return f"job {self.number}: {self.facts}\n{self.log[-4000:]}"

    @property
    def log(self) -> str:
        return "\n".join(file.read_text(errors="replace") for file in sorted(self.folder.glob(f"slurm-{self.number}*")))

    @property
    def shown(self) -> str:
        """What Slurm says of it, a line for each task of an array."""
        ours = re.compile(rf"^(JobId={self.number} |JobId=\d+ ArrayJobId={self.number} ).*\n", re.MULTILINE)
        return "".join(match[0] for match in ours.finditer(self.lab.jobs()))

    @property
    def facts(self) -> dict[str, str]:
        """Such as JobState and Restarts, in Slurm's words."""
        return dict(re.findall(r"(\w+)=(\S*)", self.shown))

    @property
    def state(self) -> str:
        return self.facts["JobState"]

    @property
    def restarts(self) -> int:
        return int(self.facts["Restarts"])

    @property
    def processes(self) -> list[Path]:
        """/proc of everything that runs for it, batch script and srun included."""
        return self.lab.processes_with(f"SLURM_JOB_ID={self.number}")

    def until(self, what: str, is_so: Callable[[], object], timeout_sec: float = 300) -> None:
        """Waits for something; fails with the job's log if it does not come. Time in the queue does not count.

        What is asked of Slurm after it is not older than it.
        """
        until = last = time.monotonic()
        until += timeout_sec
        while not is_so():
            now = time.monotonic()
            until, last = until + (now - last if self.state == "PENDING" else 0), now
            assert time.monotonic() < until, f"not within {timeout_sec:g} s: {what}\n{self}\n{self.lab.log}"
            assert what == OVER or self.state not in ENDED, f"it has ended without {what}\n{self}"
            time.sleep(POLL_SEC / 5)
        self.lab.forget_jobs()

    def until_end(self, state: str = "COMPLETED", timeout_sec: float = 400) -> None:
        """Waits until it is over, which must be in this state."""
        self.until(OVER, lambda: self.state in ENDED, timeout_sec)
        assert self.state == state, str(self)

    def until_printed(self, pattern: str, times: int = 1, timeout_sec: float = 300) -> None:
        self.until(f"{times} x {pattern}", lambda: len(re.findall(pattern, self.log)) >= times, timeout_sec)

    def ask(self, name: str) -> None:
        """By Slurm, to all processes of its steps, not to the batch script."""
        self.lab.run("scancel", f"--signal={name}", self.number)

    def kill(self, number: signal.Signals, variable: str = "SLURM_STEP_ID=") -> None:
        """Behind Slurm's back, to all processes of its step that have `variable` in their environment."""
        for process in self.processes:
            if any(line.startswith(variable) for line in environment(process)):
                end(process, number)


OVER = "its end"
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY")


class Lab:
    """The cluster, started and stopped by process id.

    Args:
        folder: everything of it is below.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.config, self.is_up = folder, folder / "slurm.conf", False
        self._lock, self._jobs, self._asked = Lock(), "", 0.0
        self.variables = {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}  # of every job
        for name in ("state", "log", "run", "spool"):
            (folder / name).mkdir(parents=True)
        ports = free_ports(1 + len(CPUS))
        host = socket.gethostname().partition(".")[0]
        nodes = [
            NODE.format(name=name, host=host, port=port, cpus=cpus)
            for (name, cpus), port in zip(CPUS.items(), ports[1:], strict=True)
        ]
        first_job = random.SystemRandom().randrange(1000, 60_000_000)  # Lightning's port is of its last four digits
        self.config.write_text(
            SLURM_CONF.format(
                folder=folder,
                host=host,
                user=getpass.getuser(),
                port=ports[0],
                nodes="\n".join(nodes),
                first_job=first_job,
            )
        )
        self.daemons = {
            folder / "run" / "slurmctld.pid": ["slurmctld", "-f", str(self.config)],
            **{folder / "run" / f"slurmd-{n}.pid": ["slurmd", "-f", str(self.config), "-N", n] for n in CPUS},
        }

    @property
    def log(self) -> str:
        return "\n".join(file.read_text(errors="replace")[-2000:] for file in sorted((self.folder / "log").glob("*")))

    def start(self) -> None:
        """Until all nodes are idle."""
        for command in self.daemons.values():
            binary = shutil.which(command[0], path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
            assert binary, f"{command[0]} is not installed: make test-slurm installs it"
            subprocess.run([binary, *command[1:]], env=self.environment, check=True, timeout=30)
        self.is_up = True
        until = time.monotonic() + 30
        while set(self.run("sinfo", "-h", "-N", "-o", "%N %T").splitlines()) != {f"{name} idle" for name in CPUS}:
            assert time.monotonic() < until, f"no idle nodes\n{self.log}"
            time.sleep(0.1)

    def stop(self) -> None:
        """Ends all daemons, and what is left of their jobs."""
        self.is_up = False
        for pid_file in self.daemons:
            if pid_file.exists():
                end(Path("/proc", pid_file.read_text().strip()), signal.SIGTERM)
        until = time.monotonic() + 10
        while any(file.exists() for file in self.daemons) and time.monotonic() < until:
            time.sleep(0.05)
        for process in self.processes_with(f"SLURM_CONF={self.config}"):
            end(process, signal.SIGKILL)

    def processes_with(self, variable: str) -> list[Path]:
        """/proc of the processes with this variable and value in their environment."""
        return [process for process in Path("/proc").glob("[0-9]*") if variable in environment(process)]

    def run(self, *command: str, cwd: Path | None = None, **variables: str) -> str:
        """A command of Slurm; what it prints."""
        assert self.is_up, "the lab has been stopped"
        done = subprocess.run(
            command, cwd=cwd, env=self.environment | variables, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stderr}\n{self.log}"
        return done.stdout

    @property
    def environment(self) -> dict[str, str]:
        """Of a user on the login node, with the environment of these tests activated."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "MVIT_"))}
        path = f"{Path(sys.executable).parent}:{ours['PATH']}"
        return ours | {"PATH": path, "SLURM_CONF": str(self.config)} | self.variables

    def jobs(self) -> str:
        """All that Slurm says of all jobs, at most `POLL_SEC` ago: every question to it is a process."""
        with self._lock:
            if time.monotonic() > self._asked + POLL_SEC:
                self._jobs = self.run("scontrol", "show", "jobs", "--oneliner")
                self._asked = time.monotonic()
            return self._jobs

    def forget_jobs(self) -> None:
        """The next question about jobs goes to Slurm."""
        with self._lock:
            self._asked = 0.0

    def submit(self, folder: Path, file: str, *arguments: str, flags: tuple[str, ...] = (), **variables: str) -> Job:
        """`sbatch [flags] conf/slurm/<file> [arguments]` in a folder."""
        number = self.run("sbatch", "--parsable", *flags, str(SBATCH / file), *arguments, cwd=folder, **variables)
        self.forget_jobs()
        return Job(self, number.strip(), folder)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def environment(process: Path) -> list[str]:
    """NAME=value of a process; empty if it is gone or another user's."""
    try:
        return (process / "environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def end(process: Path, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(int(process.name), number)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The cluster, for all tests; it is stopped whatever happens, also on SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cluster = Lab(tmp_path_factory.mktemp("lab"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def record_time(request: pytest.FixtureRequest) -> Callable[[str, float], None]:
    """`record_time(what, seconds)`: the run ends with a table of them."""

    def record(what: str, seconds: float) -> None:
        request.config.stash.setdefault(TIMES, {})[what] = seconds

    return record


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--requeues", type=int, default=0, help="requeue one job so often; takes a quarter of a minute each"
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if times := config.stash.get(TIMES, {}):
        terminalreporter.section("scenarios, seconds from submission to end; at the same time")
        for what, seconds in times.items():
            terminalreporter.write_line(f"{seconds:6.0f}  {what}")
