"""The report: what it must say, what it must never suggest, and that nothing in a name can change the page."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import sgsc_micro
from sgsc_micro.errors import SgscError
from sgsc_micro.report import write_report

SCHEMA = json.loads((Path(sgsc_micro.__file__).parent / "verify" / "certificate.schema.json").read_text())
HOSTILE = "</svg></style>--><script>alert('$1$')</script>&amp;"

LAYERS: list[dict[str, Any]] = [
    {
        "name": "stem",
        "kind": "Conv2D",
        "shape": [8, 8, 3],
        "taps": 9,
        "macs": 1728,
        "widths": [0, 4, 8],
        "bytes": {"weights": 17, "bias": 6},
    },
    {"name": "pool", "kind": "MaxPool", "shape": [4, 4, 3], "bytes": {}},
    {
        "name": "dense",
        "kind": "Dense",
        "shape": [10],
        "taps": 48,
        "macs": 480,
        "widths": [3] * 10,
        "bytes": {"weights": 2000, "bias": 301},
    },
]
MANIFEST: dict[str, Any] = {"model_hash": "a" * 64, "layers": LAYERS}


def step(number: int, size: int, accepted: bool, flips: list[str], restored: int | None = None) -> dict[str, Any]:
    """A line of the journal, with the fields that the report reads."""
    return {
        "step": number,
        "bytes": size,
        "passed": not flips,
        "accepted": accepted,
        "reason": "" if accepted else "broke" if flips else "no smaller than what was accepted",
        "flips": flips,
        "diverged": [],
        "restored": restored,
    }


JOURNAL = [
    step(0, 9100, True, []),
    step(1, 2345, True, []),
    step(2, 1789, False, ["train/828"], 1),
    step(3, 2399, False, [], 1),
]

MAP = '<svg viewBox="0 0 9 9"><title>the arena</title></svg>'


def case(number: int, **changes: Any) -> dict[str, Any]:
    """A case of the certificate, preserved unless changed."""
    preserved = {"label": 4, "reference": 4, "decision": 4, "verdict": "preserved", "bit_exact": True}
    return {"id": f"train/{number}", **preserved, "cost": 41234, "stack_bytes": 520, **changes}


@pytest.fixture
def certificate() -> dict[str, Any]:
    """Passed, on the emulated twin."""
    return {
        "format": 1,
        "verdict": "passed",
        "statement": "Zero negative flips on 3 cases.",
        "created": "2026-03-01T10:30:15+00:00",
        "project": "digits",
        "target": {
            "name": "nucleo",
            "description": "ST NUCLEO: a board",
            "kind": "emulated",
            "ran_on": "QEMU netduinoplus2",
        },
        "hashes": {
            "model": "a" * 64,
            "firmware": "b" * 64,
            "preservation_set": "c" * 64,
            "calibration_set": "d" * 64,
            "test_set": "e" * 64,
            "policy": "f" * 64,
        },
        "preservation": {
            "strategy": "hybrid",
            "policy": {"max_flips": 0, "max_divergence": None},
            "cases": 3,
            "negative_flips": [],
            "diverged": [],
            "violations": [],
            "slices": {"dim": {"reference": 1.0, "candidate": 0.875}},
            "loss": {"reference": 0.125, "candidate": 0.25},
            "agreement": 0.9375,
            "mismatches": [],
        },
        "bound": {
            "cases": 400,
            "negative_flips": 0,
            "slices": {},
            "confidence": 0.95,
            "upper_bound": 0.00741,
            "method": "one-sided Clopper-Pearson",
            "words": "at most 0.75 % negative flips at 95 % on i.i.d. unseen data",
        },
        "test": {
            "cases": 497,
            "decisions": 994,
            "reference_right": 488,
            "compressed_right": 487,
            "negative_flips": 2,
            "slices": {"dim": {"reference": 0.5, "candidate": 0.25}, "wet": {"reference": 0.75, "candidate": 0.625}},
            "loss": {"reference": 0.25, "candidate": 0.375},
        },
        "resources": {
            "optimize": "speed",
            "constant_bytes": 2345,
            "start_constant_bytes": 9100,
            "arena_bytes": 3904,
            "stack_bytes": 520,
            "firmware": {
                "weights": 2345,
                "code": 7001,
                "rodata": 300,
                "data": 4,
                "arena": 3904,
                "bss": 1304,
                "stack": 4096,
                "flash_total": 9660,
                "ram_total": 9308,
            },
            "unit": "instructions",
            "cost": {"min": 41230, "median": 41234, "max": 41239},
        },
        "cases": [case(7), case(12), case(33)],
        "versions": {"sgsc_micro": "0.1.0", "apache-tvm": "0.27.0"},
    }


@pytest.fixture
def host_certificate(certificate: dict[str, Any]) -> dict[str, Any]:
    """Passed, without any firmware."""
    certificate["target"] = {"name": "host", "description": "This computer", "kind": "host", "ran_on": "host"}
    certificate["hashes"]["firmware"] = None
    certificate["resources"].update(stack_bytes=None, firmware=None, unit=None, cost=None)
    certificate["cases"] = [case(number, cost=None, stack_bytes=None) for number in (7, 12, 33)]
    return certificate


def render(folder: Path, certificate: dict[str, Any], layers: list[dict[str, Any]] = LAYERS) -> str:
    """The page of a certificate that keeps to its schema."""
    jsonschema.validate(certificate, SCHEMA)
    return write_report(folder, {**MANIFEST, "layers": layers}, MAP, JOURNAL, certificate).read_text(encoding="utf-8")


class _Text(HTMLParser):
    """What a person sees, and the elements around it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.pieces: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] != ["style"]:
            self.pieces.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.pieces))


def test_numbers_appear(tmp_path: Path, certificate: dict[str, Any]) -> None:
    text = _Text(render(tmp_path, certificate)).text
    for expected in (
        "✓ Passed",
        certificate["statement"],
        certificate["bound"]["words"],
        "is not a statistical bound",
        "≤ 0.75 %",  # 0.741, rounded up
        "one-sided Clopper-Pearson; 400 cases that were not trained on, 0 of them flipped",
        "487 of 994",
        "reference gets 488 right",
        "2,345 B , 25.8 %",  # of 9,100
        "9,660 B",
        "314 B",  # the rest of flash: 9,660 - 2,345 - 7,001
        "1,308 B",  # the rest of RAM: 9,308 - 3,904 - 4,096
        "Code favours speed",
        "41,234 instructions",
        "520 B of 4,096 B",
        "3.05 bits per weight",  # (12 * 9 + 30 * 48) / (3 * 9 + 10 * 48)
        "2026-03-01 10:30 UTC",
        *filter(None, certificate["hashes"].values()),
        *certificate["versions"].values(),
    ):
        assert expected in text, expected


def test_rejected_steps_name_their_reason(tmp_path: Path, certificate: dict[str, Any]) -> None:
    text = _Text(render(tmp_path, certificate)).text
    assert "4 steps, 2 rejected" in text
    assert "1,789 B flipped train/828 step 1" in text
    assert "2,399 B no smaller than what was accepted step 1" in text


def test_violating_cases_are_named(tmp_path: Path, certificate: dict[str, Any]) -> None:
    certificate["verdict"] = "failed"
    certificate["cases"][0] = case(7, decision=9, verdict="flipped")
    certificate["cases"][1] = case(12, verdict="mismatch", bit_exact=False)
    certificate["preservation"].update(negative_flips=["train/7"], mismatches=["train/12"])
    text = _Text(render(tmp_path, certificate)).text
    assert "✗ Failed" in text and "Passed" not in text
    assert "2 of 3 not preserved: 1 negative flip, 0 diverged, 1 with output bytes unlike the host’s" in text
    assert "train/7 4 4 9 flipped as on the host" in text
    assert "train/12 4 4 4 mismatch differ from the host’s" in text
    assert "train/33" not in text


def test_an_emulated_run_never_looks_like_a_board(tmp_path: Path, certificate: dict[str, Any]) -> None:
    text = _Text(render(tmp_path, certificate)).text
    assert "✓ Passed on an emulated machine" in text
    assert "Emulated QEMU netduinoplus2" in text
    assert "No board took part" in text
    assert "on the board" not in text and "--port" not in text


def test_a_board_is_checked_again_on_its_port(tmp_path: Path, certificate: dict[str, Any]) -> None:
    certificate["resources"]["unit"] = "cycles"
    certificate["target"] |= {"kind": "board", "ran_on": "/dev/ttyACM0"}
    text = _Text(render(tmp_path / "digits-nucleo", certificate)).text
    assert "✓ Passed on the board" in text and "mulated" not in text
    assert "41,234 cycles" in text
    assert "python -m sgsc_micro verify build/digits-nucleo --port /dev/ttyACM0" in text


def test_host_has_no_firmware(tmp_path: Path, host_certificate: dict[str, Any]) -> None:
    text = _Text(render(tmp_path / "digits-host", host_certificate)).text
    assert "✓ Passed on the host" in text
    assert "python -m sgsc_micro verify build/digits-host" in text and "--port" not in text
    assert "none: no firmware" in text and "3,904 B of RAM" in text
    assert "None" not in text


def test_a_network_that_was_not_compressed_has_no_loop(tmp_path: Path, certificate: dict[str, Any]) -> None:
    page = write_report(tmp_path, MANIFEST, MAP, [], certificate).read_text(encoding="utf-8")
    assert page.count(MAP) == 1
    assert "How it was compressed" not in page and page.count("<svg") == 2


def test_hostile_names_stay_text(tmp_path: Path, certificate: dict[str, Any]) -> None:
    plain = _Text(render(tmp_path, certificate))
    certificate["project"] = certificate["statement"] = certificate["target"]["description"] = HOSTILE
    certificate["versions"]["torch"] = certificate["cases"][0]["id"] = HOSTILE
    certificate["cases"][0]["verdict"] = "diverged"
    hostile = _Text(render(tmp_path, certificate, [{**LAYERS[0], "name": HOSTILE}, *LAYERS[1:]]))
    assert "script" not in hostile.tags
    assert hostile.tags.count("svg") == plain.tags.count("svg") == 3
    assert hostile.text.count(HOSTILE) == 8  # title, heading, statement, description, version, case, layer, its picture


def test_page_stands_alone(tmp_path: Path, certificate: dict[str, Any]) -> None:
    page = _Text(render(tmp_path, certificate))
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    raw = render(tmp_path, certificate)
    assert not re.search(r"""(?:src|href)=["'](?!#)|url\((?!#)|@import""", raw)
    assert str(tmp_path.parent) not in raw
    identifiers = re.findall(r' id="([^"]*)"', raw)
    assert len(identifiers) == len(set(identifiers))


def test_same_input_same_bytes(tmp_path: Path, certificate: dict[str, Any]) -> None:
    first = render(tmp_path / "a" / "digits-nucleo", certificate)
    assert render(tmp_path / "b" / "digits-nucleo", certificate) == first


def test_one_model_only(tmp_path: Path, certificate: dict[str, Any]) -> None:
    certificate["hashes"]["model"] = "9" * 64
    with pytest.raises(SgscError, match="different models"):
        write_report(tmp_path, MANIFEST, MAP, JOURNAL, certificate)
    assert not list(tmp_path.iterdir())


def test_slices_and_violations_are_named(tmp_path: Path, certificate: dict[str, Any]) -> None:
    certificate["preservation"]["violations"] = ["slice dim: 100.0% right before, 87.5% now"]
    text = _Text(render(tmp_path, certificate)).text
    assert "Against the policy: slice dim: 100.0% right before, 87.5% now." in text
    assert "dim 100 % 87.5 % – – 50 % 25 % wet – – – – 75 % 62.5 %" in text.replace("\xa0", " ")
    assert "0.1250 nats a decision before, 0.2500 now" in text
