"""Where tensors are computed, and what the processor there is good at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mmrec.errors import ConfigError

if TYPE_CHECKING:
    import torch


def choose_device(name: str | None) -> torch.device:
    """The device called ``name``; for None or ``auto`` the first GPU, or the CPU.

    Raises:
        ConfigError: No such device here.
    """
    import torch

    if name is None or name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            "a device of this machine (auto, cpu, cuda, cuda:1, …)",
            f"{name!r}: {str(error).splitlines()[0]}",
            "leave the device out to use what is there",
        ) from None
    return device


def computes_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is done in hardware (elsewhere it is emulated, and slower than float32)."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is not None:
        found = capabilities()
        return any(bool(found.get(key)) for key in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
    info = Path("/proc/cpuinfo")  # older torch says nothing of its own
    flags = info.read_text(encoding="utf-8", errors="replace").split() if info.is_file() else []
    return "avx512_bf16" in flags or "amx_bf16" in flags
