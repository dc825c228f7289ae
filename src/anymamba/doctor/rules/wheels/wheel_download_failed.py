"""The release host cannot be reached; setup.py gives up and does not compile."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.patterns import compiled
from anymamba.doctor.rule import (
    CERTAIN,
    OPTIONAL,
    POSSIBLE,
    Match,
    Remedy,
    Rule,
    Text,
)

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


RULE = Rule(
    code="AM016",
    cause="wheel-download-failed",
    order=205,
    title=Text("the release page with the prebuilt wheel could not be reached", "无法连接到存放预编译 wheel 的发布页"),
    why=Text(
        "setup.py downloads the wheel from github.com. When the connection is cut, refused or cannot be resolved (a"
        " firewall, a cluster node without"
        ' internet, mainland China), it stops; only an answer "not found" makes it compile instead. pip\'s own'
        " proxy and mirror settings do not apply to it.",
        "setup.py 会从 github.com 下载 wheel。若连接被切断、拒绝或域名无法解析（防火墙、无外网的集群节点、中国大陆"
        "网络），它就会中止；只有收到“不存在”的答复时才改为编译。"
        "pip 的代理与镜像设置对它不起作用。",
    ),
    needed=OPTIONAL,
    log=_log,
    remedies=(
        Remedy(
            Text(
                "Fetch the file that the log names on another computer or through a mirror, and install it.",
                "在另一台电脑上或通过镜像下载日志中给出的文件，然后安装。",
            ),
            ("curl -L -O {wheel_url}", "pip install --no-deps ./{wheel_file}"),
            powershell=("curl.exe -L -O {wheel_url}", "pip install --no-deps .\\{wheel_file}"),
        ),
        Remedy(
            Text(
                "Or through a proxy: set https_proxy and http_proxy to its address (setup.py reads these two), then again.",
                "或通过代理：把 https_proxy 与 http_proxy 设为代理地址（setup.py 会读取），然后重试。",
            ),
            ("pip install --no-build-isolation {package}",),
        ),
        Remedy(
            Text("Or compile, without asking for the wheel; needs nvcc.", "或者不找 wheel 直接编译；需要 nvcc。"),
            ("MAMBA_FORCE_BUILD=TRUE CAUSAL_CONV1D_FORCE_BUILD=TRUE pip install --no-build-isolation"
                " {conv_source} {mamba_source}",),
        ),
    ),
    links=("https://github.com/Dao-AILab/causal-conv1d/issues/37", "https://github.com/state-spaces/mamba/issues/97"),
)
