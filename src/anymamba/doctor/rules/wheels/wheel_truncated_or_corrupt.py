"""The wheel arrived incomplete, or something else arrived in its place."""

from __future__ import annotations

from anymamba.doctor.rule import (
    OPTIONAL,
    Remedy,
    Rule,
    Signature,
    Text,
)

RULE = Rule(
    code="AM017",
    cause="wheel-truncated-or-corrupt",
    order=206,
    title=Text("the downloaded wheel is incomplete or is not a wheel", "下载的 wheel 不完整，或者根本不是 wheel"),
    why=Text(
        "A proxy, a login page or a cut connection left a broken file, which then cannot be unpacked.",
        "代理、登录页面或中断的连接留下了损坏的文件，无法解包。",
    ),
    needed=OPTIONAL,
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
    remedies=(
        Remedy(
            Text(
                "Download once more, without the cache, and look at the size of the file.",
                "不用缓存重新下载，并检查文件大小。",
            ),
            ("curl -L -O {wheel_url} && ls -l {wheel_file}", "pip install --no-cache-dir --no-deps ./{wheel_file}"),
            powershell=(
                "curl.exe -L -O {wheel_url}; Get-Item {wheel_file}",
                "pip install --no-cache-dir --no-deps .\\{wheel_file}",
            ),
        ),
        Remedy(
            Text("Or let pip fetch everything anew.", "或让 pip 全部重新下载。"),
            ("pip install --no-cache-dir --force-reinstall --no-deps --no-build-isolation {packages}",),
        ),
    ),
    links=("https://github.com/state-spaces/mamba/blob/v2.3.1/setup.py",),
)
