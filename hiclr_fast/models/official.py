"""Parameter names in other people's checkpoints and ours, in one place: official HiCLR (both encoders), SkeletonCLR, AimCLR.

SkeletonCLR (Li et al., CVPR 2021) and AimCLR (Guo et al., AAAI 2022) train the same ST-GCN as HiCLR does, and AimCLR's attention
drop has no parameters. Their edge importances lie in one list, counted from 0 (official net/st_gcn.py of both); HiCLR's are
single parameters, counted from 1.
"""

import re

_RULES = (
    (r"^blocks\.(\d+)\.edge_importance$", lambda m: f"edge_importance{int(m[1]) + 1}"),
    (r"^blocks\.(\d+)\.gcn\.", r"st_gcn_networks.\1.gcn.conv."),
    (r"^blocks\.(\d+)\.bn1\.", r"st_gcn_networks.\1.tcn.0."),
    (r"^blocks\.(\d+)\.conv\.", r"st_gcn_networks.\1.tcn.2."),
    (r"^blocks\.(\d+)\.bn2\.", r"st_gcn_networks.\1.tcn.3."),
    (r"^blocks\.(\d+)\.residual\.", r"st_gcn_networks.\1.residual."),
    (r"^projector\.", r"fc."),
    (r"^bn\.", r"input_map.0."),
    (r"^blocks\.(\d+)\.qk\.", r"graph_layers.\1.in_nets."),
    (r"^blocks\.(\d+)\.(out|ff)\.", r"graph_layers.\1.\2_nets."),
    (r"^blocks\.(\d+)\.temporal\.", r"graph_layers.\1.out_nett."),
    (r"^blocks\.(\d+)\.down(1|2)\.", r"graph_layers.\1.downs\2."),
    (r"^blocks\.(\d+)\.down_t\.", r"graph_layers.\1.downt2."),
    (r"^blocks\.(\d+)\.(alphas|attention0s)$", r"graph_layers.\1.\2"),
)


def official_name(name: str) -> str:
    """The official name of one of our STGCN or DSTA parameters or buffers (without the `encoder_q.` prefix)."""
    for pattern, replacement in _RULES:
        if re.match(pattern, name):
            return re.sub(pattern, replacement, name)
    return name


def skeletonclr_name(name: str) -> str:
    """The SkeletonCLR or AimCLR name of one of our STGCN parameters or buffers (without the `encoder_q.` prefix)."""
    listed = re.sub(r"^blocks\.(\d+)\.edge_importance$", r"edge_importance.\1", name)
    return official_name(listed)
