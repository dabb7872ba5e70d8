"""stdin, stdout and stderr that are closed, full, or read by nobody: no traceback, and the work is done."""

import subprocess
import sys

import pytest

from tests.helpers import REPOSITORY, tiny_options

VITPE = f'PYTHONPATH="{REPOSITORY}" OMP_NUM_THREADS=1 "{sys.executable}" -m vitpe'


def shell(command, folder):
    """Run by sh in `folder`: exit code, stdout and stderr."""
    done = subprocess.run(
        ["sh", "-c", command.replace("vitpe", VITPE, 1)], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full", "2>&1 | true"])
@pytest.mark.parametrize("command", ["--help", "predict --help"])
def test_help_with_a_stream_missing(command, streams, tmp_path):
    code, _, stderr = shell(f"vitpe {command} {streams}", tmp_path)
    assert (code, stderr) == (0, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_result_that_cannot_be_written_is_an_error(unbuffered, tmp_path):
    code, _, stderr = shell(f"PYTHONUNBUFFERED={unbuffered} vitpe --help >/dev/full", tmp_path)
    assert code == 1
    assert stderr.startswith("error: cannot write the result: No space left on device\nhint: ")
    assert shell("vitpe --help >/dev/full 2>/dev/full", tmp_path) == (1, "", "")


def test_wrong_usage_keeps_its_exit_code_without_stderr(tmp_path):
    assert shell("vitpe train --nonsense 2>&-", tmp_path) == (2, "", "")
    assert shell("vitpe train --nonsense 2>/dev/full", tmp_path) == (2, "", "")


@pytest.mark.parametrize("streams", ["<&- >&- 2>&-", "2>/dev/full | cat"])
def test_training_needs_no_streams(streams, celeba, tmp_path):
    options = " ".join(f"'{option}'" for option in tiny_options(celeba))
    code, _, stderr = shell(f"vitpe train {options} --steps 2 {streams}", tmp_path)
    assert (code, stderr) == (0, "")
    assert (tmp_path / "runs" / "1" / "best.safetensors").exists()
    assert (tmp_path / "runs" / "1" / "metrics.csv").read_text().startswith("step,")


def test_without_a_command_help_goes_to_stderr_as_it_is(tmp_path):
    code, stdout, stderr = shell("vitpe", tmp_path)
    assert (code, stdout) == (2, "")
    assert stderr == shell("vitpe --help", tmp_path)[1]
