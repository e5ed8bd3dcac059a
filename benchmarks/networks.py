"""The four networks of MLPerf Tiny at any weight width, and what others take for them."""

from __future__ import annotations

import csv
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from sgsc_micro.compress.layers import Constants, layers_of, with_constants
from tests.real_data import cifar_images, data_file, keywords
from tests.tflite_networks import autoencoder, mobilenet, network_inputs

PEERS = Path(__file__).parent / "peers"
MIXED = (2, 3, 4, 5, 6, 8)
"""What the widths of a network of mixed widths are drawn from, channel by channel."""
_SEED = 0
_CLIPPED = np.linspace(0.3, 1.0, 36)
"""Parts of a channel's largest weight at which its range may end."""


@dataclass(frozen=True)
class Network:
    """A network in int8, as a TFLite file and inputs to it."""

    label: str
    model: Callable[[], bytes]
    inputs: Callable[[int], np.ndarray]
    """int8 [N, ...]."""
    goals: dict[str, float]
    """Instructions on a Cortex-M4 over CMSIS-NN's at int8, by the width of the weights: what issue 5 asks for."""
    random: bool = False
    """Weights by chance, which need not fill their 8 bits."""


def _vww() -> bytes:
    return mobilenet(0, 96, 8, 2)


def _autoencoder() -> bytes:
    return autoencoder(0, (640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640))


NETWORKS = {
    "resnet8": Network(
        "ResNet8",
        lambda: data_file("tflite/ic_resnet8_int8.tflite").read_bytes(),
        cifar_images,
        {"8": 0.52, "4": 0.48, "2": 0.45},
    ),
    "dscnn": Network(
        "DS-CNN",
        lambda: data_file("tflite/kws_dscnn_int8.tflite").read_bytes(),
        lambda count: keywords()[0][:count],
        {"8": 0.52, "4": 0.48, "2": 0.45},
    ),
    "vww": Network(
        "VWW MobileNet",
        _vww,
        lambda count: network_inputs(_vww(), 0, count),
        {"8": 0.42, "4": 0.39, "2": 0.37},
        random=True,
    ),
    "ad": Network(
        "autoencoder",
        _autoencoder,
        lambda count: network_inputs(_autoencoder(), 0, count),
        {"8": 0.65, "4": 0.55, "2": 0.45},
        random=True,
    ),
}


def requantised(module: tvm.IRModule, bits: int | None) -> tvm.IRModule:
    """The network with weights of at most ``bits`` bits, or of widths drawn from ``MIXED`` for None.

    Scales follow, so that the network stays about what it was; a channel's range ends where the squared error is
    least. Which channel gets which width of ``MIXED`` depends on the layers' shapes alone.
    """
    rng = np.random.default_rng(_SEED)
    changed = {}
    for layer in layers_of(module):
        constants = layer.constants
        count = len(constants.weights)
        widths = rng.choice(MIXED, count) if bits is None else np.full(count, bits)
        changed[layer.name] = _narrowed(constants, widths)
    return with_constants(module, changed)


def _narrowed(constants: Constants, widths: np.ndarray) -> Constants:
    """Weights of ``widths`` [O] bits and less."""
    weights = constants.weights.reshape(len(widths), -1).astype(np.float64)  # [O, taps]
    limits = 2.0 ** (widths - 1) - 1  # [O]
    largest = np.maximum(np.abs(weights).max(axis=1), 1)  # [O]
    steps = np.multiply.outer(_CLIPPED, largest / limits)[:, :, None]  # [candidates, O, 1]
    found = np.clip(np.rint(weights / steps), -limits[:, None], limits[:, None])  # [candidates, O, taps]
    best = ((found * steps - weights) ** 2).sum(axis=2).argmin(axis=0)  # [O]
    channel = np.arange(len(widths))
    step = steps[best, channel, 0]  # [O]
    integers = found[best, channel].reshape(constants.weights.shape)  # [O, ..., I]
    # What rounding left unread would be pruned, and the work be another: its largest weight stays.
    by_input = integers.reshape(-1, integers.shape[-1])  # [O * ..., I]
    before = constants.weights.reshape(by_input.shape).astype(np.int64)
    unread = np.flatnonzero(~by_input.any(axis=0))
    largest_of = np.abs(before[:, unread]).argmax(axis=0)
    by_input[largest_of, unread] = np.sign(before[largest_of, unread])
    return Constants(
        integers.astype(np.int8),
        (constants.scales * step).astype(np.float32),
        np.rint(constants.bias / step).astype(np.int32),
    )


@dataclass(frozen=True)
class Peer:
    """What another implementation takes; None is what it has not."""

    insn: int
    int4_insn: int | None = None
    cycles: int | None = None


Figure = tuple[str, Peer]
"""By the work that a layer does: its MACs, or else what it is."""


class Peers:
    """Another implementation's figures for one network's layers, each given out once, in order."""

    def __init__(self, layers: Iterable[Figure]) -> None:
        self._by_work: dict[str, deque[Peer]] = defaultdict(deque)
        for work, peer in layers:
            self._by_work[work].append(peer)
        self.total = _sum([peer for peers in self._by_work.values() for peer in peers])

    def take(self, layer: dict[str, Any]) -> Peer | None:
        """The counterpart of a layer of a manifest; an add that is part of a layer is counted with it."""
        works = works_of(layer)
        if not works or not all(self._by_work[work] for work in works):
            return None
        return _sum([self._by_work[work].popleft() for work in works])

    @property
    def left(self) -> int:
        """How many have not been given out."""
        return sum(map(len, self._by_work.values()))


def cmsisnn_figures(core: str, network: str) -> list[Figure]:
    """CMSIS-NN's for a network's layers on ``core``, called as in its file's name."""

    def number(text: str | None) -> int | None:
        return int(text) if text else None

    rows = [row for row in _rows(f"cmsisnn_{core}.csv") if row["net"] == network]
    works = [row["macs"] if row["macs"] != "0" else row["layer"].split()[0] for row in rows]
    peers = [Peer(int(r["s8_insn"]), number(r["s4_insn"]), number(r.get("s8_cycles"))) for r in rows]
    return list(zip(works, peers, strict=True))


def works_of(layer: dict[str, Any]) -> list[str]:
    """What a layer of a manifest does, in the terms of :class:`Peers`; nothing where it is no code."""
    kind = {"AveragePool": "avgpool", "Softmax": "softmax", "Add": "add"}.get(layer["kind"])
    works = [str(layer["macs"])] if "macs" in layer else [kind] if kind else []
    return works + (["add"] if layer["kind"] == "Residual" else [])


def peer_code_bytes(network: str, bits: str, optimisation: str = "-Ofast") -> int | None:
    """Of CMSIS-NN's kernels at -Ofast or -Os; None for a width that it has not."""
    found = [row for row in _rows("cmsisnn_m4_code.csv") if (row["net"], row["bits"]) == (network, bits)]
    return next((int(row["code_bytes"]) for row in found if row["optimisation"] == optimisation), None)


def _sum(peers: list[Peer]) -> Peer:
    """Where there is no int4, int8 does; where there are no cycles, there is no sum of them."""
    int4 = sum(peer.insn if peer.int4_insn is None else peer.int4_insn for peer in peers)
    cycles = [peer.cycles for peer in peers if peer.cycles is not None]
    return Peer(sum(peer.insn for peer in peers), int4, sum(cycles) if len(cycles) == len(peers) else None)


def _rows(name: str) -> list[dict[str, str]]:
    with (PEERS / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))
