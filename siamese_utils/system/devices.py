"""What the machine has: device, mixed precision, processor name."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from siamese_utils.errors import ConfigError, shown, unknown

PRECISIONS = ("auto", "float32", "bfloat16")


def pick_device(name: str = "auto") -> torch.device:
    """Turn ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"`` into a device that works here.

    Raises:
        ConfigError: the device does not exist on this machine.
    """
    if isinstance(name, str) and name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (TypeError, ValueError, RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"The device {shown(name)} cannot be used on this machine; use 'auto' or 'cpu'.") from error
    return device


def autocast_dtype(device: torch.device, precision: str = "auto") -> torch.dtype | None:
    """The lower precision in which a device should multiply, or ``None`` for plain float32.

    On a processor without bfloat16 instructions autocast is emulated and slower than float32, so it is used
    only where the instructions are really there.

    Args:
        device: where it is computed.
        precision: ``"auto"`` for bfloat16 where the device computes it natively; ``"float32"`` or ``"bfloat16"`` for
            this one anywhere.

    Raises:
        UnknownNameError: no such precision.
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if precision != "auto":
        return None if precision == "float32" else torch.bfloat16
    if device.type == "cuda":
        # ROCm counts its devices otherwise, and all that torch runs on have bfloat16. Asking torch whether a device
        # has it leaves emulation out in some versions only.
        native = torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if native else None
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        if capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"):
            return torch.bfloat16
    return None


def processor_name() -> str:
    """The processor's name as its maker writes it, as far as the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def processor_and_precision() -> str:
    """The processor's name, and bfloat16 where it has that in hardware.

    Processors of one name may differ in it, as the machines of a cloud do, and then differ by far in speed.
    """
    native = autocast_dtype(torch.device("cpu")) is not None
    return processor_name() + (" with bfloat16" if native else "")


def processors() -> int:
    """Logical processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def multiplies_bytes() -> bool:
    """Whether the processor has instructions for products of whole numbers of 8 bits, which are exact and fast."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    known = ("avx512_vnni", "avx_vnni", "amx_int8")
    return hasattr(torch, "_int_mm") and any(capabilities.get(name) for name in known)
