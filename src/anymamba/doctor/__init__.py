"""Why mamba-ssm or causal-conv1d would not install or run: causes, evidence and commands, from a log or from the machine.

Standard library only, Python 3.8 syntax, and nothing of anymamba but errors.py and language.py, so that it runs where nothing
else does: ``python -m anymamba doctor`` from a checkout, with no dependency installed.

reading.py   a log of any length and encoding to cleaned lines       (encoding.py, cleaning.py)
log.py       the lines, what they tell (recognise.py) and whom an error concerns
rules/       one file a cause; rule.py says what a rule is
diagnose.py  rules on a log, or on the facts that machine/ gathers; the order in which to fix
report/      text, JSON and Markdown; explain.py: the long form of a cause, also the docs' text
"""

from __future__ import annotations

from anymamba.doctor.diagnose import diagnose_log, diagnose_machine

__all__ = ["diagnose_log", "diagnose_machine"]
