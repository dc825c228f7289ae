"""Progress in a notebook: one line that is replaced, a table, and the loss curve as a picture, without terminal escapes."""

from __future__ import annotations

import html
import sys
import time
from typing import Any

from anymamba.language import _
from anymamba.training.show.axes import COLOURS, X_NAMES, Y_NAMES, Axes, Curve
from anymamba.training.show.chart import Series
from anymamba.training.show.report import Reporter
from anymamba.training.show.svg import svg

REDRAW_SECONDS = 0.5
"""Each update of a cell is a message to the browser and a change of the notebook file's output."""


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook (Jupyter, Colab, VS Code), where output goes to a cell."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


class NotebookReporter(Reporter):
    """A ``Reporter`` that writes to the output cell through IPython's display."""

    def __init__(self) -> None:
        super().__init__(quiet=False)
        self.live = False
        self._handle: Any = None

    def progress(self, text: str, last: bool = False) -> None:
        now = time.monotonic()
        if not last and now - self._last < REDRAW_SECONDS:
            return
        self._last = now
        if self._handle is None:
            self._handle = _display(_Line(text), keep=True)
        else:
            self._handle.update(_Line(text))

    def end_line(self) -> None:
        """The next line of progress stands in a display of its own, below what was said meanwhile."""
        self._handle = None

    def note(self, text: str) -> None:
        if text:
            print(text, flush=True)

    def table(self, rows: list[tuple[str, str, str]]) -> None:
        _display(_Table(rows))

    def curve(self, training: Series, validation: Series, unit: str) -> None:
        series = [(_("training"), training, False), (_("held out"), validation, True)]
        curves = [Curve(name, COLOURS[0], list(points), dashed) for name, points, dashed in series if points]
        if curves:
            _display(_Picture(svg(Axes(curves, _(X_NAMES["step"]), _(Y_NAMES["loss"])))))


def _display(thing: object, keep: bool = False) -> Any:
    from IPython.display import display

    return display(thing, display_id=True) if keep else display(thing)


class _Line:
    """Text that a notebook shows as it stands, so that the file on disk stays readable."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


class _Table:
    """name, value, why; plain text where HTML is not shown."""

    def __init__(self, rows: list[tuple[str, str, str]]) -> None:
        self._rows = rows

    def _repr_html_(self) -> str:
        lines = ("".join(f"<td style='text-align:left'>{html.escape(cell)}</td>" for cell in row) for row in self._rows)
        return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"

    def __repr__(self) -> str:
        return "\n".join("  ".join(cell for cell in row if cell) for row in self._rows)


class _Picture:
    def __init__(self, document: str) -> None:
        self._document = document

    def _repr_svg_(self) -> str:
        return self._document
