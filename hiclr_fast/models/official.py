"""Official parameter names and ours, in one place."""

import re

_RULES = (
    (r"^blocks\.(\d+)\.edge_importance$", lambda m: f"edge_importance{int(m[1]) + 1}"),
    (r"^blocks\.(\d+)\.gcn\.", r"st_gcn_networks.\1.gcn.conv."),
    (r"^blocks\.(\d+)\.bn1\.", r"st_gcn_networks.\1.tcn.0."),
    (r"^blocks\.(\d+)\.conv\.", r"st_gcn_networks.\1.tcn.2."),
    (r"^blocks\.(\d+)\.bn2\.", r"st_gcn_networks.\1.tcn.3."),
    (r"^blocks\.(\d+)\.residual\.", r"st_gcn_networks.\1.residual."),
    (r"^projector\.", r"fc."),
)


def official_name(name: str) -> str:
    """The official ST-GCN name of one of our STGCN parameters or buffers (without the `encoder_q.` prefix)."""
    for pattern, replacement in _RULES:
        if re.match(pattern, name):
            return re.sub(pattern, replacement, name)
    return name
