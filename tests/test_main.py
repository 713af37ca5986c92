"""The command line, as a user meets it."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import mvit_train.__main__ as entry

ROOT = Path(entry.__file__).parents[1]
EXPERIMENTS = sorted(file.stem for file in (ROOT / "conf" / "experiment").glob("*.yaml"))

LIGHTNING_INTERRUPTED = """
    try: raise KeyboardInterrupt
    except KeyboardInterrupt: import sys; sys.exit(1)
"""


def fake_task(monkeypatch, source: str) -> None:
    """Puts a module that does `source` in the place of the training task."""
    cfg = SimpleNamespace(task="train", seed=0, ckpt=None, trainer={"accelerator": "cpu", "devices": 1})
    monkeypatch.setattr(entry, "compose", lambda overrides: cfg)
    monkeypatch.setattr(entry, "check", lambda cfg: None)
    task = ModuleType("mvit_train.train")
    exec(f"def run(cfg):\n    {source}", task.__dict__)
    monkeypatch.setitem(sys.modules, "mvit_train.train", task)


@pytest.mark.parametrize(
    ("source", "code", "text"),
    [
        ("pass", 0, ""),
        ("raise ValueError('too big')", 1, "mvit_train: too big"),
        ("raise KeyboardInterrupt", 130, "interrupted"),
        (
            "\n    try: raise KeyboardInterrupt\n    except KeyboardInterrupt: import sys; sys.exit(1)",
            130,
            "interrupted",
        ),
    ],
)
def test_the_exit_code_tells_what_happened(monkeypatch, capsys, source, code, text):
    fake_task(monkeypatch, source)
    assert entry.main(["seed=3"]) == code
    assert text in capsys.readouterr().err


def test_an_error_that_is_not_the_users_keeps_its_traceback(monkeypatch):
    fake_task(monkeypatch, "import json; json.loads('{')")
    with pytest.raises(ValueError, match="Expecting property name"):
        entry.main([])
    fake_task(monkeypatch, "raise ValueError('too big')")
    with pytest.raises(ValueError, match="too big"):
        entry.main(["--traceback"])


def command_line(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mvit_train", *arguments]
    return subprocess.run(command, cwd=cwd, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)


def test_help_fits_a_screen_and_names_tasks_and_experiments(tmp_path):
    done = command_line("--help", cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert len(lines) <= 36
    assert max(map(len, lines)) <= 100
    assert EXPERIMENTS
    assert {"train", "evaluate", *EXPERIMENTS} <= set(done.stdout.split())


def test_help_does_not_import_torch():
    code = "import sys; from mvit_train.__main__ import main; main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False).returncode == 0


def test_three_mistakes_make_one_error_without_traceback(tmp_path):
    done = command_line("model.drop_path_rat=0.1", "optim.lr=abc", "data.root=/nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert "3 mistakes" in done.stderr
    assert "did you mean model.drop_path_rate?" in done.stderr
    assert "optim.lr = abc: must be float" in done.stderr
    assert "data.root = /nowhere" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())  # nothing was started


def test_the_configuration_can_be_printed_from_any_folder(tmp_path):
    done = command_line("--cfg", "job", f"data.root={tmp_path}", "clip.num_frames=4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "num_frames: 4" in done.stdout
    assert "${" not in done.stdout


@pytest.mark.parametrize("flag", ["--lr", "--cfg", "-x"])
def test_an_unknown_flag_is_refused(flag, tmp_path):
    done = command_line(flag, cwd=tmp_path)
    assert done.returncode == 2
    assert flag in done.stderr
    assert "Traceback" not in done.stderr
