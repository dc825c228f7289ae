"""The release host cannot be reached; setup.py gives up and does not compile."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.patterns import compiled
from anymamba.doctor.rule import CERTAIN, POSSIBLE, Match, Rule

_NETWORK = (
    r"<urlopen error (?:\[Errno -?\d+\]|\[WinError \d+\]|timed out|_?ssl|\[SSL|EOF|TLS|Tunnel|unknown|\[Errno)"
    r"|Remote end closed connection without response|http\.client\.(?:RemoteDisconnected|IncompleteRead)"
    r"|ConnectionResetError|ConnectionRefusedError|TimeoutError|socket\.timeout|ssl\.SSL\w*Error|getaddrinfo failed"
    r"|IncompleteRead\(\d+ bytes read"
)


_FETCHING = r"urlretrieve|get_wheel_url|bdist_wheel|CachedWheelsCommand|(?:mamba_ssm|causal_conv1d)-[^\n]*\.whl"


def _log(log: Log) -> Optional[Match]:
    guess = log.search(r"Guessing wheel URL: \S+")
    for found in compiled(_NETWORK).finditer(log.text):
        around = log.around(found.start(), found.end(), before=60, after=25)
        fetching = guess or compiled(_FETCHING).search(around)
        if fetching and (guess or log.names_ours) and log.concern(found.start(), found.end()) != "other":
            return Match(((guess.start(),) if guess else ()) + (found.start(),), CERTAIN)
    # a wheel that the user or pip fetches itself from the release page
    direct = log.search(
        r"(?:github\.com|githubusercontent)[^\n]{0,200}(?:mamba_ssm|causal_conv1d)[^\n]*\.whl[^\n]*(?:[Tt]imed?"
        r" ?out|Max retries|refused|reset|failed)"
        r"|(?:Max retries exceeded|ReadTimeoutError|ConnectTimeoutError"
        r"|NewConnectionError)[^\n]{0,300}/(?:state-spaces/mamba|Dao-AILab/causal-conv1d)"
    )
    if direct:
        return Match((direct.start(),), CERTAIN)
    # the log ends while it asks: a connection that hangs
    if guess and not log.text[guess.end() :].strip():
        return Match((guess.start(),), POSSIBLE)
    return None


RULE = Rule(code="AM016", cause="wheel-download-failed", order=205, log=_log)
