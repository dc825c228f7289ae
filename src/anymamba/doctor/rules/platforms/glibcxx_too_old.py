"""The system's libstdc++ is found before conda's."""

from __future__ import annotations

from anymamba.doctor.rule import (
    OPTIONAL,
    Remedy,
    Rule,
    Signature,
    Text,
)

RULE = Rule(
    code="AM046",
    cause="glibcxx-too-old",
    order=415,
    title=Text("an old libstdc++ is loaded before the newer one", "先加载了旧的 libstdc++，而不是较新的那个"),
    why=Text(
        "The extension needs a newer C++ library than the one that the system has; conda environments bring one,"
        " but the loader finds the system's first.",
        "扩展需要比系统自带版本更新的 C++ 运行库；conda 环境里有，但加载器先找到了系统的。",
    ),
    needed=OPTIONAL,
    signatures=(
        Signature(r"libstdc\+\+\.so\.6: version [`'‘](?:GLIBCXX_3\.4\.\d+|CXXABI_1\.3\.\d+)['’`] not found"),
        Signature(r"version [`'‘](?:GLIBCXX_3\.4\.\d+|CXXABI_1\.3\.\d+)['’`] not found"),
        Signature(r"libstdc\+\+\.so\.6: 版本 [`'‘]?GLIBCXX"),
        Signature(r"(?:selective_scan|causal_conv1d)\S*\.so: undefined symbol: _Z\w{0,3}(?:St|Ss|Sa)\w*", own=True),
    ),
    remedies=(
        Remedy(
            Text("Let the loader look in the environment first.", "让加载器先在当前环境中查找。"),
            ("conda install -y -c conda-forge libstdcxx-ng", "export LD_LIBRARY_PATH=$CONDA_PREFIX/lib:$LD_LIBRARY_PATH"),
            systems=("linux", "wsl"),
            managers=("conda",),
        ),
        Remedy(
            Text(
                "Compile it on this machine with its own compiler, so that the two fit.", "用本机的编译器在本机编译，使两者一致。"
            ),
            (
                "MAMBA_FORCE_BUILD=TRUE CAUSAL_CONV1D_FORCE_BUILD=TRUE pip install --force-reinstall --no-deps --no-build-isolation"
                " --no-cache-dir {conv_source} {mamba_source}",
            ),
            systems=("linux", "wsl"),
        ),
    ),
    links=("https://github.com/state-spaces/mamba/issues/254",),
)
