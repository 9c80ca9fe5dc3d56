"""What this machine's processor can do by instructions of its own."""


def has_bfloat16_instructions() -> bool:
    """Whether this machine's CPU multiplies bfloat16 by instructions of its own: AVX-512, AMX or ARM's."""
    import torch

    can = torch.cpu.get_capabilities()
    return any(can.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
