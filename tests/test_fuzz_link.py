"""`make fuzz-link` for two seconds; and that it finds a parser and requests that go one byte too far."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests import fuzz_link
from tests.host_device import RUNTIME

SCRIPTS = 3000


def test_the_device_takes_and_answers_what_the_link_s_text_says(tmp_path: Path) -> None:
    done = fuzz_link.play(fuzz_link.build(tmp_path), 0, SCRIPTS, 60)
    assert done.returncode == 0, done.stderr
    counts, refusals = done.stdout.split(" refusals ")
    seen = dict(zip(counts.split()[::2], map(int, counts.split()[1::2])))
    assert seen["scripts"] == SCRIPTS
    assert min(seen[what] for what in ("noise", "frames", "repeats", "runs")) > 500, seen
    assert min(map(int, refusals.split()[:4])) > 50, refusals  # each error but the weights'


@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("link.c", "frame->length < LINK_FRAME_MAX)", "frame->length <= LINK_FRAME_MAX)"),
        *(
            pytest.param(*change, marks=pytest.mark.slow)
            for change in (
                ("link.c", "parser->block_left != 0 || ", ""),
                ("link.c", " || parser->overrun", ""),
                ("link.c", "end - start < 254u", "end - start < 255u"),
                ("link.c", "start = code == 0xFFu ? end : end + 1u", "start = end + 1u"),
                ("app.c", "offset <= size && count <= size - offset", "offset + (uint32_t)count <= size"),
                ("app.c", "payload < 4u ? LINK_ERROR_LENGTH", "payload < 3u ? LINK_ERROR_LENGTH"),
                ("app.c", "count > LINK_DATA_MAX || ", ""),
                ("app.c", "checksum != app.served", "true"),
            )
        ),
    ],
)
def test_a_fault_in_the_device_is_found(file: str, right: str, wrong: str, tmp_path: Path) -> None:
    runtime = tmp_path / "runtime"
    shutil.copytree(RUNTIME, runtime)
    text = (runtime / file).read_text(encoding="utf-8")
    assert text.count(right) == 1
    (runtime / file).write_text(text.replace(right, wrong), encoding="utf-8")
    done = fuzz_link.play(fuzz_link.build(tmp_path, runtime=runtime), 0, SCRIPTS, 60)
    assert done.returncode != 0
    assert "fuzz_link: signal 6 at seed" in done.stderr
