"""The headset's serial port: is it there, is it the same one, and is it ours alone.

Two programs that read one tty steal each other's bytes, and neither is told: the first headset falls
to no samples at all. So a port is claimed before BrainFlow opens it, whatever name it is called by.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from device.boards import HeadsetError


def identity(path: str) -> tuple[int, ...] | None:
    """Tells one appearance of a port from the next; None while it is not there. Costs some microseconds.

    The link of /dev/serial/by-id is made anew at each plugging in, as is the node it leads to.
    """
    try:
        link, node = os.lstat(path), os.stat(path)
    except OSError:
        return None
    return (link.st_ino, link.st_mtime_ns if stat.S_ISLNK(link.st_mode) else 0, node.st_dev, node.st_ino, node.st_rdev, node.st_ctime_ns)


@contextmanager
def claim(path: str) -> Iterator[Callable[[], None]]:
    """Own the serial port at `path` while inside. Raises HeadsetError with what is wrong with it.

    Gives a function to call once BrainFlow has opened the port too: from then on every later opener
    but root is refused, so that no other program can steal our bytes.
    """
    try:
        port = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise HeadsetError(f"the headset's dongle is not plugged in: there is no {path}.") from None
    except PermissionError:
        raise HeadsetError(f"this user may not open {path}: add it to the group 'dialout'.") from None
    except IsADirectoryError:
        raise HeadsetError(f"{path} is a folder, not a serial port.") from None
    except OSError as error:
        taken = "another program has it open" if error.errno == errno.EBUSY else error.strerror or str(error)
        raise HeadsetError(f"{path} can't be opened: {taken}.") from None
    try:
        if not os.isatty(port):
            raise HeadsetError(f"{path} is not a serial port.")
        try:
            fcntl.flock(port, fcntl.LOCK_EX | fcntl.LOCK_NB)  # on the node itself: by-id and ttyUSB0 are one
        except OSError:
            raise HeadsetError(f"{path} is open in another program or headset, under whatever name: close that first.") from None
        yield lambda: _ask(port, termios.TIOCEXCL)
    finally:
        _ask(port, termios.TIOCNXCL)
        os.close(port)


def _ask(port: int, request: int) -> None:
    with suppress(OSError):  # unplugged meanwhile
        fcntl.ioctl(port, request)
