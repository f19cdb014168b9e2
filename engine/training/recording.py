"""Recordings: what a run left behind for the chapters, as small JSON files that say where they come from.

Reading one needs neither torch nor transformers.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import math
import os
import platform
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parent.parent / "assets" / "recordings"
SCHEMA = 1
PACKAGES = ("torch", "transformers", "tokenizers", "numpy")

Value = float | int | str | bool | None
Row = Mapping[str, Value]


@dataclass(frozen=True)
class Recording:
    """One recorded run.

    ``command``: what to type to run it again (folders as placeholders). ``date``: ISO 8601, the day it ended.
    ``versions``: package → version. ``hardware``: class of machine, no names. ``seconds``: wall clock.
    ``settings``: the run's plan. ``tables``: name → rows, each a mapping from column to number, text or None; the
    rows of one table have the same columns.
    """

    name: str
    command: str
    date: str
    versions: Mapping[str, str]
    hardware: str
    seconds: float
    settings: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, Sequence[Row]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problem = problem_with(self)
        if problem:
            raise ValueError(f"The recording {self.name!r} is not valid: {problem}")
        tables = {
            name: tuple(MappingProxyType(dict(row)) for row in rows) for name, rows in self.tables.items()
        }
        object.__setattr__(self, "tables", MappingProxyType(tables))
        object.__setattr__(self, "settings", MappingProxyType(dict(self.settings)))
        object.__setattr__(self, "versions", MappingProxyType(dict(self.versions)))

    def table(self, name: str) -> tuple[Row, ...]:
        """The rows of one table. Raises KeyError, naming the tables there are."""
        if name not in self.tables:
            raise KeyError(f"{self.name} has no table {name!r}; it has {', '.join(self.tables) or 'none'}.")
        return tuple(self.tables[name])

    def column(self, table: str, column: str, where: Row | None = None) -> np.ndarray:
        """One numeric column as float64, shape (rows,); None becomes NaN. ``where`` keeps rows with those values."""
        rows = [row for row in self.table(table) if all(row[k] == v for k, v in (where or {}).items())]
        return np.array([math.nan if row[column] is None else row[column] for row in rows], dtype=np.float64)


def problem_with(recording: Recording) -> str | None:
    """What is wrong with a recording, in one sentence, or None."""
    for name in ("name", "command", "hardware"):
        if not isinstance(getattr(recording, name), str) or not getattr(recording, name).strip():
            return f"{name} is empty."
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", recording.name):
        return "the name has other signs than a-z, 0-9 and hyphens."
    try:
        datetime.date.fromisoformat(recording.date)
    except (TypeError, ValueError):
        return "the date is not of the form 2025-01-31."
    if not recording.versions or not all(isinstance(v, str) for v in recording.versions.values()):
        return "the versions are missing."
    if not math.isfinite(recording.seconds) or recording.seconds < 0:
        return "the seconds are not a number from 0 on."
    return next((p for p in (_table_problem(*item) for item in recording.tables.items()) if p), None)


def _table_problem(name: str, rows: Sequence[Row]) -> str | None:
    if not rows:
        return f"table {name} is empty."
    columns = set(rows[0])
    for number, row in enumerate(rows):
        if set(row) != columns:
            return f"row {number} of table {name} has other columns than row 0."
        for column, value in row.items():
            if not isinstance(value, str | int | float | bool | None):
                return f"{column} in row {number} of table {name} is neither number nor text."
            if isinstance(value, float) and not math.isfinite(value):
                return f"{column} in row {number} of table {name} is not finite."
    return None


def save_recording(recording: Recording, path: Path | None = None) -> Path:
    """Write ``recording`` (default: under its name among the bundled ones); tables column by column, to be small."""
    path = FOLDER / f"{recording.name}.json" if path is None else path
    value = {
        "schema": SCHEMA,
        **{name: getattr(recording, name) for name in ("name", "command", "date", "hardware", "seconds")},
        "versions": dict(recording.versions),
        "settings": dict(recording.settings),
        "tables": {
            name: {column: [_rounded(row[column]) for row in rows] for column in rows[0]}
            for name, rows in recording.tables.items()
        },
    }
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(_dump(value), encoding="utf-8")
    partial.replace(path)
    return path


def _dump(value: dict[str, Any]) -> str:
    """JSON with one column per line: readable in a diff and not longer than need be."""
    tables = value.pop("tables")
    head = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)[:-2]
    parts = []
    for name, columns in tables.items():
        lines = [
            f"   {json.dumps(c)}: {json.dumps(v, ensure_ascii=False, allow_nan=False)}"
            for c, v in columns.items()
        ]
        parts.append(f"  {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n  }")
    return head + ',\n "tables": {\n' + ",\n".join(parts) + "\n }\n}\n"


def _rounded(value: Value) -> Value:
    """Six significant digits: more than any figure shows."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def load_recording(name: str, folder: Path = FOLDER) -> Recording:
    """The bundled recording of that name, checked.

    Raises FileNotFoundError when there is none and ValueError when the file is not a valid recording.
    """
    path = folder / f"{name}.json"
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name) or not path.is_file():
        there = ", ".join(recording_names(folder)) or "none"
        raise FileNotFoundError(f"There is no recording {name!r}; there are: {there}.")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if value.pop("schema") != SCHEMA:
            raise ValueError(f"it is not of schema {SCHEMA}.")
        value["tables"] = {table: _rows(columns) for table, columns in value["tables"].items()}
        recording = Recording(**value)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path.name} is not a valid recording: {error}") from error
    if recording.name != name:
        raise ValueError(
            f"{path.name} is not a valid recording: it says that its name is {recording.name!r}."
        )
    return recording


def recording_names(folder: Path = FOLDER) -> list[str]:
    """Names of the recordings in ``folder``, sorted."""
    return sorted(path.stem for path in folder.glob("*.json"))


def _rows(columns: dict[str, list[Value]]) -> list[dict[str, Value]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def provenance(command: str, seconds: float, accelerator: str | None = None) -> dict[str, Any]:
    """The fields of a recording that say where it comes from.

    ``accelerator``: the product name of the GPU, if one was used.
    """
    return {
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {"python": platform.python_version()} | _package_versions(PACKAGES),
        "hardware": hardware_class(accelerator),
        "seconds": round(seconds, 1),
    }


def _package_versions(names: Iterable[str]) -> dict[str, str]:
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def hardware_class(accelerator: str | None = None) -> str:
    """The kind of machine, such as ``2-core x86-64 CPU (AVX-512, bf16)``: no host name, no serial number."""
    if accelerator:
        return accelerator
    machine = platform.machine().replace("x86_64", "x86-64").replace("AMD64", "x86-64")
    features = [text for flag, text in _CPU_FLAGS.items() if flag in _cpu_flags()]
    return f"{os.cpu_count()}-core {machine} CPU" + (f" ({', '.join(features)})" if features else "")


_CPU_FLAGS = {"avx512f": "AVX-512", "avx512_bf16": "AVX-512 bf16", "amx_bf16": "AMX bf16"}


def _cpu_flags() -> frozenset[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    match = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return frozenset(match.group(1).split()) if match else frozenset()


def command_line(module: str, arguments: list[str] | None, paths: Iterable[Path | None] = ()) -> str:
    """The command as typed, with each of ``paths`` cut down to its last name: no machine's layout in a record."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    short = {str(path): path.name for path in paths if path is not None}
    return shlex.join(["python", "-m", module, *(short.get(word, word) for word in words)])
