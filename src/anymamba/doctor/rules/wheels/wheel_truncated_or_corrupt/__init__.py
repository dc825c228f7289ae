"""The wheel arrived incomplete, or something else arrived in its place."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM017",
    cause="wheel-truncated-or-corrupt",
    order=206,
    signatures=(
        Signature(r"(?:zipfile\.)?BadZip[Ff]ile: (?:File is not a zip file|Bad magic number|Bad CRC)"),
        Signature(r"ContentTooShortError|retrieval incomplete: got only \d+ out of \d+ bytes"),
        Signature(r"Wheel '[^'\n]+' located at \S+ is invalid"),
        Signature(
            r"error: (?:invalid|bad) wheel|Failed to (?:unzip|read|extract)[^\n]*\.whl|invalid Zip archive"
            r"|EndOfCentralDirectory"
        ),
        Signature(r"THESE PACKAGES DO NOT MATCH THE HASHES"),
    ),
)
