"""Old releases rename the wheel across file systems."""

from __future__ import annotations

from anymamba.doctor.rule import (
    OPTIONAL,
    Remedy,
    Rule,
    Signature,
    Text,
)

RULE = Rule(
    code="AM018",
    cause="cross-device-link",
    order=207,
    title=Text(
        "an old release moves the wheel between two file systems in a way that cannot work",
        "旧版本用无法跨文件系统的方式移动 wheel",
    ),
    why=Text(
        "mamba-ssm up to 1.0.1 and causal-conv1d 1.0.0 use os.rename from the temporary folder to the cache.",
        "mamba-ssm 1.0.1 及以前与 causal-conv1d 1.0.0 使用 os.rename 把文件从临时目录移到缓存目录。",
    ),
    needed=OPTIONAL,
    signatures=(Signature(r"\[Errno 18\] (?:Invalid cross-device link|无效的跨设备[链连]接)(?:: '[^'\n]*)?"),),
    remedies=(
        Remedy(Text("Upgrade.", "升级。"), ("pip install --no-build-isolation -U {package}",)),
        Remedy(
            Text("Or keep both folders on one file system.", "或让两个目录位于同一文件系统。"),
            ("mkdir -p tmp && TMPDIR=$PWD/tmp pip install --no-build-isolation {package}",),
            systems=("linux", "wsl", "macos"),
        ),
    ),
    links=("https://github.com/state-spaces/mamba/pull/2",),
)
