"""The 40-pin headers of Jetson carriers: which line of which GPIO chip each pin is, and what each pin may be called.

It opens no chip. The tables are NVIDIA's own, from `gpio_pin_data.py` of jetson-gpio 2.1.12.
"""

# Copyright (c) 2018-2025, NVIDIA CORPORATION. All rights reserved. (The three tables below.)
# Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files
# (the "Software"), to deal in the Software without restriction, including without limitation the rights to use, copy, modify, merge,
# publish, distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is furnished to do so,
# subject to the following conditions: The above copyright notice and this permission notice shall be included in all copies or
# substantial portions of the Software. THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING
# BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
# AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE,
# ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

DEVICE_TREE = Path("/proc/device-tree/compatible")
HEADER = "HDR40"  # as NVIDIA's device trees call it; on the boards it is J12, J30, …
MAIN_234, AON_234 = "tegra234-gpio", "tegra234-gpio-aon"
MAIN_264, AON_264 = "tegra264-gpio-main", "tegra264-gpio-aon"


class HeaderLine(NamedTuple):
    """One pin of the header that is a GPIO line."""

    number: int  # on the header, from 1
    name: str  # of the line, as the kernel has it
    chip: str  # label of the GPIO chip
    offset: int  # of the line on that chip
    bcm: int  # number of the Raspberry Pi's pin at this place
    cvm: str  # name on the module
    pwm: str = ""  # the PWM controller that the pinmux can connect here

    @property
    def board(self) -> str:
        return f"BOARD{self.number}"


class Carrier(NamedTuple):
    """A carrier board. `compatible` is a pattern for one string of the device tree; `output_only` are pins behind a one-way buffer."""

    model: str
    soc: str
    compatible: str
    lines: tuple[HeaderLine, ...]
    output_only: frozenset[int] = frozenset()


ORIN_NANO = (
    HeaderLine(7, "PAC.06", MAIN_234, 144, 4, "GPIO09"),
    HeaderLine(11, "PR.04", MAIN_234, 112, 17, "UART1_RTS"),
    HeaderLine(12, "PH.07", MAIN_234, 50, 18, "I2S0_SCLK"),
    HeaderLine(13, "PY.00", MAIN_234, 122, 27, "SPI1_SCK"),
    HeaderLine(15, "PN.01", MAIN_234, 85, 22, "GPIO12", "3280000.pwm"),
    HeaderLine(16, "PY.04", MAIN_234, 126, 23, "SPI1_CS1"),
    HeaderLine(18, "PY.03", MAIN_234, 125, 24, "SPI1_CS0"),
    HeaderLine(19, "PZ.05", MAIN_234, 135, 10, "SPI0_MOSI"),
    HeaderLine(21, "PZ.04", MAIN_234, 134, 9, "SPI0_MISO"),
    HeaderLine(22, "PY.01", MAIN_234, 123, 25, "SPI1_MISO"),
    HeaderLine(23, "PZ.03", MAIN_234, 133, 11, "SPI0_SCK"),
    HeaderLine(24, "PZ.06", MAIN_234, 136, 8, "SPI0_CS0"),
    HeaderLine(26, "PZ.07", MAIN_234, 137, 7, "SPI0_CS1"),
    HeaderLine(29, "PQ.05", MAIN_234, 105, 5, "GPIO01"),
    HeaderLine(31, "PQ.06", MAIN_234, 106, 6, "GPIO11"),
    HeaderLine(32, "PG.06", MAIN_234, 41, 12, "GPIO07", "32e0000.pwm"),
    HeaderLine(33, "PH.00", MAIN_234, 43, 13, "GPIO13", "32c0000.pwm"),
    HeaderLine(35, "PI.02", MAIN_234, 53, 19, "I2S0_FS"),
    HeaderLine(36, "PR.05", MAIN_234, 113, 16, "UART1_CTS"),
    HeaderLine(37, "PY.02", MAIN_234, 124, 26, "SPI1_MOSI"),
    HeaderLine(38, "PI.01", MAIN_234, 52, 20, "I2S0_SDIN"),
    HeaderLine(40, "PI.00", MAIN_234, 51, 21, "I2S0_SDOUT"),
)

# NVIDIA's device tree header for this carrier has BOARD16 and BOARD32 the other way round (PBB.00 and PBB.01): avoid both.
AGX_ORIN = (
    HeaderLine(7, "PQ.06", MAIN_234, 106, 4, "MCLK05"),
    HeaderLine(11, "PR.04", MAIN_234, 112, 17, "UART1_RTS"),
    HeaderLine(12, "PH.07", MAIN_234, 50, 18, "I2S2_CLK"),
    HeaderLine(13, "PR.00", MAIN_234, 108, 27, "PWM01", "32f0000.pwm"),
    HeaderLine(15, "PN.01", MAIN_234, 85, 22, "GPIO27", "3280000.pwm"),
    HeaderLine(16, "PBB.01", AON_234, 9, 23, "GPIO08"),
    HeaderLine(18, "PH.00", MAIN_234, 43, 24, "GPIO35", "32c0000.pwm"),
    HeaderLine(19, "PZ.05", MAIN_234, 135, 10, "SPI1_MOSI"),
    HeaderLine(21, "PZ.04", MAIN_234, 134, 9, "SPI1_MISO"),
    HeaderLine(22, "PP.04", MAIN_234, 96, 25, "GPIO17"),
    HeaderLine(23, "PZ.03", MAIN_234, 133, 11, "SPI1_CLK"),
    HeaderLine(24, "PZ.06", MAIN_234, 136, 8, "SPI1_CS0_N"),
    HeaderLine(26, "PZ.07", MAIN_234, 137, 7, "SPI1_CS1_N"),
    HeaderLine(29, "PAA.01", AON_234, 1, 5, "CAN0_DIN"),
    HeaderLine(31, "PAA.00", AON_234, 0, 6, "CAN0_DOUT"),
    HeaderLine(32, "PBB.00", AON_234, 8, 12, "GPIO09"),
    HeaderLine(33, "PAA.02", AON_234, 2, 13, "CAN1_DOUT"),
    HeaderLine(35, "PI.02", MAIN_234, 53, 19, "I2S2_FS"),
    HeaderLine(36, "PR.05", MAIN_234, 113, 16, "UART1_CTS"),
    HeaderLine(37, "PAA.03", AON_234, 3, 26, "CAN1_DIN"),
    HeaderLine(38, "PI.01", MAIN_234, 52, 20, "I2S2_DIN"),
    HeaderLine(40, "PI.00", MAIN_234, 51, 21, "I2S2_DOUT"),
)

THOR = (
    HeaderLine(7, "PL.06", MAIN_264, 86, 4, "MCLK05"),
    HeaderLine(11, "PM.04", MAIN_264, 92, 17, "UART1_RTS"),
    HeaderLine(12, "PV.06", MAIN_264, 21, 18, "I2S2_CLK"),
    HeaderLine(13, "PM.00", MAIN_264, 88, 27, "PWM01", "810c610000.pwm"),
    HeaderLine(15, "PF.07", MAIN_264, 127, 22, "GPIO27", "810c5e0000.pwm"),
    HeaderLine(16, "PDD.03", AON_264, 21, 23, "GPIO08"),
    HeaderLine(18, "PU.07", MAIN_264, 14, 24, "GPIO44", "810c600000.pwm"),
    HeaderLine(19, "PK.01", MAIN_264, 73, 10, "SPI1_MOSI"),
    HeaderLine(21, "PK.00", MAIN_264, 72, 9, "SPI1_MISO"),
    HeaderLine(22, "PU.00", MAIN_264, 7, 25, "I2S7_DIN"),
    HeaderLine(23, "PJ.07", MAIN_264, 71, 11, "SPI1_CLK"),
    HeaderLine(24, "PK.02", MAIN_264, 74, 8, "SPI1_CS0_N"),
    HeaderLine(26, "PK.03", MAIN_264, 75, 7, "SPI1_CS1_N"),
    HeaderLine(29, "PAD.01", AON_264, 1, 5, "CAN2_DIN"),
    HeaderLine(31, "PAD.00", AON_264, 0, 6, "CAN2_DOUT"),
    HeaderLine(32, "PDD.04", AON_264, 22, 12, "GPIO09"),
    HeaderLine(33, "PAE.00", AON_264, 2, 13, "CAN3_DOUT"),
    HeaderLine(35, "PW.01", MAIN_264, 24, 19, "I2S2_FS"),
    HeaderLine(36, "PM.05", MAIN_264, 93, 16, "UART1_CTS"),
    HeaderLine(37, "PAE.01", AON_264, 3, 26, "CAN3_DIN"),
    HeaderLine(38, "PW.00", MAIN_264, 23, 20, "I2S2_DIN"),
    HeaderLine(40, "PV.07", MAIN_264, 22, 21, "I2S2_DOUT"),
)

CARRIERS: dict[str, Carrier] = {
    "orin-nano": Carrier("Jetson Orin Nano/NX Developer Kit", "Tegra234", r"nvidia,p(3768|3509)-\d{4}\+p3767-\d{4}", ORIN_NANO),
    "agx-orin": Carrier("Jetson AGX Orin Developer Kit", "Tegra234", r"nvidia,p3737-\d{4}\+p3701-\d{4}", AGX_ORIN, frozenset({11})),
    "thor": Carrier("Jetson Thor reference carrier", "Tegra264", r"nvidia,p3971-\d{4}\+p3834-\d{4}", THOR, frozenset({11})),
}
# No header at all (jetson-gpio issue 135).
HEADERLESS = re.compile(r"nvidia,p4071-\d{4}\+p3834-\d{4}")

# The other 18 pins are the same on every carrier.
SUPPLY: dict[int, str] = {
    **dict.fromkeys((1, 17), "3V3"),
    **dict.fromkeys((2, 4), "5V"),
    **dict.fromkeys((6, 9, 14, 20, 25, 30, 34, 39), "GND"),
    **{3: "I2C SDA", 5: "I2C SCL", 8: "UART TXD", 10: "UART RXD", 27: "I2C SDA", 28: "I2C SCL"},
}


class NoHeader(LookupError):
    """This machine has no header that we know. One sentence says what it is and what to do."""


def is_jetson(device_tree: Path = DEVICE_TREE) -> bool:
    return any(text.startswith("nvidia,tegra") for text in compatible_strings(device_tree))


def compatible_strings(device_tree: Path = DEVICE_TREE) -> list[str]:
    """What the device tree says this machine is, most exact first; empty on a PC."""
    try:
        return [text for text in device_tree.read_text(encoding="ascii").split("\0") if text]
    except (OSError, UnicodeDecodeError):
        return []


def find_carrier(compatible: Sequence[str]) -> Carrier:
    """The carrier that the device tree's strings name. Raises NoHeader."""
    for text in compatible:
        for carrier in CARRIERS.values():
            if re.match(carrier.compatible, text):  # "-super" may follow
                return carrier
        if HEADERLESS.match(text):
            raise NoHeader(f"{text} (Jetson AGX Thor Developer Kit) has no 40-pin header: connect the buttons by USB.")
    raise NoHeader(f"No 40-pin header is known for {compatible[0] if compatible else 'this machine, which has no device tree'}: "
                   f"name its carrier, one of {', '.join(CARRIERS)}.")  # fmt: skip


def find_line(carrier: Carrier, name: object) -> HeaderLine | None:
    """The line called BOARD7, BCM4, PAC.06 or HDR40:7."""
    return next((line for line in carrier.lines if name in _names(line)), None)


def not_a_line(carrier: Carrier, name: object) -> str:
    """Why `name` is none of the carrier's lines, as a sentence with the way out.

    A bare number or GPIOnn means one pin in NVIDIA's numbering and another in the Raspberry Pi's: neither is guessed.
    """
    text = str(name)
    digits = text.upper().removeprefix("GPIO")
    if digits.isdigit():
        near = [f"{line.board} (BCM{line.bcm})" for line in carrier.lines if line.bcm == int(digits)]
        near += [f"{line.board} ({line.cvm} on the module)" for line in carrier.lines if line.cvm.upper() == text.upper()]
        near += [f"BOARD{digits}"] if text.isdigit() and int(digits) <= 40 else []
        return f"'{text}' is ambiguous on a Jetson" + (f", it may be {' or '.join(near)}" if near else "") + ": say BOARDn, BCMn or Pxx.nn."
    number = text.upper().removeprefix("BOARD")
    if number.isdigit() and int(number) in SUPPLY:
        return f"{text.upper()} is {SUPPLY[int(number)]} and no GPIO line: the lines are {_spoken(carrier)}."
    return f"'{text}' is no pin of the {carrier.model}: its lines are {_spoken(carrier)}."


def board_info(carrier: Carrier, revision: str, pulls: Mapping[str, str]) -> Any:
    """gpiozero's BoardInfo. `pulls`: BOARDn -> 'up' or 'down' for resistors that are soldered there.

    What a pin factory has no use for (ports, radios) is None or 0 rather than guessed.
    """
    from gpiozero.compat import frozendict
    from gpiozero.pins import BoardInfo, HeaderInfo, PinInfo

    lines = {line.number: line for line in carrier.lines}
    pins = {}
    for number in range(1, 41):
        line, (row, column) = lines.get(number), divmod(number - 1, 2)
        place = {f"{HEADER}:{number}", f"BOARD{number}"}
        if line is None:
            pins[number] = PinInfo(number, SUPPLY[number], frozenset(place | {SUPPLY[number]}), "", row + 1, column + 1, frozendict({}))
            continue
        interfaces = {"gpio": line.name, **({"pwm": line.pwm} if line.pwm else {})}
        names = frozenset(_names(line))
        pins[number] = PinInfo(number, line.board, names, pulls.get(line.board, ""), row + 1, column + 1, frozendict(interfaces))
    header = HeaderInfo(HEADER, 20, 2, frozendict(pins))
    megabytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
    return BoardInfo(
        revision=revision, model=carrier.model, pcb_revision=revision, released=None, soc=carrier.soc, manufacturer="NVIDIA",
        memory=megabytes, storage=None, usb=None, usb3=None, ethernet=None, eth_speed=None, wifi=None, bluetooth=None,
        csi=None, dsi=None, headers=frozendict({HEADER: header}),
        board=f"{{style:bold}}{carrier.model}{{style:reset}}\n{{{HEADER}:{{style}} col2}}\n{{{HEADER}:{{style}} col1}}\n",
    )  # fmt: skip


def _names(line: HeaderLine) -> set[str]:
    return {f"{HEADER}:{line.number}", line.board, f"BCM{line.bcm}", line.name}


def _spoken(carrier: Carrier) -> str:
    return ", ".join(line.board for line in carrier.lines)
