"""The program needs its own modified copy of mamba-ssm."""

from __future__ import annotations

from anymamba.doctor.rule import Rule, Signature

RULE = Rule(
    code="AM056",
    cause="fork-required-bimamba",
    order=534,
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
)
