"""How many devices a process uses: decided before JAX starts, so JAX is not imported here."""

import os
import re
import sys

DEVICES = "LREVOPT_DEVICES"
"""Environment variable: how many local devices problems are spread over (default: all)."""

FLAG = "--xla_force_host_platform_device_count"
"""XLA's flag for the number of CPU devices of a process."""


THREADS = "NPROC"
"""Environment variable: XLA's number of threads, read when JAX computes for the first time."""


def asked_devices() -> int | None:
    """How many devices the environment asks for, None where it leaves that open.

    Raises `ValueError` if the variable is no number of devices.
    """
    asked = os.environ.get(DEVICES, "").strip()
    if not asked:
        return None
    if not asked.isdecimal() or not 1 <= int(asked) <= 1024:
        raise ValueError(f"`{DEVICES}` must be a number of devices from 1 to 1024, got {asked!r}.")
    return int(asked)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads(devices: int) -> int:
    """Threads that XLA has for the inner work of this many CPU devices.

    All devices share them. A call of LAPACK on a batch (QR, solve, eigenvalues) holds one of them
    while it waits for others: where there are no more threads than devices, and every device makes
    such a call, all wait for ever.
    """
    given = os.environ.get(THREADS, "")
    return max(int(given) if given.isdecimal() else cores(), devices)


def start_host_devices() -> None:
    """Give a process that has not started JAX one CPU device per core, or as many as are asked for.

    XLA uses a second core poorly within the steps of a run, and well for a second device with
    problems of its own. XLA's flag stands where it is set; there are as many threads as devices
    need in any case. Processes that have imported JAX are left alone.
    """
    if "jax" in sys.modules:
        return
    flags = os.environ.get("XLA_FLAGS", "")
    given = re.findall(rf"{FLAG}=(\d+)", flags)
    count = int(given[-1]) if given else asked_devices() or cores()
    if count > 1 and not os.environ.get(THREADS):
        os.environ[THREADS] = str(max(cores(), count) + count)  # see `threads`
    if not given:
        os.environ["XLA_FLAGS"] = f"{flags} {FLAG}={count}".strip()
