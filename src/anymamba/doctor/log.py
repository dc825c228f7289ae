"""A cleaned log that rules search in: its text, where each line starts, and whom an error concerns."""

from __future__ import annotations

import bisect
import re
from typing import Any, Dict, Iterator, List, Match, Optional

from anymamba.doctor import installations, recognise
from anymamba.doctor.patterns import compiled, plain
from anymamba.doctor.reading import Line, Reading
from anymamba.doctor.signature import Signature

# packages that carry the kernels under these names, forks included
OURS = re.compile(
    r"mamba[-_ ]?ssm|causal[-_]conv1d|selective[-_]scan|mamba_simple|mamba_inner|mamba_chunk|mamba_split|mamba-?1p1p1"
    r"|bimamba|state-spaces/mamba|dropout_add_layer_norm_mamba|[Mm]amba[23]?Mixer|[Mm]amba(?:2|3)?(?:Config"
    r"|ForCausalLM|Block|Model)|Mamba(?:Vision|IR|Out|AD|DFuse|MIL)|mambavision"
    r"|(?<![A-Za-z])(?:V|U|VM|Med|Local|Seg|Video|Fusion|Change|Graph|Prot|Sep|Net|Bi|Pan|Point|XLSR)-?Mamba(?![a-z])"
)
# a weaker sign: the word itself, but not conda's solver and its folders
_WORD = re.compile(
    r"(?<![\w/\\])(?:[A-Za-z]{0,8}-?)[Mm]amba(?!forge|\.exe|\.bat|\.sh| (?:install|create|env|update|activate|init"
    r"|run|clean))\w*"
)
_SOLVER = re.compile(
    r"lib[Mm]amba|micro[Mm]amba|[Mm]ambaforge|[Mm]ini[Mm]amba|[Mm]amba-org|conda[-_]lib[Mm]amba|mamba (?:install"
    r"|create|env|update|activate|init|run|clean|search|list)|mamba_package|mambabuild|boa"
)
_FOLDER = re.compile(
    r"[\\/]mamba[\\/](?:setup\.py|csrc|mamba_ssm|build)|[\\/](?:[A-Za-z-]*-)?[Mm]amba(?:-[A-Za-z]+)?[\\/]"
)


# what an installer says at its end, and a new command or session after it
_FINISHED = re.compile(
    r"^(?:Successfully installed|Collecting usage|[$%❯] |>>> |In \[\d+\]:|PS [A-Z]:\\|\([\w.-]+\) \S*[$#>] ?\w|[\w.-]+@[\w.-]+:\S*[$#])",
    re.M,
)
# lines in which an installer only lists what it fetches
_INSTALLING = re.compile(
    r"^(?:Collecting|Downloading|Using cached|Requirement already satisfied|Preparing metadata|Installing collected)[^\n]*",
    re.M,
)


LONG_LINE, BEFORE = 160, 40
"""Characters of a line that are shown as evidence, and of those before the words that prove it."""


class Log:
    """text: the cleaned lines joined by newlines; facts: what recognise.py found (versions, system, tool, ...);
    installations: what the log says is installed;
    name: of the file, empty for standard input."""

    def __init__(self, reading: Reading, name: str = "") -> None:
        self.reading, self.name = reading, name
        self.lines: List[Line] = reading.lines
        self.text = plain("\n".join(line.text for line in self.lines))
        self._starts: List[int] = []
        start = 0
        for line in self.lines:
            self._starts.append(start)
            start += len(line.text) + 1
        self.names_ours = bool(OURS.search(self.text))
        without_solver = _SOLVER.sub("", self.text)
        self.names_mamba = self.names_ours or bool(_WORD.search(without_solver) or _FOLDER.search(without_solver))
        self.packages = recognise.package_marks(self.text)
        self._mark_offsets = [offset for offset, _, _ in self.packages]
        self.failed = recognise.failed_packages(self.text)
        self.facts: Dict[str, Any] = recognise.facts(self.text)
        self.installations = installations.versions(self.text)

    def finditer(self, signature: Signature) -> Iterator[Match[str]]:
        return signature.regex.finditer(self.text)

    def search(self, pattern: str) -> Optional[Match[str]]:
        """First match of a pattern in which a blank stands for any white space."""
        return compiled(pattern).search(self.text)

    def has(self, pattern: str) -> bool:
        return self.search(pattern) is not None

    def line_at(self, offset: int) -> Line:
        return self.lines[bisect.bisect_right(self._starts, offset) - 1]

    def words_at(self, offset: int) -> str:
        """The line at this place; of a long one, the part that begins shortly before it."""
        index = bisect.bisect_right(self._starts, offset) - 1
        text, inside = self.lines[index].text, offset - self._starts[index]
        if len(text) <= LONG_LINE:
            return text
        begin = max(0, inside - BEFORE)
        return ("... " if begin else "") + text[begin : begin + LONG_LINE]

    def around(self, start: int, end: int, before: int = 60, after: int = 12) -> str:
        """The text of the neighbouring lines."""
        index = bisect.bisect_right(self._starts, start) - 1
        last = bisect.bisect_right(self._starts, end) - 1
        first_offset = self._starts[max(0, index - before)]
        after_index = last + 1 + after
        end_offset = self._starts[after_index] if after_index < len(self._starts) else len(self.text)
        return self.text[first_offset:end_offset]

    def package_at(self, offset: int) -> Optional[str]:
        """The package that an installer was working on at this place; None after it had finished."""
        index = bisect.bisect_right(self._mark_offsets, offset) - 1
        while index >= 0:
            start, name, strong = self.packages[index]
            if strong:
                return None if _FINISHED.search(self.text, start, offset) else name
            index -= 1
        return None

    def concern(self, start: int, end: int) -> str:
        """Whom an error at this place concerns: "ours", "mentioned" (the log is about ours, the place does not say),
        "other" (another package was being installed) or "nothing" (the log names no package)."""
        if OURS.search(self.around(start, end, before=0, after=0)):
            return "ours"
        package = self.package_at(start)
        if package is not None:
            if is_ours(package):
                return "ours"
            near = _INSTALLING.sub("", self.around(start, end, before=15, after=12))
            return "mentioned" if OURS.search(near) and package not in self.failed else "other"
        if self.failed:
            if any(is_ours(name) for name in self.failed):
                return "ours" if len(self.failed) == 1 else "mentioned"
            return "mentioned" if OURS.search(self.around(start, end)) else "other"
        if OURS.search(self.around(start, end)):
            return "ours"
        if self.names_mamba:
            return "mentioned"
        return "other" if recognise.other_project(self.text) else "nothing"


def is_ours(package: str) -> bool:
    return bool(OURS.search(package)) or package in ("mamba", "vmamba", "mambavision", "selective-scan")
