"""What every test may ask for: the folder of the fetched models, and a sound server. It downloads nothing."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pulse import Pulse

import device.voice  # noqa: F401 (it tells OpenMP not to spin, before torch is loaded)
from device import models


@pytest.fixture(scope="session")
def models_folder() -> Path:
    """The default folder, with every model in it; 'bedside models fetch' puts them there."""
    folder = Path("~/.cache/bedside/models").expanduser()
    for name in models.TABLE:
        models.path(name, folder)
    return folder


@pytest.fixture(scope="module")
def pulse() -> Iterator[Pulse]:
    """PulseAudio as ALSA's only and default card."""
    if shutil.which("pulseaudio") is None:
        pytest.skip("pulseaudio is not installed: apt-get install pulseaudio pulseaudio-utils")
    folder = Path(tempfile.mkdtemp(prefix="bed"))  # short: a socket's path has 108 characters
    alsa = folder / "asound.conf"
    alsa.write_text("pcm.!default { type pulse }\nctl.!default { type pulse }\n")
    daemon = Pulse(folder)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_RUNTIME_DIR", "PULSE_RUNTIME_PATH", "XDG_CONFIG_HOME"):
            patch.setenv(name, str(folder))
        patch.setenv("PULSE_COOKIE", str(folder / "cookie"))
        patch.setenv("PULSE_SERVER", f"unix:{daemon.socket}")
        patch.setenv("ALSA_CONFIG_PATH", str(alsa))
        try:
            daemon.start()
            yield daemon
        finally:
            daemon.kill()
            shutil.rmtree(folder, ignore_errors=True)
