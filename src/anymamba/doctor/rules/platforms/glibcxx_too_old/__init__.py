"""The system's libstdc++ is found before conda's."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM046",
    cause="glibcxx-too-old",
    order=415,
    signatures=(
        Signature(r"libstdc\+\+\.so\.6: version [`'‘](?:GLIBCXX_3\.4\.\d+|CXXABI_1\.3\.\d+)['’`] not found"),
        Signature(r"version [`'‘](?:GLIBCXX_3\.4\.\d+|CXXABI_1\.3\.\d+)['’`] not found"),
        Signature(r"libstdc\+\+\.so\.6: 版本 [`'‘]?GLIBCXX"),
        Signature(r"(?:selective_scan|causal_conv1d)\S*\.so: undefined symbol: _Z\w{0,3}(?:St|Ss|Sa)\w*", own=True),
    ),
)
