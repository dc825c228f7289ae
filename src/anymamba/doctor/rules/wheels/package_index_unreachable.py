"""pip cannot reach the package index."""

from __future__ import annotations

import re
from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import (
    CERTAIN,
    LIKELY,
    OPTIONAL,
    Match,
    Remedy,
    Rule,
    Text,
)


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


RULE = Rule(
    code="AM082",
    cause="package-index-unreachable",
    order=40,
    title=Text(
        "the package index (PyPI or its mirror) could not be reached, or does not have the package",
        "无法连接软件源（PyPI 或镜像），或其中没有该包",
    ),
    why=Text(
        "No network, a proxy, a mirror without the package, or pip was given torch's index alone with --index-url.",
        "没有网络、代理问题、镜像缺少该包，或用 --index-url 只指定了 torch 的软件源。",
    ),
    needed=OPTIONAL,
    log=_log,
    remedies=(
        Remedy(
            Text("Use a mirror that you can reach.", "使用可访问的镜像。"),
            ("pip install --no-build-isolation {package} -i https://pypi.tuna.tsinghua.edu.cn/simple",),
        ),
        Remedy(
            Text(
                "Or through a proxy: set https_proxy to its address, then again.", "或通过代理：把 https_proxy 设为其地址后重试。"
            ),
            ("pip install --no-build-isolation {package}",),
        ),
        Remedy(
            Text("torch's own index has torch only: install in two steps.", "torch 的软件源只有 torch：请分两步安装。"),
            (
                "pip install torch=={torch} --index-url https://download.pytorch.org/whl/{cuda}",
                "pip install --no-build-isolation {package}",
            ),
        ),
    ),
)
