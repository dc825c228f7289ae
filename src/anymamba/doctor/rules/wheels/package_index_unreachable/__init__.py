"""pip cannot reach the package index."""

from __future__ import annotations

import re
from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import CERTAIN, LIKELY, Match, Rule


def _log(log: Log) -> Optional[Match]:
    none = log.search(
        r"No matching distribution found for (?:mamba[-_]ssm|causal[-_]conv1d|setuptools|wheel|ninja|packaging"
        r"|torch)(?![\w-])|Could not find a version that satisfies the requirement (?:mamba[-_]ssm|causal[-_]conv1d"
        r"|setuptools|wheel|ninja|packaging|torch)(?![\w-])[^\n]* \(from versions: none\)"
    )
    network = log.search(
        r"Retrying \(Retry\(total=\d|NewConnectionError|Could not connect to proxy|ProxyError|ReadTimeoutError"
        r"|ConnectTimeoutError|Max retries exceeded with url: /(?:simple|packages)|SSLError\("
        r"|CERTIFICATE_VERIFY_FAILED"
        r"|error sending request for url \(|dns error: failed to lookup|Could not fetch URL|operation timed out"
        r"|Temporary failure in name resolution"
    )
    ours = log.names_ours
    if (
        network
        and ours
        and log.concern(network.start(), network.end()) in ("ours", "mentioned")
        and not log.has(r"Guessing wheel URL")
        and (none or log.has(r"ERROR:|error:|× |Failed"))
    ):
        return Match((network.start(),) + ((none.start(),) if none else ()), CERTAIN if none else LIKELY)
    if (
        none
        and ours
        and re.search(r"mamba|causal", none.group(0))
        and "none" in log.around(none.start(), none.end(), 3, 2)
        and not log.has(r"Requires-Python|different python version")
    ):
        return Match((none.start(),), LIKELY)
    return None


RULE = Rule(code="AM082", cause="package-index-unreachable", order=40, log=_log)
