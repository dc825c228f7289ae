"""When no rule matches: a log cut off at the end, or an honest "unknown" with what was recognised."""

from __future__ import annotations

import re
from typing import List, Tuple

from anymamba.doctor import rules
from anymamba.doctor.finding import Evidence, Finding
from anymamba.doctor.log import Log
from anymamba.doctor.patterns import compiled
from anymamba.doctor.present import RuleMatch, present
from anymamba.doctor.rule import CERTAIN, LIKELY, NO_DIAGNOSIS, POSSIBLE, Match

_WRAPPERS = (
    r"No available output\.",
    r"(?:setup\.py bdist_wheel|Building (?:wheel|editable) for \S+ \([\w.]+\))\**( |\n)did not run successfully",
    r"ninja: build stopped: subcommand failed",
    r"Command '?\[[^\]\n]*ninja[^\]\n]*\]'? returned non-zero exit status",
    r"RuntimeError: Error compiling objects for extension",
    r"error: command '[^'\n]*(?:nvcc|g\+\+|gcc|cl\.exe|ninja)[^'\n]*' failed with exit (?:code|status) \d+",
    r"(?:Failed building wheel|Could not build wheels|Failed to build installable wheels)[^\n]*(?:mamba|causal"
    r"|selective)",
    r"Failed to build (?:mamba[-_]ssm|causal[-_]conv1d|selective[-_]scan)",
)
_INFORMATIVE = re.compile(
    r"\b(?:fatal )?error\b[:\s]|Error\b|FAILED|错误|失败|fatal|cannot|undefined|Exception\b", re.I
)
_NOISE = re.compile(
    r"subprocess-exited-with-error|This error originates from a subprocess|metadata-generation-failed"
    r"|legacy-install-failure|failed-wheel-build|See above for|Traceback|^\s*raise\b|original exception"
)


def report_unknown(log: Log, system: str) -> List[Finding]:
    """One finding: log-truncated when only wrapper lines of our build are left, else unknown with the best lines."""
    wrappers = [found for pattern in _WRAPPERS for found in [compiled(pattern).search(log.text)] if found]
    ours = [found for found in wrappers if log.concern(found.start(), found.end()) in ("ours", "mentioned")]
    real = informative(log)
    if ours and not any(_real_error(text) for _, text in real):
        match = Match(tuple(sorted(found.start() for found in ours)), CERTAIN if log.names_ours else LIKELY)
        return [present(RuleMatch(rules.by_name()["log-truncated"], match), log, system)]
    finding = present(RuleMatch(rules.by_name()["unknown"], Match((), POSSIBLE)), log, system)
    evidence = tuple(Evidence(number, text[:500]) for number, text in real[:4])
    return [finding._replace(evidence=evidence, confidence=NO_DIAGNOSIS)]


def _real_error(text: str) -> bool:
    """A line that a compiler or Python wrote about the failure itself."""
    if re.search(
        r"ninja|CalledProcessError|Error compiling objects|Failed building|Could not build|Failed to build|failed"
        r" with exit|error: subprocess|FAILED: ",
        text,
    ):
        return False
    return bool(re.search(r"\berror\b ?[A-Z]?\d*:|\w+Error: |fatal error|undefined reference|错误", text))


def informative(log: Log) -> List[Tuple[int, str]]:
    """Lines that look like the failure itself, the first ones of each kind: (line number, text)."""
    chosen: List[Tuple[int, str]] = []
    seen = set()
    for line in log.lines:
        if _INFORMATIVE.search(line.text) and not _NOISE.search(line.text):
            kind = re.sub(r"\d+", "0", line.text[:60])
            if kind not in seen:
                seen.add(kind)
                chosen.append((line.number, line.text))
    chosen.sort(key=lambda item: not _real_error(item[1]))
    return chosen[:8]
