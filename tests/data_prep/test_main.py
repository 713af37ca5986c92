import subprocess
import sys
from pathlib import Path

COMMANDS = ["charades", "folder", "hmdb51", "imagenet", "kinetics", "ssv2", "ucf101", "videos"]


def test_the_package_lists_its_commands():
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-m", "data_prep"], cwd=root, capture_output=True, text=True, check=True, timeout=60
    )
    lines = [line.split(None, 1) for line in result.stdout.splitlines()[2:]]
    assert set(COMMANDS) <= {name for name, _ in lines}
    assert all(len(sentence) > 20 for _, sentence in lines)


def test_a_command_that_is_only_asked_for_help_loads_no_torch():
    code = "import sys, data_prep.kinetics; print('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.strip() == "False"
