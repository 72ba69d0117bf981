"""Kernels of hiclr_fast: one folder an op, which holds the public function, its plain-torch reference and one file a backend."""
