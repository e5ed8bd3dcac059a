"""Transformers on their way into the compressor: every form of attention against the module itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sgsc_micro.compress import size
from sgsc_micro.compress.graph import canonical, layers_of
from sgsc_micro.compress.network import QuantisedNetwork, calibrated
from sgsc_micro.compress.quantisers import ActivationQuantiser, least_error_range
from sgsc_micro.errors import SgscError

N, T, WIDTH, HEADS, VOCABULARY = 3, 6, 8, 2, 11
DEPTH = WIDTH // HEADS

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""q, k, v [N, H, T, D] and the lower triangle [T, T] to [N, H, T, D]."""


def torchs_own(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lower: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def torchs_own_with_a_mask(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lower: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=lower.bool(), scale=0.3)


def filled(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lower: torch.Tensor) -> torch.Tensor:
    scores = (q @ k.transpose(-2, -1)) * DEPTH**-0.5
    return F.dropout(F.softmax(scores.masked_fill(lower == 0, -torch.inf), -1), 0.1, False) @ v


def scaled_before_and_added(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lower: torch.Tensor) -> torch.Tensor:
    scores = (q / DEPTH**0.5) @ k.transpose(2, 3) + (1 - lower) * -1e9
    return scores.softmax(3) @ v


def heads_among_the_cases(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lower: torch.Tensor) -> torch.Tensor:
    q, k, v = (part.reshape(-1, T, DEPTH) for part in (q, k, v))
    scores = torch.bmm(q, k.transpose(1, 2)).masked_fill(lower == 0, -torch.inf)
    return torch.bmm(scores.softmax(-1), v).view(-1, HEADS, T, DEPTH)


FORMS = [torchs_own, torchs_own_with_a_mask, filled, scaled_before_and_added, heads_among_the_cases]


class Block(nn.Module):
    def __init__(self, attend: Attend, split: str) -> None:
        super().__init__()
        self.attend, self.split = attend, split
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        if split == "three":
            self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        else:
            self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 12), nn.GELU(), nn.Linear(12, WIDTH), nn.Dropout(0.1))
        self.register_buffer("lower", torch.tril(torch.ones(T, T)))

    def parts(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        n, t, _ = x.shape
        if self.split == "three":
            return tuple(layer(x).view(n, t, HEADS, DEPTH).transpose(1, 2) for layer in (self.q, self.k, self.v))
        if self.split == "interleaved":  # [q of a head, k, v], head by head: GPT-NeoX's
            return self.qkv(x).view(n, t, HEADS, 3 * DEPTH).transpose(1, 2).chunk(3, -1)
        if self.split == "depth first":  # a head's features lie apart from each other
            return self.qkv(x).view(n, t, 3, DEPTH, HEADS).permute(2, 0, 4, 1, 3).unbind(0)
        if self.split == "five axes":  # timm's
            return self.qkv(x).reshape(n, t, 3, HEADS, DEPTH).permute(2, 0, 3, 1, 4).unbind(0)
        return tuple(part.view(n, t, HEADS, DEPTH).transpose(1, 2) for part in self.qkv(x).split(WIDTH, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.attend(*self.parts(self.first(x)), self.lower)
        x = x + self.proj(y.transpose(1, 2).contiguous().view(x.shape))
        return x + self.mlp(self.second(x))


class GPT(nn.Module):
    def __init__(self, attend: Attend = torchs_own, split: str = "split", vocabulary: int = VOCABULARY) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, WIDTH), nn.Embedding(T, WIDTH)
        self.blocks = nn.Sequential(Block(attend, split), Block(attend, split))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, vocabulary, bias=False)
        self.head.weight = self.tokens.weight
        for parameter in self.parameters():
            if parameter.dim() == 1:
                nn.init.normal_(parameter, 0.5, 0.5)  # norms and biases that do something

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        return self.head(self.norm(self.blocks(x)))


class Photo(nn.Module):
    """Attention over the pixels of a convolution, by nn.TransformerEncoderLayer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, WIDTH, 2, 2), nn.BatchNorm2d(WIDTH)
        self.places = nn.Parameter(torch.randn(1, 6, WIDTH))
        self.block = nn.TransformerEncoderLayer(WIDTH, HEADS, 12, activation="gelu", batch_first=True, norm_first=True)
        self.head = nn.Linear(6 * WIDTH, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem(x)).flatten(2).transpose(1, 2) + self.places
        return self.head(self.block(x).flatten(1))


def tokens(vocabulary: int = VOCABULARY) -> torch.Tensor:
    return torch.randint(0, vocabulary, (N, T), generator=torch.Generator().manual_seed(1))


def exported(network: nn.Module, x: torch.Tensor) -> torch.export.ExportedProgram:
    return torch.export.export(network.eval(), (x[:1],))


def quantised(network: nn.Module, x: torch.Tensor) -> QuantisedNetwork:
    return calibrated(canonical(exported(network, x)), x.float())


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("attend", FORMS)
@pytest.mark.parametrize("split", ["split", "three", "interleaved", "depth first", "five axes"])
def test_a_gpt_is_the_same_whatever_its_attention_looks_like(attend: Attend, split: str) -> None:
    network, x = GPT(attend, split), tokens()
    float_network = canonical(exported(network, x))
    torch.testing.assert_close(float_network(x.float()), network(x), atol=1e-5, rtol=1e-5)
    assert len(layers_of(float_network)) == 2 * 6 + 1


def test_the_encoder_of_torch_on_a_convolutions_pixels() -> None:
    network, x = Photo().eval(), torch.randn(N, 2, 4, 6)
    for norm in (network.norm, network.block.norm1, network.block.norm2):
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    torch.testing.assert_close(canonical(exported(network, x))(x), network(x), atol=1e-5, rtol=1e-5)
    trained = quantised(network, x)
    assert (trained(x) - network(x)).abs().max() < 0.1 * network(x).abs().max()


def test_a_quantised_gpt_is_near_the_floats_and_its_export_near_it() -> None:
    network, x = GPT().eval(), tokens()
    trained = quantised(network, x)
    wanted, found = network(x), trained(x.float())
    assert (found - wanted).abs().max() < 0.1 * wanted.abs().max()
    program = trained.export((T,)).module()
    step = list(trained.network.children())[-1].scale()
    for case, answer in zip(x.float(), found, strict=True):
        assert (program(case[None])[0] - answer).abs().max() <= 2.5 * step


@pytest.mark.parametrize(("vocabulary", "zero_point"), [(128, 0), (129, -128), (256, -128)])
def test_tokens_and_probabilities_are_exact(vocabulary: int, zero_point: int) -> None:
    x = tokens(vocabulary)
    x[0, :2] = torch.tensor([0, vocabulary - 1])
    trained = quantised(GPT(vocabulary=vocabulary), x)
    fixed = [module for module in trained.modules() if isinstance(module, ActivationQuantiser)]
    fixed = [module for module in fixed if not module.log_scale.requires_grad]
    assert [(module.scale().item(), int(module.zero_point)) for module in fixed] == [
        (1, zero_point),
        (1 / 256, -128),
        (1 / 256, -128),
    ]
    assert torch.equal(fixed[0](x), x.float())


def test_every_weight_of_a_quantised_gpt_is_trained() -> None:
    trained, x = quantised(GPT(), tokens()), tokens().float()
    trained(x).square().sum().backward()
    still = [name for name, p in trained.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    # A key's bias shifts all scores of a query alike, which changes a softmax in quantisation's noise alone.
    assert not [name for name in still if "key" not in name and not name.endswith("bias")]
    assert trained.tables()[0].values.grad.any()


def test_the_channels_that_a_norm_or_attention_reads_are_all_paid_for() -> None:
    trained = quantised(GPT(), tokens())
    widths = {name: layer.quantiser.bits.detach().clone() for name, layer in trained.layers.items()}
    whole = float(size.cost(trained, widths))
    row = {name: size.flash_bits(layer, 1)[8] for name, layer in trained.layers.items()}

    def without(name: str, channel: int) -> float:
        fewer = {**widths, name: widths[name].clone()}
        fewer[name][channel] = 0
        return whole - float(size.cost(trained, fewer))

    for name in ("blocks.0.qkv.query", "blocks.0.qkv.key", "blocks.0.qkv.value", "blocks.0.proj", "blocks.0.mlp.2"):
        assert without(name, 1) == pytest.approx(row[name], rel=1e-4), name
    # A hidden feature's constant goes through gelu into the next bias: a column of that layer goes with it.
    readers = WIDTH * row["blocks.0.mlp.2"] / 12
    assert without("blocks.0.mlp.0", 1) == pytest.approx(row["blocks.0.mlp.0"] + readers, rel=1e-4)


class Wrong(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.norm, self.linear = nn.Embedding(300, WIDTH), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)
        self.silu = nn.SiLU()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.tokens(tokens))
        return self.silu(self.linear(x)) + x


def test_what_is_wrong_with_a_transformer_is_said_at_once() -> None:
    network = Wrong()
    nn.init.normal_(network.norm.weight)
    with pytest.raises(SgscError) as caught:
        canonical(exported(network, tokens()))
    for part in (
        "'tokens': aten.embedding.default has 300 rows",
        "'silu': aten.silu.default is not known",
        "aten.add.Tensor reads a layer norm that has weights",
    ):
        assert part in str(caught.value)


def ragged(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lower: torch.Tensor) -> torch.Tensor:
    return (q @ k.transpose(2, 3)).masked_fill(torch.stack([lower, 1 - lower]) == 0, -torch.inf).softmax(-1) @ v


def biased(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lower: torch.Tensor) -> torch.Tensor:
    return (q @ k.transpose(2, 3) + lower).softmax(-1) @ v


def unscored(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lower: torch.Tensor) -> torch.Tensor:
    return v.softmax(-1)


def turned(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lower: torch.Tensor) -> torch.Tensor:
    return torchs_own(q.transpose(2, 3).reshape(q.shape), k, v, lower)


@pytest.mark.parametrize(
    ("attend", "words"),
    [
        (ragged, "has a mask that differs from head to head"),
        (biased, "neither 0 nor minus infinity"),
        (unscored, "is not of an attention's scores"),
        (turned, "is not of queries and transposed keys"),
    ],
)
def test_attention_of_another_kind_is_refused(attend: Attend, words: str) -> None:
    with pytest.raises(SgscError, match=words):
        canonical(exported(GPT(attend), tokens()))


def test_a_range_leaves_the_least_error_and_holds_zero() -> None:
    values = torch.randn(60_000, generator=torch.Generator().manual_seed(0)) ** 3  # with long tails

    def error(low: float, high: float) -> float:
        quantiser = ActivationQuantiser(low, high)
        return float((quantiser(values) - values).square().sum())

    low, high = least_error_range(values)
    assert low < 0 < high
    assert error(low, high) < error(float(values.min()), float(values.max()))
    ends = [part / 12 for part in range(3, 13)]  # each end by itself, all pairs
    best = min(error(a * float(values.min()), b * float(values.max())) for a in ends for b in ends)
    assert error(low, high) < 1.05 * best
    assert least_error_range(values.abs() + 1)[0] == 0
