"""gpiozero on a Jetson's header: what gpiozero expects of any factory, and what this one adds. On gpio-sim too, where it is."""

from __future__ import annotations

import gc
import logging
import re
import time
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from gpio_bench import BENCHES, LABEL, KernelBench, PeerBench
from gpiozero import LED, RGBLED, Button, DigitalInputDevice, DigitalOutputDevice, GPIODevice
from gpiozero import exc as gpio_exc
from gpiozero.pins import Factory

from device.jetson_boards import CARRIERS, ORIN_NANO, SUPPLY, NoHeader, compatible_strings, find_carrier, is_jetson
from device.jetson_lines import LineFault, pick_chips
from device.jetson_pins import JetsonFactory

ORIN = "nvidia,p3768-0000+p3767-0005-super"
BUTTON, LAMP = "PAC.06", "PN.01"  # BOARD7, BOARD15


def until(true: Callable[[], bool], what: str, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.002)


@pytest.fixture(params=BENCHES, ids=lambda bench: bench.__name__)
def bench(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = request.param()
    yield made
    made.close()


@pytest.fixture
def factory(bench: Any) -> Iterator[JetsonFactory]:
    """On a header with a pull-up soldered to pin 7, whose button is not pressed."""
    bench.pull(BUTTON, True)
    made = JetsonFactory("orin-nano", pulls={"BOARD7": "up"}, chips=bench.chips)
    yield made
    made.close()


# What gpiozero expects of a factory and its pins (after its own tests/test_real_pins.py) -------------------------


def test_it_is_a_factory_that_gpiozero_finds_by_name(factory: JetsonFactory) -> None:
    assert isinstance(factory, Factory)
    (entry,) = entry_points(group="gpiozero_pin_factories", name="jetson")
    assert entry.load() is JetsonFactory


def test_the_same_pin_is_the_same_object_under_all_its_names(factory: JetsonFactory) -> None:
    pin = factory.pin("BOARD7")
    assert {id(factory.pin(name)) for name in ("BOARD7", "BCM4", "PAC.06", "HDR40:7")} == {id(pin)}
    assert factory.pin("BOARD15") is not pin
    assert pin.info.name == repr(pin) == "BOARD7"
    assert pin.factory is factory


def test_a_device_knows_the_factory_it_was_given(factory: JetsonFactory) -> None:
    with GPIODevice("BOARD7", pin_factory=factory) as device:
        assert device.pin_factory is factory
        assert device.value == 1


def test_an_output_shows_each_level_and_nothing_else(factory: JetsonFactory, bench: Any) -> None:
    pin = factory.pin("BOARD15")
    pin.function = "output"
    for level in (1, 0, True, False):
        pin.state = level
        assert bench.level(LAMP) == pin.state == bool(level)
    with pytest.raises(gpio_exc.PinInvalidState, match="0 or 1"):
        pin.state = 0.5


@pytest.mark.parametrize("level", [True, False])
def test_an_output_begins_with_its_first_level(factory: JetsonFactory, bench: Any, level: bool) -> None:
    bench.pull(LAMP, not level)
    pin = factory.pin("BOARD15")
    pin.output_with_state(level)
    assert (pin.function, pin.state, bench.level(LAMP)) == ("output", level, level)


def test_a_pin_that_turns_output_keeps_the_level_it_has(factory: JetsonFactory, bench: Any) -> None:
    bench.pull(LAMP, True)
    pin = factory.pin("BOARD15")
    pin.function = "input"
    pin.function = "output"
    assert bench.level(LAMP)


def test_wrong_functions_edges_and_pulls_are_refused(factory: JetsonFactory) -> None:
    pin = factory.pin("BOARD15")
    with pytest.raises(gpio_exc.PinInvalidFunction, match="'foo'"):
        pin.function = "foo"
    with pytest.raises(gpio_exc.PinInvalidEdges, match="'foo'"):
        pin.edges = "foo"
    pin.function = "input"
    for refused in (lambda: setattr(pin, "pull", "foo"), lambda: pin.input_with_pull("foo")):
        with pytest.raises(gpio_exc.PinInvalidPull, match="'foo'"):
            refused()
    with pytest.raises(gpio_exc.PinSetInput):
        pin.state = 1
    pin.function = "output"
    with pytest.raises(gpio_exc.PinFixedPull):
        pin.pull = "up"
    with pytest.raises(gpio_exc.PinEdgeDetectUnsupported):
        pin.when_changed = test_wrong_functions_edges_and_pulls_are_refused


def test_a_soldered_pull_is_fixed_and_any_other_is_refused(factory: JetsonFactory) -> None:
    """As GPIO2 on a Raspberry Pi; and the sentence says how to declare one."""
    wired, bare = factory.pin("BOARD7"), factory.pin("BOARD15")
    wired.input_with_pull("up")
    assert (wired.pull, bare.pull) == ("up", "floating")
    for pin, pull in ((wired, "down"), (wired, "floating"), (bare, "up"), (bare, "down")):
        for refused in (lambda pin=pin, pull=pull: setattr(pin, "pull", pull), lambda pin=pin, pull=pull: pin.input_with_pull(pull)):
            with pytest.raises(gpio_exc.PinFixedPull):
                refused()
    with pytest.raises(gpio_exc.PinFixedPull, match=r"no bias.*JetsonFactory\(pulls=\{'BOARD15': 'up'\}\)"):
        Button("BOARD15", pin_factory=factory)
    assert Button("BOARD15", pull_up=None, active_state=False, pin_factory=factory).is_pressed  # low, and so pressed


@pytest.mark.parametrize(("pin", "why"), [("BOARD15", "3280000.pwm"), ("BOARD7", "no PWM")])
def test_dimming_is_refused_with_the_reason(factory: JetsonFactory, pin: str, why: str) -> None:
    with pytest.raises(gpio_exc.PinPWMUnsupported, match=rf"{why}.*pwm=False"):
        factory.pin(pin).frequency = 100
    assert factory.pin(pin).frequency is None


def test_one_pin_has_one_device_and_is_free_again_after_it(factory: JetsonFactory) -> None:
    with LED("BOARD15", pin_factory=factory), pytest.raises(gpio_exc.GPIOPinInUse, match="BOARD15"):
        Button("BCM22", pull_up=None, active_state=True, pin_factory=factory)  # BOARD15 by another name
    LED("BOARD15", pin_factory=factory).close()


def test_time_is_the_kernels(factory: JetsonFactory) -> None:
    before = factory.ticks()
    assert abs(before - time.monotonic()) < 1
    assert factory.ticks_diff(before + 2, before) == 2


def test_the_board_can_be_printed(factory: JetsonFactory) -> None:
    """`pinout` and board_info's formats are for Raspberry Pis, but work."""
    info = factory.board_info
    assert "Orin Nano" in f"{info:mono specs}"
    assert "Orin Nano" in f"{info:mono board}"
    assert "BOARD15" in f"{info:mono headers}"
    assert info.headers["HDR40"].pins[15].interfaces["pwm"] == "3280000.pwm"
    assert info.headers["HDR40"].pins[1].name == "3V3"
    assert info.to_gpio("PAC.06") == "BOARD7"


def test_spi_is_refused_as_gpiozero_does(factory: JetsonFactory) -> None:
    with pytest.raises(gpio_exc.PinSPIUnsupported):
        factory.spi(port=0, device=0)


# gpiozero's devices, unchanged -----------------------------------------------------------------------------------


def test_a_button_is_pressed_held_and_released(factory: JetsonFactory, bench: Any) -> None:
    """A button to ground on pin 7, from the threads of the kernel's edges."""
    seen: list[str] = []
    with Button("BOARD7", hold_time=0.05, pin_factory=factory) as button:
        button.when_pressed = lambda: seen.append("pressed")
        button.when_held = lambda: seen.append("held")
        button.when_released = lambda: seen.append("released")
        bench.pull(BUTTON, False)
        until(lambda: seen == ["pressed", "held"], "press and hold")
        bench.pull(BUTTON, True)
        until(lambda: seen == ["pressed", "held", "released"], "release")
    bench.pull(BUTTON, False)
    bench.pull(BUTTON, True)
    time.sleep(0.05)  # a closed button is deaf
    assert len(seen) == 3


def test_an_edge_has_the_time_at_which_the_kernel_saw_it(factory: JetsonFactory, bench: Any) -> None:
    with Button("BOARD7", pin_factory=factory) as button:
        before = time.monotonic()
        bench.pull(BUTTON, False)
        after = time.monotonic()
        until(lambda: button.is_pressed and button.active_time is not None, "the press")
        time.sleep(0.02)
        pressed = factory.ticks() - button.active_time
        assert before - 0.001 <= pressed <= after + 0.02
        bench.pull(BUTTON, True)
        until(lambda: not button.is_pressed, "the release")


@pytest.mark.parametrize(("edges", "levels"), [("rising", [True] * 3), ("falling", [False] * 3), ("both", [False, True] * 3), ("none", [])])
def test_only_the_chosen_edges_are_told(factory: JetsonFactory, bench: Any, edges: str, levels: list[bool]) -> None:
    seen: list[bool] = []

    def told(ticks: float, level: bool) -> None:
        seen.append(level)

    pin = factory.pin("BOARD7")
    pin.function = "input"
    pin.edges = edges
    pin.when_changed = told
    assert pin.when_changed is told
    for high in [False, True] * 3:
        bench.pull(BUTTON, high)
        time.sleep(0.01)  # the kernel joins edges that are closer than it can look
    until(lambda: len(seen) >= len(levels), "the edges")
    time.sleep(0.02)
    assert seen == levels
    pin.when_changed = None
    bench.pull(BUTTON, False)
    time.sleep(0.02)
    assert seen == levels


def test_ten_thousand_edges_leave_no_stuck_button(factory: JetsonFactory, bench: Any) -> None:
    """Faster than anyone reads: the kernel drops old edges, and the last level is still the right one."""
    presses = []
    with Button("BOARD7", pin_factory=factory) as button:
        button.when_pressed = lambda: presses.append(1)
        for _ in range(5000):
            bench.pull(BUTTON, False)
            bench.pull(BUTTON, True)
        until(lambda: not button.is_pressed and button.inactive_time is not None, "the last release")
        bench.pull(BUTTON, False)
        until(lambda: button.active_time is not None, "a press after the storm")
    assert presses


def test_the_kernel_is_asked_to_debounce(factory: JetsonFactory, bench: Any) -> None:
    with Button("BOARD7", bounce_time=0.02, pin_factory=factory):
        info = bench.info(BUTTON)
        assert (info.debounced, info.debounce_period.total_seconds()) == (True, 0.02)
    assert not bench.info(BUTTON).debounced
    with pytest.raises(gpio_exc.PinInvalidBounce, match=r"0\.255 s"):
        Button("BOARD7", bounce_time=0.3, pin_factory=factory)


@pytest.mark.skipif(KernelBench not in BENCHES, reason="only a kernel debounces: gpio-sim is not loaded here")
def test_a_bouncing_contact_is_one_press() -> None:
    bench = KernelBench()
    bench.pull(BUTTON, True)
    seen: list[str] = []
    factory = JetsonFactory("orin-nano", pulls={"BOARD7": "up"}, chips=bench.chips)
    with Button("BOARD7", bounce_time=0.05, pin_factory=factory) as button:
        button.when_pressed = lambda: seen.append("pressed")
        button.when_released = lambda: seen.append("released")
        for _ in range(20):
            for high in [False, True] * 10 + [False]:
                bench.pull(BUTTON, high)
            until(lambda: button.is_pressed, "the press")
            for high in [True, False] * 10 + [True]:
                bench.pull(BUTTON, high)
            until(lambda: not button.is_pressed, "the release")
    factory.close()
    bench.close()
    assert seen == ["pressed", "released"] * 20


def test_lamps_light_blink_and_go_dark(factory: JetsonFactory, bench: Any) -> None:
    with LED("BOARD15", pin_factory=factory) as led:
        led.on()
        assert bench.level(LAMP)
        led.blink(0.01, 0.01)
        levels = set()
        until(lambda: levels.add(bench.level(LAMP)) or len(levels) == 2, "blinking")
        led.off()
        assert not bench.level(LAMP)
    with DigitalOutputDevice("BOARD15", active_high=False, initial_value=False, pin_factory=factory) as output:
        assert bench.level(LAMP)
        output.on()
        assert not bench.level(LAMP)


def test_a_three_colour_lamp_shows_its_colour(factory: JetsonFactory, bench: Any) -> None:
    names = {"BOARD29": "PQ.05", "BOARD31": "PQ.06", "BOARD33": "PH.00"}
    with RGBLED(*names, pwm=False, pin_factory=factory) as lamp:
        lamp.color = (1, 0, 1)
        assert [bench.level(name) for name in names.values()] == [True, False, True]
    with pytest.raises(gpio_exc.PinPWMUnsupported):
        RGBLED(*names, pin_factory=factory)


def test_a_handler_that_fails_does_not_make_the_others_deaf(factory: JetsonFactory, bench: Any, caplog: pytest.LogCaptureFixture) -> None:
    seen = []
    with Button("BOARD7", pin_factory=factory) as button, caplog.at_level(logging.ERROR):
        button.when_pressed = lambda: 1 / 0
        button.when_released = lambda: seen.append(1)
        bench.pull(BUTTON, False)
        time.sleep(0.01)
        bench.pull(BUTTON, True)
        until(lambda: bool(seen), "the release after the failure")
    assert "ZeroDivisionError" in caplog.text


def test_edges_that_come_together_are_all_told_though_one_handler_fails(caplog: pytest.LogCaptureFixture) -> None:
    bench, seen = PeerBench(), []
    bench.pull(BUTTON, True)
    factory = JetsonFactory("orin-nano", pulls={"BOARD7": "up"}, chips=bench.chips)
    with Button("BOARD7", pin_factory=factory) as button, factory.pin("BOARD7")._lock:
        button.when_pressed = lambda: 1 / 0
        button.when_released = lambda: seen.append(1)
        bench.pull(BUTTON, False)  # the lock keeps the thread from reading until both are there
        bench.pull(BUTTON, True)
        factory.pin("BOARD7")._lock.release()
        until(lambda: bool(seen), "the release")
        factory.pin("BOARD7")._lock.acquire()
    factory.close()


def test_a_forgotten_device_is_let_go(factory: JetsonFactory, bench: Any) -> None:
    """gpiozero's devices are held weakly by their pins, so that an unused one can be collected."""
    device = DigitalInputDevice("BOARD7", pull_up=True, pin_factory=factory)
    assert factory.pin("BOARD7").when_changed is not None
    del device
    gc.collect()
    bench.pull(BUTTON, False)
    until(lambda: factory.pin("BOARD7").when_changed is None, "the weak reference's end")


# Lines are held ---------------------------------------------------------------------------------------------------


def test_a_line_stays_held_when_its_device_closes_and_is_free_when_the_factory_does(bench: Any) -> None:
    """What lets go of a line can lose its pad until the next boot (JetPack 6.0 to 6.2.1)."""
    factory = JetsonFactory("orin-nano", chips=bench.chips)
    assert not bench.info(LAMP).used  # to know a pin takes nothing
    assert factory.pin("BOARD15").function == "input"
    assert not bench.info(LAMP).used
    for _ in range(3):
        LED("BOARD15", initial_value=True, pin_factory=factory).close()
        assert bench.info(LAMP).consumer == "gpiozero"
        for level in (True, False):  # an input again: what is soldered to it decides
            bench.pull(LAMP, level)
            assert bench.level(LAMP) is level
    factory.close()
    assert not bench.info(LAMP).used


def test_a_pin_in_use_names_who_has_it(factory: JetsonFactory, bench: Any) -> None:
    bench.take(LAMP, "kitchen-timer")
    with pytest.raises(gpio_exc.GPIOPinInUse, match=r"BOARD15 \(line 85 of tegra234-gpio\) is in use by 'kitchen-timer'"):
        LED("BOARD15", pin_factory=factory)


# Names and boards -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (7, r"'7' is ambiguous.*BOARD26 \(BCM7\).*BOARD7"),
        ("GPIO12", r"ambiguous.*BOARD32 \(BCM12\).*BOARD15 \(GPIO12 on the module\)"),
        ("GPIO09", r"ambiguous.*BOARD21 \(BCM9\).*BOARD7 \(GPIO09 on the module\)"),
        ("BOARD1", r"BOARD1 is 3V3 and no GPIO line"),
        ("BOARD99", r"no pin of the Jetson Orin Nano"),
        ("PZ.99", r"no pin of the Jetson Orin Nano.*BOARD7, BOARD11"),
        ("I2S0_FS", r"no pin of"),
    ],
)  # fmt: skip
def test_a_name_that_is_no_pin_or_two_is_refused_in_one_sentence(name: object, said: str) -> None:
    factory = JetsonFactory("orin-nano", chips=PeerBench().chips)
    with pytest.raises(gpio_exc.PinInvalidPin, match=said) as caught:
        LED(name, pin_factory=factory)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("carrier", CARRIERS.values(), ids=lambda c: c.model)
def test_every_table_is_a_whole_header_whose_names_mean_one_pin(carrier: Any) -> None:
    assert {line.number for line in carrier.lines} | set(SUPPLY) == set(range(1, 41))
    assert len(carrier.lines) + len(SUPPLY) == 40
    assert len({(line.chip, line.offset) for line in carrier.lines}) == len(carrier.lines) == len({line.bcm for line in carrier.lines})
    assert len({line.name for line in carrier.lines}) == len(carrier.lines)
    assert {line.bcm for line in carrier.lines} == {4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27}


# Lines of the chip before each port that a header uses, from the port tables of Linux's gpio-tegra186.c (tegra234 main and aon).
PORTS_234 = {
    LABEL: {"G": 35, "H": 43, "I": 51, "N": 84, "P": 92, "Q": 100, "R": 108, "Y": 122, "Z": 130, "AC": 138},
    "tegra234-gpio-aon": {"AA": 0, "BB": 8},
}


@pytest.mark.parametrize("board", ["orin-nano", "agx-orin"])
def test_offsets_follow_from_the_ports_of_the_chip(board: str) -> None:
    for line in CARRIERS[board].lines:
        port, number = re.fullmatch(r"P([A-Z]+)\.(\d\d)", line.name).groups()  # type: ignore[union-attr]
        assert line.offset == PORTS_234[line.chip][port] + int(number), line


@pytest.mark.parametrize(
    ("strings", "model"),
    [
        ([ORIN, "nvidia,p3767-0005", "nvidia,tegra234"], "Orin Nano"),
        (["nvidia,p3509-0000+p3767-0000", "nvidia,tegra234"], "Orin Nano"),
        (["oe4t,p3768-0000+p3767-0005+demo", "nvidia,p3768-0000+p3767-0005-super"], "Orin Nano"),
        (["nvidia,p3737-0000+p3701-0005", "nvidia,tegra234"], "AGX Orin"),
        (["nvidia,p3971-0080+p3834-0008", "nvidia,tegra264"], "Thor"),
    ],
)
def test_the_device_tree_names_the_carrier(strings: list[str], model: str) -> None:
    assert model in find_carrier(strings).model


@pytest.mark.parametrize(
    ("strings", "said"),
    [
        (["nvidia,p4071-0000+p3834-0008", "nvidia,tegra264"], "no 40-pin header: connect the buttons by USB"),
        (["acme,board"], "acme,board.*orin-nano, agx-orin, thor"),
        ([], "no device tree"),
    ],
)
def test_a_machine_without_a_known_header_says_so(strings: list[str], said: str) -> None:
    with pytest.raises(NoHeader, match=said):
        find_carrier(strings)


def test_a_device_tree_is_read_as_the_kernel_writes_it(tmp_path: Path) -> None:
    file = tmp_path / "compatible"
    file.write_bytes(f"{ORIN}\0nvidia,tegra234\0".encode())
    assert compatible_strings(file) == [ORIN, "nvidia,tegra234"]
    assert is_jetson(file)
    assert not is_jetson(tmp_path / "none")


def test_a_carrier_that_does_not_fit_the_kernel_is_refused() -> None:
    """The kernel's own line names are believed, and lines without a name are taken by offset."""
    wrong = PeerBench(names={line.offset: "PX.01" if line.number == 7 else line.name for line in ORIN_NANO})
    factory = JetsonFactory("orin-nano", chips=wrong.chips)
    with pytest.raises(gpio_exc.PinInvalidPin, match=r"BOARD7 should be PAC\.06, but the kernel calls line 144 of tegra234-gpio 'PX\.01'"):
        factory.pin("BOARD7")
    nameless = PeerBench(names={line.offset: "" for line in ORIN_NANO})
    assert not LED("BOARD7", pin_factory=JetsonFactory("orin-nano", chips=nameless.chips)).is_lit


def test_a_pin_behind_an_output_buffer_is_no_input() -> None:
    agx = CARRIERS["agx-orin"].lines
    chips = {label: PeerBench(label, {ln.offset: ln.name for ln in agx if ln.chip == label}).chip for label in {ln.chip for ln in agx}}
    factory = JetsonFactory("agx-orin", chips=lambda *labels: {label: chips[label] for label in labels})
    with pytest.raises(gpio_exc.PinInvalidFunction, match="BOARD11 is behind an output buffer"):
        Button("BOARD11", pull_up=None, active_state=False, pin_factory=factory)
    LED("BOARD11", pin_factory=factory).close()


def test_a_chip_that_is_missing_or_denied_says_which_and_what_to_do() -> None:
    def denied(path: str) -> Any:
        raise PermissionError(13, "Permission denied", path)

    with pytest.raises(LineFault, match=r"/dev/gpiochip0.*group gpio.*99-bedside\.rules"):
        pick_chips((LABEL,), ["/dev/gpiochip0"], denied)
    other = PeerBench("raspberrypi,gpio")
    with pytest.raises(gpio_exc.BadPinFactory, match=r"labelled tegra234-gpio \(here: raspberrypi,gpio\)"):
        JetsonFactory("orin-nano", chips=other.chips)
    assert not other.chip.open
    with pytest.raises(LineFault, match="here: none"):
        pick_chips((LABEL,), [], denied)


@pytest.mark.parametrize(("arguments", "said"), [
    ({"board": "orin-nano", "pulls": {"BOARD99": "up"}}, "BOARD99"),
    ({"board": "orin-nano", "pulls": {"BOARD7": "sideways"}}, "'sideways'"),
    ({"board": "pi"}, "'pi' is no carrier.*orin-nano"),
])  # fmt: skip
def test_wrong_arguments_are_named(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError if "pulls" in arguments else gpio_exc.BadPinFactory, match=said):
        JetsonFactory(chips=PeerBench().chips, **arguments)
