"""Kernels of hiclr_fast, and beside each the plain-torch reference (`*_ref.py`) that it has to match and beat."""
