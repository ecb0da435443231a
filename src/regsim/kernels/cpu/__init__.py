"""The same loops compiled by numba, for float32 on the CPU: imported only when such tensors come, since numba starts slowly."""
