"""Inside the guest: a kernel that is locked down, as under secure boot. Nothing undoes that until the next start."""

from __future__ import annotations

import subprocess

from amdrv.errors import HalError
from amdrv.hal.sysfs import LOCKDOWN, SysfsHal
from tools.amdrv_info.doctor import Host, examine


def finding() -> tuple[str, str]:
    found = {f.check: f for f in examine(Host())}["lockdown"]
    return found.state, found.fix


def main() -> None:
    if not LOCKDOWN.exists():
        subprocess.run(["mount", "-t", "securityfs", "none", "/sys/kernel/security"], check=True)
    assert finding() == ("ok", ""), finding()
    hal = SysfsHal()
    edu = next(f.address for f in hal.functions(0x1234))
    hal.open(edu).close()
    LOCKDOWN.write_text("integrity")
    assert finding() == ("note", "export AMDRV_HAL=vfio"), finding()
    try:
        hal.open(edu).close()
    except HalError as error:
        assert "locked down" in str(error) and "AMDRV_HAL=vfio" in str(error), error
        print("LOCKDOWN SEEN:", error, flush=True)


if __name__ == "__main__":
    main()
