"""Where a checkpoint is: with the device, in a folder of this machine, or in the hub, fetched into its cache."""

from __future__ import annotations

import os
from pathlib import Path

from device.config import FIRMWARE
from device.voice.plain import VoiceFault

EMBEDDED = "embedded:"  # what comes with the device, in firmware_config: embedded:csm-small

SMALL = ["*.json", "*.jinja"]  # settings, tokenizer, index of the shards
# sesame/csm-1b holds its weights three times (transformers' shards, model.safetensors, ckpt.pt): the first of
# these that a repository has is fetched, and no other. The shards come first because Mimi is in them.
WEIGHTS = (["transformers-*.safetensors"], ["model-*.safetensors"], ["model.safetensors"], ["ckpt.pt"])


def locate(name: str) -> Path:
    """The folder of checkpoint `name`. Raises VoiceFault in one sentence with the way out."""
    if not name:
        raise VoiceFault("voice.csm_model is empty: name a CSM checkpoint, as sesame/csm-1b.")
    if name.startswith(EMBEDDED):
        return _embedded(name)
    folder = Path(os.path.expanduser(name))  # an unknown ~user stays as it is
    if folder.is_dir():
        return folder
    if name.startswith(("/", ".", "~")) or folder.exists():
        raise VoiceFault(f"{name} (voice.csm_model): no such folder: name a folder or hub repository of CSM.")
    return _from_hub(name)


def label(name: str) -> str:
    """What checkpoint `name` is called where a person reads it: csm-small, csm-1b."""
    return Path(name.removeprefix(EMBEDDED)).name


def _embedded(name: str) -> Path:
    folder = FIRMWARE / label(name)
    if not (folder / "config.json").is_file():
        known = ", ".join(EMBEDDED + file.parent.name for file in sorted(FIRMWARE.glob("*/model.safetensors")))
        raise VoiceFault(f"{name} (voice.csm_model): no such voice comes with the device; known are {known or 'none'}.")
    return folder


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    fetch = f"fetch it while online ('hf download {name}')"
    try:
        folder = Path(snapshot_download(name, allow_patterns=SMALL))
        for wanted in WEIGHTS:
            folder = Path(snapshot_download(name, allow_patterns=[*SMALL, *wanted]))
            if any(found for pattern in wanted for found in folder.glob(pattern)):
                return folder
    except GatedRepoError:
        raise VoiceFault(
            f"{name} is gated: accept its licence on huggingface.co/{name} and set HF_TOKEN, or give a folder in voice.csm_model."
        ) from None
    except RepositoryNotFoundError:
        raise VoiceFault(f"{name}: no such repository on the hub, or it needs a token: check voice.csm_model and HF_TOKEN.") from None
    except HFValidationError:
        raise VoiceFault(f"{name!r} is neither a folder nor a hub name: set voice.csm_model to a folder or to owner/name.") from None
    except LocalEntryNotFoundError:
        raise VoiceFault(
            f"{name} is not, or not wholly, on this machine and the hub can't be reached: {fetch}, or give a folder in voice.csm_model."
        ) from None
    # The hub's own errors, the disk's, and httpx's and json's, which are no OSErrors: a cut line, a hotel's sign-in page.
    except Exception as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code == 401:
            raise VoiceFault(f"{name}: the hub does not accept HF_TOKEN: set a valid one, or give a folder in voice.csm_model.") from None
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise VoiceFault(f"{name} could not be fetched ({why}): try again, or give a folder in voice.csm_model.") from error
    raise VoiceFault(f"{name} holds no weights of CSM, or was not wholly fetched: {fetch}, or name another in voice.csm_model.")
