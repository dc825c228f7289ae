"""The report as one JSON document."""

from __future__ import annotations

import json
from typing import Any, Dict

from anymamba.doctor.finding import Report
from anymamba.language import current_language
from anymamba.version import __version__


def document(report: Report) -> Dict[str, Any]:
    """{"findings": [...] in the order in which to fix them, "healthy", "kind", "source", "sections", ...}."""
    return {
        "findings": [finding.document() for finding in report.findings],
        "healthy": report.healthy,
        "kind": report.kind,
        "source": report.source,
        "sections": [
            {
                "area": section.area,
                "state": section.state,
                "title": section.title,
                "summary": section.summary,
                "details": list(section.details),
            }
            for section in report.sections
        ],
        "facts": report.facts,
        "language": current_language(),
        "anymamba": __version__,
    }


def render(report: Report) -> str:
    return json.dumps(document(report), ensure_ascii=False, indent=1, default=str)
