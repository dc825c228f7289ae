"""When no rule matches: a log cut off at the end, or an honest "unknown" with what was recognised."""

from __future__ import annotations

import re
from typing import List, Tuple

from anymamba.doctor import rules
from anymamba.doctor.environment import Environment
from anymamba.doctor.finding import Evidence, Finding
from anymamba.doctor.log import Log
from anymamba.doctor.patterns import compiled
from anymamba.doctor.present import RuleMatch, present
from anymamba.doctor.rule import CERTAIN, LIKELY, NO_DIAGNOSIS, POSSIBLE, Match
from anymamba.doctor.tracebacks import cut_traceback

_WRAPPERS = (
    r"error: subprocess-exited-with-error",
    r"No available output\.",
    r"(?:setup\.py bdist_wheel|Building (?:wheel|editable) for \S+ \([\w.]+\))\**( |\n)did not run successfully",
    r"ninja: build stopped: subcommand failed",
    r"Command '?\[[^\]\n]*ninja[^\]\n]*\]'? returned non-zero exit status",
    r"RuntimeError: Error compiling objects for extension",
    r"error: command '[^'\n]*(?:nvcc|g\+\+|gcc|cl\.exe|ninja)[^'\n]*' failed with exit (?:code|status) \d+",
    r"(?:Failed building wheel|Could not build wheels|Failed to build installable wheels)[^\n]*(?:mamba|causal"
    r"|selective)",
    r"Failed to build (?:mamba[-_]ssm|causal[-_]conv1d|selective[-_]scan)",
    r"(?:setup\.py egg_info|Preparing metadata \([\w.]+\)|Getting requirements to build wheel) did not run successfully",
    r"Encountered error while (?:generating package metadata|trying to install package)",
    r"Command errored out with exit status \d+",
    r"(?:mamba[-_]ssm|causal[-_]conv1d|selective[-_]scan)\W[^\n]{0,60}(?:安装失败|编译失败"
    r"|报错|fails? to (?:build|compile|install)|failed)",
)
_INFORMATIVE = re.compile(
    r"\b(?:fatal )?error\b[:\s]|Error\b|FAILED|错误|失败|fatal|cannot|undefined|Exception\b", re.I
)
_NOISE = re.compile(
    r"subprocess-exited-with-error|This error originates from a subprocess|metadata-generation-failed"
    r"|legacy-install-failure|failed-wheel-build|See above for|Traceback|^\s*raise\b|original exception"
    r"|Encountered error while generating package metadata"
)
# prose announces an error and says nothing about it: "I get the following error:", "出现如下错误"
_PROSE = re.compile(
    r"[:：]$|^(?:[\w',\u4e00-\u9fff]+[ ,，]){2,}[^:]*\b(?:errors?|issue|problem)s?\b[^:]*$"
    r"|(?:following|this|these|an|the|same|some|another) errors?\b|如下错误|以下错误|报错|出现错误|错误如下",
    re.I,
)
_ERROR = re.compile(
    r"(?:^|[\s)\]:])error\b ?[A-Z]?\d*: ?\S|\w+Error: \S|\w+Error$|fatal error|undefined reference|错误[:：]? ?\S"
)
_WRAPPER_LINE = re.compile(
    r"ninja|CalledProcessError|Error compiling objects|Failed building|Could not build|Failed to build|failed with exit"
    r"|error: subprocess|FAILED: |errored out with exit status|did not run successfully|exit (?:code|status)"
)


def report_unknown(log: Log, here: Environment) -> List[Finding]:
    """One finding: log-truncated when only wrapper lines of our build, or half a traceback, are left; else unknown with the best lines."""
    wrappers = [found for pattern in _WRAPPERS for found in [compiled(pattern).search(log.text)] if found]
    ours = [found for found in wrappers if log.concern(found.start(), found.end()) in ("ours", "mentioned")]
    real = informative(log)
    named = any(_real_error(text) for _, text in real)
    cut = cut_traceback(log) if log.names_mamba else None
    if (ours or cut is not None) and not named:
        offsets = sorted([found.start() for found in ours] + ([cut] if cut is not None else []))
        match = Match(tuple(offsets), CERTAIN if log.names_ours else LIKELY)
        return [present(RuleMatch(rules.by_name()["log-truncated"], match), log, here)]
    finding = present(RuleMatch(rules.by_name()["unknown"], Match((), POSSIBLE)), log, here)
    evidence = tuple(Evidence(number, text[:500]) for number, text in real[:4])
    return [finding._replace(evidence=evidence, confidence=NO_DIAGNOSIS)]


def _real_error(text: str) -> bool:
    """A line that a compiler or Python wrote about the failure itself."""
    if _WRAPPER_LINE.search(text) or _PROSE.search(text):
        return False
    return bool(_ERROR.search(text))


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
