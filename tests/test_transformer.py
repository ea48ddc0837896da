"""The encoder and decoder against transformers' T5 with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmrec.transformer import (
    Decoder,
    Encoder,
    RelativeBias,
    Shape,
    hide_padding,
    relative_buckets,
)
from tests.t5 import t5_of

SHAPE = Shape(dim=24, inner=40, heads=3, head_dim=16, layers=2, dropout=0.1)
B, T = 5, 9


@pytest.fixture(scope="module")
def parts() -> tuple[Encoder, RelativeBias, Decoder]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder, bias, decoder = Encoder(SHAPE), RelativeBias(SHAPE.heads, both_ways=True), Decoder(SHAPE)
        for norm in [m for m in [*encoder.modules(), *decoder.modules()] if isinstance(m, nn.RMSNorm)]:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
    return encoder.eval(), bias, decoder.eval()


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def present() -> Tensor:
    return torch.arange(T) < torch.tensor([9, 1, 4, 8, 2])[:, None]


def encode(encoder: Encoder, bias: RelativeBias, inputs: Tensor) -> Tensor:
    places = torch.arange(T)
    states: Tensor = encoder(inputs, hide_padding(bias(places, places), present()))
    return states


@pytest.fixture(scope="module")
def t5(parts: tuple[Encoder, RelativeBias, Decoder]) -> Any:
    return t5_of(*parts, SHAPE, rows=4)


def test_encoder_is_that_of_t5(parts: tuple[Encoder, RelativeBias, Decoder], t5: Any) -> None:
    inputs = rows(B, T, SHAPE.dim)
    with torch.no_grad():
        ours = encode(parts[0], parts[1], inputs)
        theirs = t5.encoder(inputs_embeds=inputs, attention_mask=present().long()).last_hidden_state
    inside = present()
    assert torch.allclose(ours[inside], theirs[inside], atol=1e-5)


def test_decoder_is_that_of_t5(parts: tuple[Encoder, RelativeBias, Decoder], t5: Any) -> None:
    encoder, bias, decoder = parts
    inputs, spelt = rows(B, T, SHAPE.dim), rows(B, 4, SHAPE.dim, seed=1)
    with torch.no_grad():
        memory = encode(encoder, bias, inputs)
        ours = decoder(spelt, decoder.read(memory, present()))
        theirs = t5.decoder(
            inputs_embeds=spelt, encoder_hidden_states=memory, encoder_attention_mask=present().long()
        ).last_hidden_state
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_step_by_step_equals_all_at_once(parts: tuple[Encoder, RelativeBias, Decoder]) -> None:
    encoder, bias, decoder = parts
    beams = rows(B, 3, 4, SHAPE.dim, seed=2)
    with torch.no_grad():
        memory = encode(encoder, bias, rows(B, T, SHAPE.dim))
        spelling = decoder.read(memory, present())
        stepped = torch.stack([decoder.step(beams[:, :, place], spelling) for place in range(4)], 2)
        for beam in range(3):
            whole = decoder(beams[:, beam], decoder.read(memory, present()))
            assert torch.allclose(stepped[:, beam], whole, atol=1e-5)


def test_beams_that_follow_others_keep_what_those_spelt(parts: tuple[Encoder, RelativeBias, Decoder]) -> None:
    encoder, bias, decoder = parts
    beams, parents = rows(B, 3, 2, SHAPE.dim, seed=3), torch.tensor([[2, 0, 0]]).expand(B, -1)
    with torch.no_grad():
        memory = encode(encoder, bias, rows(B, T, SHAPE.dim))
        spelling = decoder.read(memory, present())
        decoder.step(beams[:, :, 0], spelling)
        spelling.follow(parents)
        stepped = decoder.step(beams[:, :, 1], spelling)
        for beam in range(3):
            spelt = torch.stack([beams[torch.arange(B), parents[:, beam], 0], beams[:, beam, 1]], 1)
            whole = decoder(spelt, decoder.read(memory, present()))
            assert torch.allclose(stepped[:, beam], whole[:, 1], atol=1e-5)


def test_padding_says_nothing(parts: tuple[Encoder, RelativeBias, Decoder]) -> None:
    encoder, bias, decoder = parts
    inputs, spelt = rows(B, T, SHAPE.dim), rows(B, 4, SHAPE.dim, seed=1)
    changed = torch.where(present()[..., None], inputs, 7.0)
    with torch.no_grad():
        one, two = (
            decoder(spelt, decoder.read(encode(encoder, bias, rows_), present()))
            for rows_ in (inputs, changed)
        )
    assert torch.equal(one, two)


@pytest.mark.parametrize("both_ways", [True, False])
def test_buckets_are_those_of_t5(both_ways: bool) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    distances = torch.arange(-300, 301)
    theirs = T5Attention._relative_position_bucket(
        distances, bidirectional=both_ways, num_buckets=32, max_distance=128
    )
    assert torch.equal(relative_buckets(distances, 32, both_ways=both_ways), theirs)
