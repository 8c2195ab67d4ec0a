"""The key of the memory: 32 bytes from a systemd credential or from a file that one user alone may read.

It knows no database.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

CREDENTIAL = "memory-key"  # LoadCredential=memory-key:… in systemd/bedside-companion.service
KEY_BYTES = 32  # AES-256


class KeyFault(RuntimeError):
    """The key can't be had. One sentence: where it was looked for, what is wrong, and the way out."""


def find_key(file: Path, begin: bool, env: Mapping[str, str] = os.environ) -> bytes:
    """The service's credential where systemd passes one, else the key in `file`. 32 bytes.

    `begin`: nothing has been encrypted yet, so a missing file is made. Raises KeyFault.
    """
    folder = env.get("CREDENTIALS_DIRECTORY", "")
    if folder and (credential := Path(folder) / CREDENTIAL).is_file():
        return _read(credential, "write it with 'bedside memory key'")
    if begin and not file.exists():
        return make_key(file)
    if not file.exists():
        raise KeyFault(f"{file}: the key of the memory is missing; put it back, or move the memory away to begin a new one.")
    return _read(file, "put the right one back")


def make_key(file: Path) -> bytes:
    """Write a new random key to `file`, whole or not at all, for its owner alone. Raises KeyFault; never replaces a key."""
    key = secrets.token_bytes(KEY_BYTES)
    part = file.with_name(file.name + ".part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part.unlink(missing_ok=True)
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as out:
            out.write(key.hex() + "\n")
            out.flush()
            os.fsync(out.fileno())
        try:
            os.link(part, file)  # unlike a rename it refuses to replace: a lost key is a lost memory
        finally:
            part.unlink()
        folder = os.open(file.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    except FileExistsError:
        if file.exists():
            raise KeyFault(f"{file}: there is a key already, and what it encrypts is lost without it; move it away first.") from None
        raise KeyFault(f"{part}: another program is writing a key; try again.") from None
    except OSError as error:
        raise KeyFault(f"{file}: the key of the memory can't be written ({error.strerror}); set memory.key to another place.") from None
    return key


def _read(file: Path, way_out: str) -> bytes:
    try:
        if stat.S_IMODE(file.stat().st_mode) & 0o077:
            raise KeyFault(f"{file}: others may read the key of the memory; run 'chmod 600 {file}'.")
        key = bytes.fromhex(file.read_text(encoding="ascii").strip())
    except OSError as error:
        raise KeyFault(f"{file}: the key of the memory can't be read ({error.strerror}); run as its owner.") from None
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise KeyFault(f"{file}: this is no key of {2 * KEY_BYTES} hexadecimal digits; {way_out}.")
    return key
