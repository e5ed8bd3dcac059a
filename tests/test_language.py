"""A decoder-only language model in a user's own torch code, from its text to a certificate on an emulated core."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from sgsc_micro import preserve, reference
from sgsc_micro.codegen import SANITIZERS, HostLibrary, to_stored, write_library
from sgsc_micro.importers import from_torch
from sgsc_micro.passes import optimise
from tests.conftest import build_project, edit, fails
from tests.test_compress_graph import GPT, N, Photo, T, quantised, tokens

NETWORK = '''
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

T, VOCABULARY = 12, 6


def data():
    """Different walks on a ring: from an even token three on, from an odd one back; a fourth of the steps at random."""
    rng = np.random.default_rng(0)
    steps = [rng.integers(0, VOCABULARY, 900)]
    for _ in range(T):
        follows = np.where(steps[-1] % 2 == 0, 3, -1) + steps[-1]
        steps.append(np.where(rng.random(900) < 0.25, rng.integers(0, VOCABULARY, 900), follows) % VOCABULARY)
    _, different = np.unique(np.stack(steps[:-1], 1), axis=0, return_index=True)
    text = np.stack(steps, 1)[rng.permutation(different)]
    parts = np.split(text, [len(text) - 120, len(text) - 60])
    train, calibration, test = (SimpleNamespace(inputs=part[:, :-1], labels=part[:, 1:]) for part in parts)
    return SimpleNamespace(train=train, calibration=calibration, test=test)


class Language(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, 16), nn.Embedding(T, 16)
        self.before, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.mlp = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, VOCABULARY)

    def forward(self, x):
        n, t = x.shape
        x = self.tokens(x) + self.positions(torch.arange(t))
        q, k, v = (part.view(n, t, 2, 8).transpose(1, 2) for part in self.qkv(self.before(x)).split(16, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(n, t, 16))
        return self.head(self.norm(x + self.mlp(x)))


def network():
    return Language()
'''

TRAIN = """
import sys
import torch
from language import data, network
torch.manual_seed(0)
net, split = network(), data().train
x, y = torch.from_numpy(split.inputs), torch.from_numpy(split.labels)
optimizer = torch.optim.Adam(net.parameters(), 0.01)
for _ in range(100):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(net(x).flatten(0, 1), y.flatten()).backward()
    optimizer.step()
torch.save(net.state_dict(), sys.argv[1])
"""

TOML = """
name = "language"

[model]
source = "language.py"
checkpoint = "language.pt"
train = "train.py"

[preserve]
size = 40

[compress]
steps = 2
settle = 1
epochs = 6
bits_learning_rate = 0.2
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, built for an emulated Cortex-M4."""
    folder = tmp_path_factory.mktemp("language")
    for name, text in (("language.py", NETWORK), ("train.py", TRAIN), ("sgsc.toml", TOML)):
        (folder / name).write_text(text)
    done = build_project(folder, target="qemu-m4")
    assert done.exit_code == 0, done.stderr
    return folder


def test_a_language_model_is_verified_on_an_emulated_core(built: Path) -> None:
    certificate = json.loads((built / "build" / "language-qemu-m4" / "certificate.json").read_text())
    assert certificate["verdict"] == "passed"
    test = certificate["test"]
    assert test["decisions"] == 12 * test["cases"] and test["compressed_right"] > 0.6 * test["decisions"]
    lines = [json.loads(line) for line in (built / "build" / "language" / "compress" / "journal.jsonl").open()]
    accepted = [line for line in lines[1:] if line["accepted"]]
    assert accepted[-1]["bytes"] < accepted[0]["bytes"] - 100


def test_what_is_built_still_speaks_the_language(built: Path) -> None:
    test = preserve.load(built / "build" / "language" / "preserve" / "T.npz")
    program = torch.export.load(built / "build" / "language" / "compress" / "network.pt2")
    decisions = reference.run(from_torch(program), test.inputs).argmax(-1)
    rule = np.where(test.inputs % 2 == 0, test.inputs + 3, test.inputs - 1) % 6  # of data()
    assert (decisions == rule).mean() > 0.97


def test_tokens_beyond_the_vocabulary_are_named(built: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(built, project, ignore=shutil.ignore_patterns("build"))
    edit(project / "language.py", "inputs=part[:, :-1]", "inputs=part[:, :-1] + 3")
    fails(build_project(project), "language.py: data().train: row 0 holds", "the embedding has the tokens 0 to 5")


@pytest.mark.parametrize("kind", ["gpt", "photo"])
def test_the_library_gives_what_the_compressor_trained(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, x = (GPT(), tokens().float()) if kind == "gpt" else (Photo(), torch.randn(N, 2, 4, 6))
    trained = quantised(network, tokens() if kind == "gpt" else x)
    for layer in trained.layers.values():
        layer.quantiser.bits.data.copy_(torch.arange(len(layer.bias)) % 7 + 2)
    module = from_torch(trained.export((T,) if kind == "gpt" else (2, 4, 6)))
    cases = x.numpy()
    step = list(trained.network.children())[-1].scale().item()
    found = reference.run(module, cases)
    assert np.abs(found - trained(x).detach().numpy()).max() <= 3 * step < found.std()
    stored = to_stored(write_library(optimise(module), tmp_path, "model"), cases)
    on_host = HostLibrary(tmp_path, ("-O1", *SANITIZERS)).run(stored)
    expected = reference.run_integers(module, cases)
    assert np.array_equal(on_host.reshape(expected.shape), expected)
