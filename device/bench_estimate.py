"""The estimate's side of `bedside bench eeg`, on the recordings of tests/data/eeg: it needs a checkout. It judges no figure."""

from __future__ import annotations

import functools
import runpy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device.affect import Estimator, bench_estimate
from device.bench_headset import collect, fake_cyton, memory_mb, reading, wait_for
from device.boards import CYTON_FULL_SCALE_UV
from device.config import ROOT
from device.eeg_evaluate import recordings, subjects
from device.eeg_features import Spectrum
from device.eeg_feed import Feed
from device.eeg_filter import Conditioner
from device.eeg_quality import refused
from device.eeg_windows import Windows
from device.emulator import read_recording
from device.quiet import learn

Array = NDArray[np.float64]

DATA = ROOT / "tests/data/eeg"
ALPHA_AND_ARTEFACTS = DATA / "OpenBCI_GUI-v6-blinks-jawClench-alpha.txt"
RAILED = DATA / "OpenBCI_2016-02-13_Jordan_focus.txt"
EEGMAT = DATA / "eegmat18_14ch_128hz_int16.npz"
FLICKER = DATA / "muse-ssvep.csv"
NAMES = ["Fp1", "Fp2", "C3", "C4", "P7", "P8", "O1", "O2"]
RATE = 250.0
# Seconds of ALPHA_AND_ARTEFACTS, read from its spectrogram.
OPEN, CLOSED = (19.0, 27.0), (29.0, 73.0)
SPOILT = {"blink": [(3.5, 7.5), (14.0, 18.5)], "jaw": [(8.0, 13.5), (82.0, 85.0)], "motion": [(85.5, 90.0)]}
WEARERS_ALPHA = (9.0, 12.5)  # Hz
DAY = 24 * 3600


def verdicts(samples: Array, usual: Sequence[tuple[float, float] | None] | None = None) -> list[tuple[float, str]]:
    """(end in seconds, refusal) of each 2 s verdict, every half second of [8, samples] in uV; `usual` as in Windows."""
    windows, out, step = Windows(NAMES, RATE), [], round(RATE / 2)
    windows.usual = usual
    for at in range(0, samples.shape[1] - step + 1, step):
        list(windows.hear(samples[:, at : at + step]))
        if windows.channels:
            out.append((windows.seconds, refused(windows.channels)))
    return out


def within(found: Sequence[tuple[float, str]], spans: Sequence[tuple[float, float]]) -> list[str]:
    """The refusals of the verdicts whose 2 s lie whole in one of `spans`."""
    return [why for end, why in found if any(a <= end - 2 + 1e-6 and end <= b + 1e-6 for a, b in spans)]


def refused_share(found: Sequence[tuple[float, str]], spans: Sequence[tuple[float, float]]) -> float:
    return float(np.mean([bool(why) for why in within(found, spans)]))


def alpha_ratio(samples: Array) -> Array:
    """By channel: power of the wearer's alpha, eyes closed over open, causally conditioned."""
    clean, spectrum = Conditioner(RATE)(samples), Spectrum(RATE)

    def power(span: tuple[float, float]) -> Array:
        starts = range(round(span[0] * RATE), round(span[1] * RATE) - spectrum.size + 1, spectrum.size // 2)
        shares = [spectrum.share(spectrum.power(clean[:, s : s + spectrum.size]), *WEARERS_ALPHA) for s in starts]
        return np.asarray(np.mean(shares, axis=0))

    return power(CLOSED) / power(OPEN)


def end_to_end(folder: Path) -> dict[str, float]:
    """The recording through a pty and BrainFlow's Cyton driver at 20 times real time, then through the gate."""
    count = read_recording(ALPHA_AND_ARTEFACTS).shape[1] - 1  # the newest sample waits for the next one's count
    with fake_cyton(folder, 20.0, ALPHA_AND_ARTEFACTS) as (port, _), reading(board="cyton", port=str(port)) as headset:
        wait_for(lambda: headset.arriving, 10.0, "the first sample")
        samples = np.concatenate([block.samples for block in collect(headset, count, 30.0)], axis=1)[:, :count].astype(np.float64)
    found, ratio = verdicts(samples), alpha_ratio(samples)
    return {
        "samples": samples.shape[1],
        "alpha_ratio_o1": float(ratio[6]),
        "alpha_ratio_o2": float(ratio[7]),
        **{f"{name}_refused": refused_share(found, spans) for name, spans in SPOILT.items()},
        "clean_kept": 1 - refused_share(found, [OPEN, CLOSED]),
        "verdicts": len(found),
    }


def people(layout: str) -> dict[str, float]:
    """Leave-one-subject-out on EEGMAT, weights and calibration nested: what scripts/train-engagement reports, trained anew."""
    report: dict[str, Any] = _trainer()["leave_one_out"](layout, subjects(EEGMAT, layout)[0])
    return {
        "subjects": report["subjects"],
        **{key: report[key] for key in ("auc", "auc_null", "ece")},
        **{f"accuracy_surest_{c['coverage']:.0%}": c["accuracy"] for c in report["coverage"]},
    }


@functools.cache
def _trainer() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "scripts/train-engagement"))


def silence() -> dict[str, float]:
    """What must not be spoken of: a recording without contact, and quiet minutes whose "closed eyes" were open."""
    estimator = Estimator(NAMES, RATE, CYTON_FULL_SCALE_UV)
    estimator.begin_baseline()
    said = estimator.hear(read_recording(RAILED))
    tried = unseen = 0
    sure = [0.0]
    for _, names, rest, task, rate in recordings(EEGMAT, "cyton8"):
        tried, minute, half = tried + 1, round(60 * rate), round(30 * rate)
        rest = rest.astype(np.float32)
        baseline = learn(rest[:, :minute], rest[:, minute : minute + half], rate, names, CYTON_FULL_SCALE_UV, 0.0).baseline
        if baseline is not None and not baseline.seen:
            unseen += 1
            sure += [affect.confidence for affect in Estimator(names, rate, CYTON_FULL_SCALE_UV, baseline).hear(task)]
    return {
        "railed_windows": len(said),
        "railed_abstained": float(np.mean([affect.engagement is None and bool(affect.reason) for affect in said])),
        "people": tried,
        "alpha_not_seen": unseen,
        "confidence_without_alpha": max(sure),
    }


def flicker() -> dict[str, float]:
    """A Muse's file: the response at 20 Hz to a light that flickers at 20 Hz, over the frequencies beside it, conditioned causally."""
    table = np.genfromtxt(FLICKER, delimiter=",", skip_header=1)
    signal, marker, rate = table[:, 1:5].T, table[:, 6], 256.0
    clean, spectrum = Conditioner(rate)(signal), Spectrum(rate)
    powers = []
    for begin in np.flatnonzero(marker == 2):  # the light that flickers at 20 Hz
        part = clean[:, begin + round(rate / 2) :][:, : spectrum.size]
        if part.shape[1] == spectrum.size and np.ptp(part, axis=1).max() < 300:
            powers.append(spectrum.power(part))
    mean, at = np.mean(powers, axis=0), int(np.abs(spectrum.frequency - 20).argmin())
    beside = np.concatenate([mean[:, at - 4 : at - 1], mean[:, at + 2 : at + 5]], axis=1).mean(axis=1)
    ratios = zip(("tp9", "af7", "af8", "tp10"), mean[:, at] / beside, strict=True)
    return {"flickers": len(powers), **{f"snr_{name}": float(ratio) for name, ratio in ratios}}


def cost() -> dict[str, float]:
    """The estimate alone, without the driver: CPU of eight channels at 250 Hz."""
    figures = bench_estimate()
    return {"us_per_second_of_data": figures["us_per_second"], "core_percent": 100 * figures["core_share"]}


def day() -> dict[str, float]:
    """24 hours of signal, as fast as it can be estimated: the packaged 90 s again and again through the feed, baseline and all."""
    from device.blocks import Block

    samples = read_recording(ALPHA_AND_ARTEFACTS).astype(np.float32)

    def blocks() -> Iterator[Block]:
        second = round(RATE)
        for n in range(DAY):
            at = n % 90 * second
            yield Block(samples[:, at : at + second], n * second, RATE, NAMES, gap=n % 90 == 0)

    feed, first, highest, estimates = Feed(_Present()), 0.0, 0.0, 0
    for n, block in enumerate(blocks()):
        estimates += len(feed.hear([block]))
        if n % 3600 == 1800 and feed.estimator is not None:
            feed.estimator.begin_baseline()
        if n >= 3600 and n % 600 == 0:
            now = memory_mb()
            first, highest = first or now, max(highest, now)
    return {"hours": DAY / 3600, "estimates": estimates, "memory_growth_mb": highest - first}


class _Present:
    """A headset that is there."""

    reason = ""
