"""The digits example, really built by the command a user types, on both emulated boards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from elftools.elf.elffile import ELFFile

from sgsc_micro import preserve, reference
from sgsc_micro.verification import read_network
from tests.conftest import TARGETS, sgsc


def _certificate(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "certificate.json").read_text())


def _journal(digits: Path) -> list[dict[str, Any]]:
    lines = (digits / "build" / "digits" / "compress" / "journal.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines[1:]]


def test_what_the_guard_accepted_flips_nothing_and_the_rest_was_restored(digits: Path) -> None:
    """Whether a step is harmful is the float's to say, which is trained on this machine; a planted one is rejected in
    tests/test_guarded.py."""
    lines = _journal(digits)
    accepted = [line for line in lines if line["accepted"]]
    rejected = [line for line in lines[accepted[0]["step"] :] if not line["accepted"]]
    assert len(accepted) > 5 and not any(line["flips"] for line in accepted)
    assert all(line["flips"] or line["bytes"] >= lines[line["restored"]]["bytes"] for line in rejected)
    assert all(lines[line["restored"]]["accepted"] for line in rejected)
    shown = (digits / "qemu-m4.txt").read_text()
    assert shown.count("restored") == len(rejected)


def test_the_result_keeps_its_promises(digits: Path) -> None:
    certificate = _certificate(digits / "build" / "digits-qemu-m4")
    test, resources = certificate["test"], certificate["resources"]
    assert certificate["verdict"] == "passed"
    assert certificate["preservation"]["negative_flips"] == certificate["preservation"]["mismatches"] == []
    assert test["compressed_right"] >= test["reference_right"] - 1
    assert resources["constant_bytes"] <= 0.40 * resources["start_constant_bytes"]
    manifest = json.loads((digits / "build" / "digits-qemu-m4" / "library" / "manifest.json").read_text())
    assert len({width for layer in manifest["layers"] for width in layer.get("widths", [])}) >= 3


@pytest.mark.parametrize("target", TARGETS)
def test_sizes_are_the_elfs_to_the_byte(digits: Path, target: str) -> None:
    folder = digits / "build" / f"digits-{target}"
    with (folder / "firmware" / "firmware.elf").open("rb") as stream:
        sizes = {section.name: int(section["sh_size"]) for section in ELFFile(stream).iter_sections()}
    resources = _certificate(folder)["resources"]
    assert resources["constant_bytes"] == resources["firmware"]["weights"] == sizes[".weights"]
    assert resources["arena_bytes"] == resources["firmware"]["arena"] == sizes[".arena"]
    assert resources["firmware"]["code"] == sizes[".text"]
    assert resources["firmware"]["flash_total"] == (folder / "firmware" / "firmware.bin").stat().st_size
    page = (folder / "report.html").read_text()
    assert all(f"{size:,} B" in page for size in (sizes[".weights"], sizes[".arena"], sizes[".text"]))


@pytest.mark.parametrize("target", TARGETS)
def test_the_certificate_fits_its_schema_and_names_every_case(digits: Path, target: str) -> None:
    folder = digits / "build" / f"digits-{target}"
    schema = json.loads((Path(preserve.__file__).parents[1] / "verify" / "certificate.schema.json").read_text())
    certificate = _certificate(folder)
    jsonschema.validate(certificate, schema)
    cases = preserve.load(folder / "evidence" / "P.npz")
    assert [case["id"] for case in certificate["cases"]] == cases.ids.tolist()
    assert certificate["hashes"]["preservation_set"] == cases.content_hash
    assert certificate["target"]["kind"] == "emulated"
    assert all(case["cost"] > 0 and case["stack_bytes"] > 0 for case in certificate["cases"])


def test_both_targets_and_the_host_give_the_same_outputs(digits: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    inputs = rng.random((20, 1, 8, 8), dtype=np.float32)
    np.save(tmp_path / "x.npy", inputs)
    found = {}
    for name, target in (("host", "stm32"), ("stm32", "stm32"), ("qemu-m4", "qemu-m4")):
        output = tmp_path / f"{name}.npy"
        build = digits / "build" / f"digits-{target}"
        done = sgsc("run", build, "--on", name, "--input", tmp_path / "x.npy", "--output", output)
        assert done.exit_code == 0, done.stderr
        found[name] = np.load(output)
    exact = reference.run(read_network(digits / "build" / "digits" / "compress"), inputs)
    assert all(np.array_equal(outputs, exact) for outputs in found.values())


def test_building_again_does_nothing_twice(digits: Path) -> None:
    again = sgsc("build", "--project", digits / "project", "--target", "qemu-m4", "--output", digits / "build")
    assert again.exit_code == 0
    assert again.stdout.count("nothing to do") == 6


def _copy(digits: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(digits / "build" / "digits-qemu-m4", tmp_path / "digits-qemu-m4"))


def test_verify_writes_the_certificate_anew(digits: Path, tmp_path: Path) -> None:
    folder = _copy(digits, tmp_path)
    (folder / "certificate.json").unlink()
    done = sgsc("verify", folder, "--on", "qemu-m4")
    assert done.exit_code == 0, done.stderr
    assert _certificate(folder)["verdict"] == "passed"


@pytest.mark.parametrize(
    "part", ["library/weights.c", "firmware/firmware.bin", "evidence/P.npz", "evidence/policy.json"]
)
def test_an_altered_build_is_refused_and_not_certified(digits: Path, tmp_path: Path, part: str) -> None:
    folder = _copy(digits, tmp_path)
    (folder / "certificate.json").unlink()
    content = bytearray((folder / part).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / part).write_bytes(bytes(content))
    done = sgsc("verify", folder, "--on", "qemu-m4")
    assert done.exit_code == 1 and f"{part}: missing, added or altered" in done.stderr
    assert not (folder / "certificate.json").exists()


def test_a_build_is_verified_only_on_what_it_was_built_for(digits: Path) -> None:
    done = sgsc("verify", digits / "build" / "digits-qemu-m4", "--on", "stm32")
    assert done.exit_code == 1 and "was not built for target nucleo-f446re" in done.stderr


def test_a_port_that_is_not_there_fails_at_once(digits: Path) -> None:
    folder = digits / "build" / "digits-stm32"
    before = (folder / "certificate.json").read_bytes()
    done = sgsc("verify", folder, "--on", "stm32", "--port", "/dev/ttyNONE")
    assert done.exit_code == 1 and "/dev/ttyNONE: cannot be opened" in done.stderr and "doctor" in done.stderr
    assert (folder / "certificate.json").read_bytes() == before
