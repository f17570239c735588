"""Runs ``moceir`` as if on another system: ``python -m tests.faked_system win32 restore ...``.

``sys.platform`` says ``win32`` or ``darwin``, and what Python has on Linux but not there is gone.
Other packages are imported before, for they would look for what really is on that system. Every
module of both packages is imported, then the command runs.
"""

from __future__ import annotations

import ast
import importlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("moce_kernels", "moceir")

LINUX_ALONE = (
    *("sched_getaffinity", "sched_setaffinity", "posix_fadvise", "copy_file_range", "memfd_create"),
    *("O_DIRECT", "O_TMPFILE", "O_PATH", "getrandom", "eventfd", "splice"),
)
NOT_ON_WINDOWS = (
    *("fork", "forkpty", "register_at_fork", "wait", "waitid", "nice", "getloadavg", "uname"),
    *("sysconf", "sysconf_names", "confstr", "statvfs", "fstatvfs", "pread", "pwrite", "sendfile"),
    *("getuid", "geteuid", "getgid", "getegid", "getpgid", "setsid", "killpg", "mkfifo", "mknod"),
    *("chown", "fchown", "lchown", "fchmod", "chroot", "fdatasync", "sync", "lockf", "openpty"),
    *("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_DIRECTORY", "O_SYNC", "O_NOCTTY"),
)
MODULES_NOT_ON_WINDOWS = ("fcntl", "grp", "posix", "pty", "pwd", "resource", "termios", "tty")


def imports(file: Path) -> Iterator[tuple[str, list[str]]]:
    """Modules of others that a file imports, anywhere in it, and what it takes of them."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, [alias.name for alias in node.names]


def import_others() -> None:
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            for name, parts in imports(file):
                if name.partition(".")[0] in PACKAGES:
                    continue
                try:
                    module = importlib.import_module(name)
                except ImportError:  # an extra that is not installed, or Windows' own
                    continue
                for part in parts:
                    getattr(module, part, None)  # some packages import it only now


def become(system: str) -> None:
    gone = LINUX_ALONE
    if system == "win32":
        gone += NOT_ON_WINDOWS
        sys.modules.update(dict.fromkeys(MODULES_NOT_ON_WINDOWS))  # type: ignore[arg-type]
        for name in [n for n in dir(signal) if n.startswith("SIG") and n[3:] in UNIX_SIGNALS]:
            delattr(signal, name)
    else:
        os.sysconf_names = {n: i for n, i in os.sysconf_names.items() if n != "SC_AVPHYS_PAGES"}
    for name in gone:
        if hasattr(os, name):
            delattr(os, name)
    sys.platform = system


UNIX_SIGNALS = ("HUP", "QUIT", "KILL", "USR1", "USR2", "PIPE", "ALRM", "CHLD", "STOP", "CONT")


def import_packages() -> None:
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            try:
                importlib.import_module(name.removesuffix(".__init__"))
            except ModuleNotFoundError as error:
                missing = str(error.name).partition(".")[0]
                if missing in (*PACKAGES, *MODULES_NOT_ON_WINDOWS):
                    raise  # and not an extra's


if __name__ == "__main__":
    import_others()
    become(sys.argv.pop(1))
    import_packages()
    from moceir import machine
    from moceir.commands.main import main

    nowhere = Path("/nowhere")  # as is Linux's /proc
    machine._MEMINFO = machine._OWN_CGROUPS = machine._OWN_STATUS = nowhere
    main()
