"""The machine a number was measured on, as far as it says so itself."""

import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from bnncc import __version__
from bnncc.runtime import cpu


def describe() -> dict[str, object]:
    """CPU, cores, governor ("unknown" where unreadable), load averages, system, versions, and the time (UTC)."""
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {
        "cpu": cpu.model_name(),
        "machine": cpu.machine(),
        "cores": os.cpu_count(),
        "governor": governor.read_text().strip() if governor.exists() else "unknown",
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "system": f"{platform.system()} {platform.release()}",
        "versions": {"bnncc": __version__, "python": platform.python_version(), "numpy": metadata.version("numpy")},
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
