"""One process at a time runs in a folder, and a process that is killed leaves no lock behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from selfmask.errors import RunError
from selfmask.run.folder import RunFolder

HOLDER = """
import sys, time
from pathlib import Path
from selfmask.run.folder import RunFolder
with RunFolder(Path(sys.argv[1])).held():
    print("held", flush=True)
    time.sleep(600)
"""


def test_two_processes_do_not_run_in_one_folder_and_a_kill_frees_it(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    started = [sys.executable, "-c", HOLDER, str(folder.path)]
    with subprocess.Popen(started, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            with pytest.raises(RunError, match="another process is running"), folder.held():
                pass
        finally:
            other.send_signal(signal.SIGKILL)
    with folder.held():  # the file of the lock is still there; the lock is not
        folder.open({"data": "digits"}, resume=False)
    with folder.held():
        folder.open({"data": "digits"}, resume=True)


def test_all_settings_that_differ_are_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.open({"data": "digits", "epochs": 3.0, "steps": None}, resume=False)
    said = r"other settings \(epochs: 3.0 there, not given here; steps: not given there, 60 here\)"
    with pytest.raises(RunError, match=said):
        folder.open({"data": "digits", "epochs": None, "steps": 60}, resume=True)
    folder.open({"data": "digits", "epochs": 3.0, "steps": None}, resume=True)
    with pytest.raises(
        RunError, match=r"\(epochs: 3.0 there, not given here\)"
    ):  # a cascade's, to a run without
        folder.open({"data": "digits", "steps": None}, resume=True)


def test_another_spelling_of_the_same_data_is_no_other_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("photos", "others"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    folder = RunFolder(tmp_path / "run")
    with folder.held():
        folder.open({"data": "flat:photos"}, resume=False)
        for data in ("flat:photos/", "flat:./photos", f"flat:{tmp_path}/photos"):
            folder.open({"data": data}, resume=True)
        for data in ("photos", "flat:others", "flat:gone"):
            with pytest.raises(RunError, match="other settings"):
                folder.open({"data": data}, resume=True)


def test_a_run_that_was_stopped_before_its_training_can_go_on(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(RunError, match="name the folder of a finished run"):
        folder.mask()
    folder.open({"data": "digits"}, resume=False)
    with pytest.raises(
        RunError, match=r"stopped before its training\. The same command with --resume goes on"
    ):
        folder.mask()
