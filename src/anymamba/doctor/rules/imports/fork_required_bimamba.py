"""The program needs its own modified copy of mamba-ssm."""

from __future__ import annotations

from anymamba.doctor.rule import (
    Remedy,
    Rule,
    Signature,
    Text,
)

RULE = Rule(
    code="AM056",
    cause="fork-required-bimamba",
    order=534,
    title=Text(
        "this program needs its own modified mamba-ssm, and the official one is installed",
        "该程序需要它自带的修改版 mamba-ssm，而当前安装的是官方版",
    ),
    why=Text(
        "Vim, SegMamba, VideoMamba and others ship a changed copy with extra arguments (bimamba_type, nslices,"
        " ...). Installing mamba-ssm from PyPI replaced it.",
        "Vim、SegMamba、VideoMamba 等项目自带带有额外参数（bimamba_type、nslices 等）的修改版；从 PyPI 安装"
        " mamba-ssm 会把它覆盖。",
    ),
    needed=Text(
        "Yes, for this program: the official package does not have these arguments.",
        "对该程序而言需要：官方包没有这些参数。",
    ),
    signatures=(
        Signature(
            r"(?:__|\*\*)?init(?:__|\*\*)?\(\) got an unexpected keyword argument"
            r" '(?:bimamba_type|bimamba|if_d[ei]vide_out|nslices|num_slices)'",
            own=True,
        ),
        Signature(
            r"(?:__|\*\*)?init(?:__|\*\*)?\(\) got an unexpected keyword argument"
            r" '(?:init_layer_scale|use_norm|scan_type|expand_ratio)'"
        ),
        Signature(
            r"No module named '?mamba_ssm\.(?:modules\.(?!block|mamba2|mamba3|mha|mlp|ssd_minimal|mamba_simple)\w+"
            r"|ops\.(?!triton\b|selective_scan_interface|cute|tilelang)\w+|models\.(?!config_mamba|mixer_seq_simple)\w+)",
            own=True,
        ),
        Signature(
            r"cannot import name '(?!Mamba'|Mamba2|Mamba3|Block'|RMSNorm|MambaLMHeadModel|MambaConfig|selective_scan_fn|selective_scan_ref"
            r"|mamba_inner|causal_conv1d|layer_norm_fn|rms_norm_fn|create_block|MixerModel|_init_weights|selective_state_update"
            r"|mamba_chunk|mamba_split|ssd_)\w*[Mm]amba\w*' from 'mamba_ssm",
            own=True,
        ),
        Signature(r"mamba_inner_fn_no_out_proj\W(?:[^\n]*\n){0,3}?[^\n]*'NoneType' object is not callable", own=True),
        Signature(
            r"cannot import name '(?:mamba_inner_fn_no_out_proj|bimamba_inner_fn|mamba_inner_fn_tc|selective_scan_\w+_v\d)'"
            r" from 'mamba_ssm",
            own=True,
        ),
    ),
    remedies=(
        Remedy(
            Text(
                "Install the copy that lies in the program's repository (the folder's name differs: mamba,"
                " mamba-1p1p1).",
                "安装该项目仓库中的修改版（目录名可能是 mamba 或 mamba-1p1p1）。",
            ),
            ("pip uninstall -y mamba-ssm", "cd mamba && MAMBA_FORCE_BUILD=TRUE pip install --no-build-isolation ."),
        ),
    ),
    links=("https://github.com/hustvl/Vim/issues/14", "https://github.com/ge-xing/SegMamba/issues/53"),
)
