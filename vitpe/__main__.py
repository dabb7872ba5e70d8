"""`vitpe`, `python -m vitpe` and what torchrun starts: one command, its errors in two lines, and its exit code."""

import os
import sys
import warnings

import typer

from vitpe.cli import app
from vitpe.errors import UsageError, VitpeError


def main() -> None:
    """What `vitpe` runs: exit code 0 done, 1 failed, 2 wrong usage, 130 interrupted; quiet on a closed pipe."""
    # Pillow warns about odd metadata in users' images; a filter around each call would not be safe with threads.
    warnings.filterwarnings("ignore", module="PIL")
    code = 1
    try:
        code = app(standalone_mode=False) or 0
    except VitpeError as error:
        code = _report(error)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except SystemExit as end:
        if not isinstance(end.__context__, BrokenPipeError):  # which typer makes exit code 1
            raise
        code = 141
    except Exception as error:
        if not hasattr(error, "format_message"):  # what typer raises for wrong options; it has no stable public class
            raise
        command = context.command_path if (context := getattr(error, "ctx", None)) else "vitpe"
        code = _report(UsageError(error.format_message(), f"see {command} --help"))
    sys.exit(_close_stdout(code))


def _report(error: VitpeError) -> int:
    from vitpe.console import show_error

    show_error(error)
    return error.exit_code


def _close_stdout(code: int) -> int:
    """Flush, so that a closed pipe shows here and not as a message of the interpreter's at exit."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return code


if __name__ == "__main__":
    main()
