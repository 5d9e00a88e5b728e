"""What a command prints: data on stdout as table, JSON or CSV; progress and notes on stderr."""

from __future__ import annotations

import csv
import json
import math
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_C1 = re.compile(r"[\x7f-\x9f]")  # control characters that JSON leaves as they are and some terminals obey
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Format(StrEnum):
    """How rows are printed; `auto` is a table on a terminal and JSON in a pipe."""

    auto = "auto"
    table = "table"
    json = "json"
    csv = "csv"


def emit(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None, form: Format = Format.auto
) -> None:
    """Print rows to stdout in the asked form.

    NaN is printed as an empty cell in tables and CSV and as null in JSON. Control characters are removed, and a CSV
    text cell that a spreadsheet would run as a formula gets a leading apostrophe.
    """
    rows = list(rows)
    names = list(columns) if columns is not None else list(dict.fromkeys(key for row in rows for key in row))
    if form is Format.auto:
        form = Format.table if sys.stdout.isatty() else Format.json
    if form is Format.json:
        plain = [{name: _plain(row.get(name)) for name in names} for row in rows]
        text = json.dumps(plain, indent=1, ensure_ascii=False)
        sys.stdout.write(_C1.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n")
    elif form is Format.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([_cell(row.get(name), spreadsheet=True) for name in names] for row in rows)
    else:
        _table(rows, names)
    sys.stdout.flush()


def say(text: str) -> None:
    """A line for people, on stderr."""
    sys.stderr.write(_CONTROL.sub("", text) + "\n")
    sys.stderr.flush()


def _rate(per_second: float) -> str:
    """``1,250/s``, ``4.2/s``, ``13/min``: never a bare 0.

    Examples
    --------
    >>> _rate(1250), _rate(4.2), _rate(0.22)
    ('1,250/s', '4.2/s', '13/min')
    """
    if per_second < 1:
        return f"{60 * per_second:,.0f}/min"
    return f"{per_second:,.0f}/s" if per_second >= 10 else f"{per_second:.1f}/s"


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value)


def _cell(value: Any, spreadsheet: bool = False) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        return (
            repr(value)
            if spreadsheet
            else f"{value:.4g}"
            if value and abs(value) < 1e-3
            else f"{value:.4f}".rstrip("0").rstrip(".")
        )
    if isinstance(value, (list, tuple)):
        return ", ".join(_cell(item) for item in value)
    text = _CONTROL.sub("", str(value))
    if spreadsheet and isinstance(value, str) and text.startswith(_FORMULA):
        return "'" + text
    return text


def _table(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in names:
        numeric = all(
            isinstance(row.get(name), (int, float)) or row.get(name) is None for row in rows
        ) and bool(rows)
        table.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(row.get(name))) for name in names))
    console = Console(file=sys.stdout)
    if not console.is_terminal:  # a file has no width; do not fold what will be grepped
        console = Console(file=sys.stdout, width=1 << 14)
    console.print(table)


class Bar:
    """Progress on stderr: a Rich bar with rate and time left on a terminal, a line every ten seconds elsewhere."""

    def __init__(self) -> None:
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._stage, self._unit, self._total, self._done = "", "", 0, 0
        self._began = self._told = 0.0

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._finish()

    def start(self, stage: str, total: int | None, unit: str) -> None:
        self._finish()
        self._stage, self._unit, self._total, self._done = stage, unit, total or 0, 0
        self._began = self._told = time.monotonic()
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("{task.description:>10}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[unit]} · {task.fields[rate]}"),
                TimeRemainingColumn(compact=True),
                TextColumn("[dim]{task.fields[detail]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(stage, total=total, unit=unit, rate="", detail="")
            self._bar.start()

    def advance(self, n: int, detail: str = "") -> None:
        self._done += n
        now = time.monotonic()
        rate = _rate(self._done / max(now - self._began, 1e-9))
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=n, rate=rate, detail=detail)
        elif now - self._told > 10:
            self._told = now
            left = (self._total - self._done) * (now - self._began) / max(self._done, 1)
            of = f" of {self._total:,}" if self._total else ""
            eta = f", {left:,.0f} s left" if self._total else ""
            say(
                f"{self._stage}: {self._done:,}{of} {self._unit}, {rate}{eta}{'  ' + detail if detail else ''}"
            )

    def note(self, text: str) -> None:
        if self._bar is not None:
            from rich.text import Text

            self._bar.console.print(Text(_CONTROL.sub("", text)))
        else:
            say(text)

    def _finish(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None
