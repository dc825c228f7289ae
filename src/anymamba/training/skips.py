"""Single bad records are left out, counted, and the first of them named: one bad line must not cost a night's training."""

from __future__ import annotations

from dataclasses import dataclass, field

from anymamba.errors import AnymambaError
from anymamba.language import say

NAMED = 3


@dataclass
class Skips:
    """total: records looked at. count: those left out. first: where and why, of the first ``NAMED`` of them."""

    total: int = 0
    count: int = 0
    first: list[str] = field(default_factory=list)

    def skip(self, where: str, reason: str) -> None:
        """where: file and line (or row); reason: one sentence in the user's language."""
        self.count += 1
        if len(self.first) < NAMED:
            self.first.append(f"{where}: {reason}")

    def summary(self) -> str:
        """One line for the log, or an empty string when nothing was left out."""
        if not self.count:
            return ""
        head = say(f"{self.count} of {self.total} records skipped: ", f"跳过 {self.count}/{self.total} 条记录：")
        rest = self.count - len(self.first)
        tail = say(f"; and {rest} more", f"；另有 {rest} 条") if rest else ""
        return head + "; ".join(self.first) + tail

    def nothing_left(self, source: str) -> AnymambaError:
        """The error for data in which no record could be used."""
        return AnymambaError(
            "data",
            say(f"there is nothing to train on in {source}", f"{source} 中没有可用于训练的内容"),
            why=self.summary() or say("no document in it has any text", "其中没有任何含文本的文档"),
            fix=say(
                "see docs/en/train.md, section 2, for the file kinds and the fields they need",
                "文件类型与所需字段见 docs/zh/train.md 第 2 节",
            ),
        )
