"""The file of numbers that a run keeps over all its legs, whatever interrupts them."""

import csv
import errno
import os

import pytest

from mvit_train import metrics_log
from mvit_train.metrics_log import MAX_WAITING, MetricsLog


def rows(run_dir):
    return [(row["step"], row["a"], row.get("b")) for row in csv.DictReader((run_dir / "metrics.csv").open())]


def test_a_run_that_goes_on_does_so_in_the_file_it_finds(tmp_path):
    first = MetricsLog(tmp_path)
    first.log_metrics({"a": 2.0}, step=0)
    first.save()
    second = MetricsLog(tmp_path)
    second.log_metrics({"a": 1.0, "b": 50.0}, step=1)
    second.finalize("success")
    second.log_metrics({"b": 3.0}, step=2)
    second.save()
    assert rows(tmp_path) == [("0", "2.0", ""), ("1", "1.0", "50.0"), ("2", "", "3.0")]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.csv"]


def test_rows_are_written_by_themselves_after_a_while(tmp_path):
    log = MetricsLog(tmp_path)
    for step in range(MAX_WAITING + 1):
        log.log_metrics({"a": 1.0}, step=step)
    assert len(rows(tmp_path)) == MAX_WAITING


@pytest.mark.parametrize("end", ["2,0.", "2", "2,0.5,"])
def test_half_a_row_that_a_killed_run_has_left_is_taken_out(tmp_path, end):
    (tmp_path / "metrics.csv").write_text("step,a,b\n0,2.0,\n1,1.0,\n" + end)
    log = MetricsLog(tmp_path)
    log.log_metrics({"a": 0.5}, step=2)
    log.save()
    assert rows(tmp_path) == [("0", "2.0", ""), ("1", "1.0", ""), ("2", "0.5", "")]


@pytest.mark.parametrize("new_column", [False, True])
def test_on_a_full_disk_nothing_is_lost_and_rows_wait_for_room(tmp_path, monkeypatch, caplog, new_column):
    log = MetricsLog(tmp_path)
    log.log_metrics({"a": 2.0}, step=0)
    log.save()

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(metrics_log, "append", full)
        patch.setattr(metrics_log, "replace_file", full)
        for step in (1, 2):
            log.log_metrics({"a": 1.0} | ({"b": 4.0} if new_column else {}), step=step)
            log.save()
    assert caplog.text.count("rows wait until they can be written: [Errno 28] No space left on device") == 1
    assert rows(tmp_path) == [("0", "2.0", None)]
    log.save()
    b = ("", "4.0") if new_column else (None, None)
    assert rows(tmp_path) == [("0", "2.0", b[0]), ("1", "1.0", b[1]), ("2", "1.0", b[1])]
