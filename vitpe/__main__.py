"""`vitpe`, `python -m vitpe` and what torchrun starts: one command, its errors in two lines, and its exit code."""

import errno
import io
import os
import sys
import warnings
from typing import TextIO

import typer

from vitpe.cli.app import app
from vitpe.cli.options import explain
from vitpe.errors import VitpeError
from vitpe.text import brief

_FAILED_WRITES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
"""Of an open file, which has no name here: stdout."""


def main() -> None:
    """What `vitpe` runs: exit code 0 done, 1 failed, 2 wrong usage, 130 interrupted; quiet on a closed pipe."""
    _replace_closed_streams()
    if sys.stderr is sys.__stderr__ and sys.stderr is not None:  # else it is the caller's
        sys.stderr = _Notes(sys.stderr)
    # Pillow warns about odd metadata in users' images; a filter around each call would not be safe with threads.
    warnings.filterwarnings("ignore", module="PIL")
    # A name in letters that matplotlib's font has not is drawn as boxes.
    warnings.filterwarnings("ignore", message="Glyph .* missing from font")
    code = 1
    try:
        code = app(prog_name="vitpe", standalone_mode=False) or 0
    except VitpeError as error:
        code = _report(error)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except SystemExit as end:
        if not isinstance(end.__context__, BrokenPipeError):  # which typer makes exit code 1
            raise
        code = 141
    except OSError as error:
        if (
            error.filename is not None
        ):  # names that are too long, folders that may not be searched: whoever asks, raises
            name = brief(os.fsdecode(error.filename))
            code = _report(VitpeError(f"{name}: {error.strerror}", "check the name, and who may read and write there"))
        elif error.errno in _FAILED_WRITES:
            code = _report_lost_result(error)
        else:
            raise
    except Exception as error:
        if not hasattr(error, "format_message"):  # what typer raises for wrong options; it has no stable public class
            raise
        command = context.command_path if (context := getattr(error, "ctx", None)) else "vitpe"
        causes: list[dict[str, object]] = getattr(error.__cause__, "errors", list)()
        code = _report(explain(error.format_message(), [cause["input"] for cause in causes], command))
    sys.exit(_close_stdout(code))


class _Notes(io.TextIOWrapper):
    """stderr for as long as it can be written; where its reader is gone or its disk is full, what is said is lost and
    stops nothing.
    """

    def __init__(self, stderr: TextIO) -> None:
        file = open(stderr.fileno(), "wb", buffering=0, closefd=False)  # noqa: SIM115 - it stays open
        super().__init__(file, encoding=stderr.encoding, errors=stderr.errors, write_through=True)

    def write(self, text: str) -> int:
        try:
            super().write(text)
        except OSError:
            _lead_nowhere(self)
        return len(text)


def _report(error: VitpeError) -> int:
    from vitpe.cli.console import show_error

    show_error(error)
    return error.exit_code


def _report_lost_result(error: OSError) -> int:
    hint = "free some space, or write it to another place"
    return _report(VitpeError(f"cannot write the result: {error.strerror}", hint))


def _replace_closed_streams() -> None:
    """Whoever starts this may have closed stdin, stdout or stderr: then it is the null device. Else Python has None in
    its place, and the next file that is opened gets its descriptor, and whatever a library writes there.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115 - it stays open


def _close_stdout(code: int) -> int:
    """Flush, so that a closed pipe or a full disk shows here and not as a message of the interpreter's at exit."""
    try:
        sys.stdout.flush()
    except OSError as error:
        code = 141 if isinstance(error, BrokenPipeError) else _report_lost_result(error)
        _lead_nowhere(sys.stdout)
    return code


def _lead_nowhere(stream: TextIO) -> None:
    """From now on all that anything writes to this descriptor is dropped."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    main()
