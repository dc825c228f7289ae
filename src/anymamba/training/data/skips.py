"""Single bad records are left out, counted by kind, and the first of each kind named: one bad line must not cost a night's training."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from anymamba.errors import AnymambaError
from anymamba.language import _, ngettext

NAMED = 3
"""Places named of each kind."""


@dataclass
class Kind:
    """One way of being wrong. count: records; first: where, and what exactly, of the first ``NAMED`` of them."""

    count: int = 0
    first: list[str] = field(default_factory=list)


@dataclass
class Skips:
    """total: records looked at. kinds: of those left out, by what is wrong with them. list_file: where all of them are written."""

    total: int = 0
    kinds: dict[str, Kind] = field(default_factory=dict)
    list_file: TextIO | None = None

    @property
    def count(self) -> int:
        """Records left out."""
        return sum(kind.count for kind in self.kinds.values())

    def skip(self, where: str, kind: str, detail: str = "") -> None:
        """where: file and line (or row); kind: what is wrong, the same words for all records of the kind; detail: this one's."""
        entry = self.kinds.setdefault(kind, Kind())
        entry.count += 1
        if len(entry.first) < NAMED:
            entry.first.append(f"{where} ({detail})" if detail else where)
        if self.list_file is not None:
            self.list_file.write("\t".join((where, kind, detail)).rstrip() + "\n")

    def summary(self) -> str:
        """One line for the log, or an empty string when nothing was left out."""
        if not self.count:
            return ""
        parts = []
        for kind, entry in sorted(self.kinds.items(), key=lambda item: -item[1].count):
            rest = entry.count - len(entry.first)
            more = _(" and {count} more").format(count=rest) if rest else ""
            parts.append(f"{entry.count} {kind}: {', '.join(entry.first)}{more}")
        head = ngettext(
            "{count} of {total} record skipped: ", "{count} of {total} records skipped: ", self.total
        ).format(count=self.count, total=self.total)
        tail = ""
        if self.count > sum(len(entry.first) for entry in self.kinds.values()) and self.list_file is None:
            tail = _(" (--bad-records FILE lists all of them)")
        return head + "; ".join(parts) + tail

    def nothing_left(self, source: str) -> AnymambaError:
        """The error for data in which no record could be used."""
        return AnymambaError(
            "data",
            _("there is nothing to train on in {source}").format(source=source),
            why=self.summary() or _("no document in it has any text"),
            fix=_("see docs/en/train.md, section 2, for the file kinds and the fields they need"),
        )


def open_list(path: str) -> TextIO | None:
    """The file of --bad-records, emptied; None for no such option. Raises AnymambaError (usage) when it cannot be written."""
    if not path:
        return None
    target = Path(path).expanduser()
    try:
        return open(target, "w", encoding="utf-8", errors="replace")
    except OSError as error:
        raise AnymambaError(
            "usage", _("--bad-records {target} cannot be written").format(target=target), why=str(error)
        ) from error
