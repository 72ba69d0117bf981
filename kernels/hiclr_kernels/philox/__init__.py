"""Philox4x32-10 with Box-Muller: the counter-based generator of every draw. `reference` in torch, `cpu` in numba."""
