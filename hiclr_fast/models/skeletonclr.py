"""Official parameter names of SkeletonCLR (Li et al., CVPR 2021) and AimCLR (Guo et al., AAAI 2022), and ours.

Both train the same ST-GCN as HiCLR does, and AimCLR's attention drop has no parameters. Their edge importances lie in one
list, counted from 0 (official net/st_gcn.py of both); HiCLR's are single parameters, counted from 1.
"""

import re

from hiclr_fast.models.official import official_name


def skeletonclr_name(name: str) -> str:
    """The SkeletonCLR or AimCLR name of one of our STGCN parameters or buffers (without the `encoder_q.` prefix)."""
    listed = re.sub(r"^blocks\.(\d+)\.edge_importance$", r"edge_importance.\1", name)
    return official_name(listed)
