"""A port and its machine, as plain values that outlive the process that loaded it."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from refmoe.port import Port

#: Where Linux says which driver is loaded.
_DRIVER = Path("/sys/module/nvidia/version")


@dataclass(frozen=True, slots=True)
class About:
    """What a report says of a port: who it is, what it declares, where it ran.

    `arch` is the compute capability of its GPU (sm_90), or the CPU's kind.
    """

    name: str
    ops: tuple[str, ...]
    numerics: str
    declared: bool
    version: str | None = None
    device: str = "cpu"
    hardware: str = ""
    arch: str = ""
    driver: str | None = None

    def __str__(self) -> str:
        named = f"{self.name} {self.version}" if self.version else self.name
        declares = "declares" if self.declared else "declares nothing, taken as"
        ops = ", ".join(self.ops)
        return f"{named} on {self.device}: {ops}; {declares} {self.numerics}"

    @property
    def machine(self) -> str:
        """The device by name, arch and driver."""
        driver = f", driver {self.driver}" if self.driver else ""
        return f"{self.hardware} ({self.arch}{driver})"


def about(port: Port) -> About:
    """The port as it stands on this machine."""
    device, given = port.device, port.get("version")
    hardware, arch, driver = device, platform.machine(), None
    if device.startswith("cuda"):
        major, minor = torch.cuda.get_device_capability(device)
        hardware, arch = torch.cuda.get_device_name(device), f"sm_{major}{minor}"
        driver = _DRIVER.read_text().strip() if _DRIVER.exists() else None
    return About(
        port.name, tuple(port.ops), str(port.numerics), port.declared,
        None if given is None else str(given), device, hardware, arch, driver,
    )  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of what decides the result."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    for package in (
        "refmoe",
        "cupy-cuda13x",
        "cupy-cuda12x",
        "transformers",
        "torchao",
    ):
        try:
            found[package.partition("-")[0]] = version(package)
        except PackageNotFoundError:
            continue
    return found
