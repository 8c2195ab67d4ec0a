"""What every test may ask for: the folder of the fetched models. It downloads nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from device import models


@pytest.fixture(scope="session")
def models_folder() -> Path:
    """The default folder, with every model in it; 'bedside models fetch' puts them there."""
    folder = Path("~/.cache/bedside/models").expanduser()
    for name in models.TABLE:
        models.path(name, folder)
    return folder
