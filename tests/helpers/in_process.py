"""The command line in this very process: as quick as a function, and what is written where is told apart."""

import io
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from vitpe.__main__ import main


@dataclass(frozen=True)
class Called:
    """The exit code and what was written; `out` are stdout's bytes."""

    code: int
    out: bytes
    stderr: str

    @property
    def stdout(self) -> str:
        return self.out.decode()


def call_vitpe(*arguments: str | Path, stdin: bytes = b"", **environment: str) -> Called:
    """`vitpe ARGUMENTS` with `stdin` and more environment variables, away from a terminal; a bug is raised."""
    stdout, stderr = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with tempfile.TemporaryFile() as file, os.fdopen(os.dup(file.fileno())) as given:
        file.write(stdin)
        file.seek(0)
        with (
            mock.patch.multiple(sys, argv=["vitpe", *map(str, arguments)], stdin=given, stdout=stdout, stderr=stderr),
            mock.patch.dict(os.environ, environment),
        ):
            try:
                main()
                code = 0
            except SystemExit as end:
                code = end.code or 0
    for stream in (stdout, stderr):
        stream.flush()
    return Called(code, stdout.buffer.getvalue(), stderr.buffer.getvalue().decode())


def read_jsonl(called: Called) -> list[dict[str, Any]]:
    """The records that `vitpe predict` wrote."""
    return [json.loads(line) for line in called.stdout.splitlines()]


def file_names(called: Called) -> list[str]:
    """Of these records."""
    return [record["file"] for record in read_jsonl(called)]
