"""train, eval and predict start where a system has no fcntl, no SIGHUP and no os.geteuid, as Windows."""

import subprocess
import sys

from tests.helpers import REPOSITORY

WITHOUT_POSIX = """
import importlib, os, signal, sys
from pathlib import Path

NAMES = ("cli.app", "training.train", "inference.evaluate", "inference.predict", "viz.visualize", "__main__")

def load():
    for name in NAMES:
        importlib.import_module("vitpe." + name)

load()  # so that other packages, which know Windows by sys.platform, are there
for name in [name for name in sys.modules if name.partition(".")[0] in ("vitpe", "filelock")]:
    del sys.modules[name]
for name in ("fcntl", "pwd", "grp", "resource", "termios", "tty"):
    sys.modules[name] = None
for module, names in (
    (os, "O_NONBLOCK O_CLOEXEC O_NOFOLLOW fchmod fchown chown getuid geteuid getpgid fork sched_getaffinity sysconf"),
    (signal, "SIGHUP SIGUSR1 SIGUSR2 SIGXCPU SIGPIPE SIGALRM SIGKILL"),
):
    for name in names.split():
        delattr(module, name)
os.O_BINARY = 0
load()

from vitpe.errors import VitpeError
from vitpe.files import read_bounded, write_atomic
from vitpe.runs.folder import RunFolder
from vitpe.training.background import stop_signals

file = Path(sys.argv[1])
write_atomic(file, b"x")
write_atomic(file, b"xyz")
assert read_bounded(file, 3) == b"xyz"
with stop_signals("hint") as request:
    signal.raise_signal(signal.SIGTERM)
assert request.signal_number == signal.SIGTERM
try:
    with RunFolder(file.parent).locked():
        raise AssertionError("no lock can be had here")
except VitpeError as error:  # Windows has a way of its own, which filelock takes
    assert error.message.startswith("cannot lock"), error.message
"""


def test_nothing_but_the_lock_needs_a_posix_system(tmp_path):
    command = [sys.executable, "-c", WITHOUT_POSIX, str(tmp_path / "file")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
