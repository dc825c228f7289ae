"""The report for an issue: everything a maintainer asks for, nothing that identifies the user."""

from __future__ import annotations

import json
from typing import List

from anymamba.doctor.finding import Report
from anymamba.doctor.report.privacy import scrub
from anymamba.doctor.report.text import confidence_word, recognised
from anymamba.language import _, ngettext
from anymamba.version import __version__


def render(report: Report) -> str:
    lines: List[str] = ["## anymamba doctor {}".format(__version__), ""]
    if report.kind == "log":
        lines += [
            ngettext(
                "Log of {lines} line ({encoding}). Recognised: {recognised}",
                "Log of {lines} lines ({encoding}). Recognised: {recognised}",
                report.source["lines"],
            ).format(lines=report.source["lines"], encoding=report.source["encoding"], recognised=recognised(report)),
            "",
        ]
    for section in report.sections:
        lines.append("- **{}**: {}".format(section.title, section.summary))
        lines += ["  - {}".format(detail) for detail in section.details]
    if report.sections:
        lines.append("")
    for number, finding in enumerate(report.findings, 1):
        lines += [
            "### {}. {} {} ({})".format(number, finding.code, finding.cause, confidence_word(finding)),
            "",
            finding.title,
            "",
        ]
        if finding.evidence:
            lines += (
                ["```text"]
                + ["{}: {}".format(item.line, item.text) if item.line else item.text for item in finding.evidence]
                + ["```", ""]
            )
    if not report.findings:
        lines += [_("No issues found."), ""]
    interesting = {key: value for key, value in report.source.get("recognised", {}).items() if value}
    if interesting:
        lines += ["<details><summary>" + _("recognised") + "</summary>", "", "```json"]
        lines += [json.dumps(interesting, ensure_ascii=False, indent=1), "```", "", "</details>", ""]
    return scrub("\n".join(lines))
