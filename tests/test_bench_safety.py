"""`bedside bench safety`: the figures against counts made by hand, our own spoken sentences, and files that can't be measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from device.__main__ import main
from device.bench_safety import BenchSafetyError, figures, read, wilson

OWN = Path(__file__).parent / "data" / "safety"


def test_rates_are_counted_for_each_source_and_absent_where_there_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, report = tmp_path / "few.tsv", tmp_path / "out.json"
    rows = ["risk\tsource\ttext", "1\ta\tI want to die", "1\ta\tthe sky is blue", "0\ta\tI like tea", '0\tb\tI want to die\r "x"', "", ""]
    file.write_bytes("\n".join(rows).encode())
    assert main(["bench", "safety", str(file), "--json", str(report), "--wrong"]) == 0
    found = json.loads(report.read_text())
    assert (found["recall"], found["false_positive_rate"], found["n"]) == (0.5, 0.5, 4)
    assert found["sources"]["a"] == {
        "n": 3, "recall": 0.5, "recall_interval": wilson(1, 2), "recall_counts": [1, 2],
        "false_positive_rate": 0.0, "false_positive_rate_interval": wilson(0, 1), "false_positive_rate_counts": [0, 1],
    }  # fmt: skip
    assert "recall" not in found["sources"]["b"]
    printed = capsys.readouterr().out
    assert "1/2 = 0.500 (0.095-0.905)" in printed
    assert "missed\ta\tthe sky is blue" in printed


def test_wilson_agrees_with_the_published_example() -> None:
    """Newcombe 1998, Stat. Med. 17:857, table I: 81 of 263 is 0.2553 to 0.3662, 0 of 20 is 0 to 0.1611."""
    assert wilson(81, 263) == [0.2553, 0.3662]
    assert wilson(0, 20) == [0.0, 0.1611]
    assert wilson(20, 20)[1] == 1.0


@pytest.mark.parametrize(
    ("name", "recall", "mistaken"), [("spoken.tsv", 0.95, 0.05), ("spoken_more.tsv", 0.9, 0.05), ("heldout.tsv", 0.9, 0.05)]
)
def test_our_own_spoken_sentences_are_told_apart(name: str, recall: float, mistaken: float) -> None:
    found = figures(read(OWN / name))
    assert found["recall"] >= recall
    assert found["false_positive_rate"] <= mistaken


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"risk\ttext\n1\tx\n", r"few\.tsv:1: the columns are 'risk, text'"),
        (b"risk\tsource\ttext\n2\ta\tx\n", r"few\.tsv:2: '2.+a.+x': needed are 0 or 1"),
        (b"risk\tsource\ttext\n1\ta\n", r"few\.tsv:2: "),
        (b"risk\tsource\ttext\n", r"no sentence in it"),
        (b"\xff\xfe", r"no text in UTF-8"),
        (None, r"No such file.*name a tab-separated file"),
    ],
)  # fmt: skip
def test_a_file_that_can_not_be_measured_is_named_with_its_line(tmp_path: Path, text: bytes | None, told: str) -> None:
    file = tmp_path / "few.tsv"
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(BenchSafetyError, match=told.replace(".t", r"\\\\t") if "2.ta" in told else told):
        read(file)


def test_the_command_without_a_file_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "safety"]) == 1
    assert "bench safety needs a FILE.tsv" in capsys.readouterr().err
