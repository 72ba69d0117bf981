"""Which implementation of a kernel runs: Triton on CUDA, the CPU one on CPU, the plain-torch reference elsewhere."""

import os

import torch

BACKENDS = ("triton", "cpu", "reference")


def forced() -> str:
    """HICLR_KERNELS: the backend that the user wants everywhere, or empty."""
    return os.environ.get("HICLR_KERNELS", "")


def choose_backend(device: torch.device, dtype: torch.dtype = torch.float32) -> str:
    """HICLR_KERNELS if it is set, else by device, where double on CUDA takes the reference. ValueError where it cannot run."""
    chosen = forced()
    double = dtype == torch.float64
    if not chosen:
        if device.type == "cuda":
            return "reference" if double else "triton"
        return "cpu" if device.type == "cpu" else "reference"
    if chosen not in BACKENDS:
        raise ValueError(f"HICLR_KERNELS={chosen}: expected triton, cpu or reference")
    if chosen == "cpu" and device.type != "cpu":
        raise ValueError(f"HICLR_KERNELS=cpu with tensors on {device}: move them to the CPU or unset HICLR_KERNELS")
    if chosen == "triton" and double:
        raise ValueError("HICLR_KERNELS=triton with float64 tensors: use cpu or reference for double")
    if chosen == "triton" and device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(f"HICLR_KERNELS=triton with tensors on {device}: set TRITON_INTERPRET=1 to interpret the kernels")
    return chosen
