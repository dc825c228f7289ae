"""Rules on a log or on the facts of a machine; findings in the order in which to fix them."""

from __future__ import annotations

import re
from typing import List, Optional, Tuple

from anymamba.doctor import environment, rules
from anymamba.doctor.encoding import Readable
from anymamba.doctor.finding import Report
from anymamba.doctor.log import Log, is_ours
from anymamba.doctor.present import RuleMatch, present, rank, this_system
from anymamba.doctor.reading import read, rejoin
from anymamba.doctor.rule import BRANCH, CAUSE, NOTE, Match, Rule
from anymamba.doctor.unknown import report_unknown


def diagnose_log(stream: Readable, name: str = "-") -> Report:
    """Reads a log to its end and names the causes in it; ``unknown`` or ``log-truncated`` where no rule matches."""
    log = Log(read(stream), "" if name == "-" else name)
    found = [RuleMatch(rule, match) for rule, match in _matches(log)]
    if not found:
        # a narrow terminal or a mail program may have broken the words that a rule looks for
        joined = Log(rejoin(log.reading), log.name)
        found = [RuleMatch(rule, match) for rule, match in _matches(joined)]
        log = joined if found else log
    for item in found:
        if _solved_since(item, found, log):
            item.role = NOTE
    rank(found)
    here = environment.of_log(log, log.facts.get("system") or this_system())
    findings = [present(item, log, here) for item in found]
    if not any(item.role in (CAUSE, BRANCH) or item.rule.order < 900 for item in found):
        findings = report_unknown(log, here) + findings
    source = {
        "name": name,
        "lines": log.reading.line_count,
        "encoding": log.reading.encoding,
        "shortened": log.reading.shortened,
        "recognised": dict(log.facts, failed_packages=sorted(log.failed)),
    }
    return Report("log", findings, source)


def diagnose_machine(online: bool = False, imports: bool = True, seconds: Optional[float] = None) -> Report:
    """Gathers the facts of this machine, in so many seconds, and names what stands in the way of the official packages."""
    from anymamba.doctor import machine

    facts = machine.gather(online, imports, seconds, meanwhile=rules.all_rules)
    found = []
    for rule in rules.all_rules():
        match = rule.machine(facts) if rule.machine is not None else None
        if match is not None and not machine.rests_on_late(rule.cause, facts):
            found.append(RuleMatch(rule, match))
    rank(found)
    here = environment.of_machine(facts, this_system())
    findings = [present(item, None, here) for item in found]
    return Report("machine", findings, {"name": "machine"}, machine.sections(facts, findings), facts)


BUILD_STAGE = 400
"""Rules below this order stop an installation; those above are about what is installed."""


def _solved_since(item: RuleMatch, found: List[RuleMatch], log: Log) -> bool:
    """Whether the installation that this cause stopped succeeded further down, and something else fails after that."""
    later = [other for other in found if other.rule.order >= BUILD_STAGE and other.match.offsets]
    if item.rule.order >= BUILD_STAGE or item.role != CAUSE or not item.match.offsets or not later:
        return False
    if set(item.rule.explains) & {other.rule.cause for other in later}:
        return False
    last = max(item.match.offsets)
    package = log.package_at(last)
    names = re.escape(package).replace("\\-", "[-_]") if package and is_ours(package) else r"(?:mamba[-_]ssm|causal[-_]conv1d)"
    done = re.compile(r"Successfully installed [^\n]*\b" + names + r"-\d").search(log.text, last)
    return done is not None and any(max(other.match.offsets) > done.start() for other in later)


def _matches(log: Log) -> List[Tuple[Rule, Match]]:
    matches = []
    for rule in rules.all_rules():
        match = rule.match_log(log)
        if match is not None:
            matches.append((rule, match))
    return matches
