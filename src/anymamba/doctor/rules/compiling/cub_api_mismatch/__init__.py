"""CUB's internals changed under the source."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM027",
    cause="cub-api-mismatch",
    order=341,
    signatures=(
        Signature(
            r"namespace ['\"“]cub['\"”] has no member ['\"“]?(?:WarpMask|LaneId|CTA_SYNC|WARP_\w+|Sum|Max|Log2|\w+)"
        ),
        Signature(r"identifier ['\"“](?:LaneId|CTA_SYNC|WarpMask)['\"”] is undefined"),
        Signature(
            r"(?:['\"“]?(?:WarpMask|LaneId|CTA_SYNC)['\"”]? (?:is not a member of|was not declared)|no member named"
            r" '(?:WarpMask|LaneId|CTA_SYNC)' in namespace)"
        ),
    ),
    explains=("log-truncated",),
)
