"""--no-build-isolation in an environment without setuptools, wheel or packaging."""

from __future__ import annotations

import re
from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import LIKELY, Match, Rule, Signature, match_signatures

_BUILDING = (
    r"setup\.py|build_wheel|prepare_metadata|egg_info|bdist_wheel|build_meta|Getting requirements|<string>"
    r"|Preparing metadata|build backend"
)


def _log(log: Log) -> Optional[Match]:
    plain = match_signatures(
        log,
        (
            Signature(
                r"ModuleNotFoundError: No module named '(?:wheel(?:\.\w+)?|packaging(?:\.\w+)?|setuptools(?:\.\w+)?"
                r"|pkg_resources|distutils(?:\.\w+)*)'"
            ),
        ),
    )
    if plain and re.search(_BUILDING, log.around(plain.offsets[0], plain.offsets[0], before=40, after=15)):
        return plain
    return match_signatures(
        log,
        (
            Signature(r"BackendUnavailable: Cannot import 'setuptools\.build_meta(?::__legacy__)?'"),
            Signature(r"error: invalid command 'bdist_wheel'"),
            Signature(r"module 'pkgutil' has no attribute 'ImpImporter'", confidence=LIKELY),
            Signature(r"ImportError: cannot import name 'packaging' from 'pkg_resources'"),
        ),
    )


RULE = Rule(code="AM002", cause="build-dep-missing-no-isolation", order=80, log=_log)
