"""What every test may ask for: the folder of the fetched models, and a sound server. It downloads nothing."""

from __future__ import annotations

import logging
import resource
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

import device.voice  # noqa: F401 (it tells OpenMP not to spin, before torch is loaded)
from device import models
from device.bench_sound import Pulse

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("bedside", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("bedside")


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
    daemon = Pulse(folder)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in daemon.environment.items():
            patch.setenv(name, value)
        try:
            daemon.start()
            yield daemon
        finally:
            daemon.kill()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file of this process may grow over 400 kB while the fixture holds: the disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, old)


@pytest.fixture(autouse=True)
def _own_logs() -> Iterator[None]:
    """A command that ran in this process has set up its log: the next test hears everything, and nothing writes where it wrote."""
    root, ours = logging.getLogger(), logging.getLogger("bedside")
    level, before = ours.level, root.handlers[:]
    yield
    ours.setLevel(level)
    for handler in root.handlers[:]:
        if type(handler) is logging.StreamHandler and handler not in before:
            root.removeHandler(handler)
