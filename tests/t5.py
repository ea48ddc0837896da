"""transformers' T5 with the weights of our encoder and decoder."""

from __future__ import annotations

from typing import Any

from mmrec.transformer import Attention, Decoder, Encoder, FeedForward, RelativeBias, Shape


def t5_of(encoder: Encoder, bias: RelativeBias, decoder: Decoder, shape: Shape, *, rows: int) -> Any:
    """A ``T5ForConditionalGeneration`` that shares our weights; its table of ``rows`` embeddings is its own."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=rows,
        d_model=shape.dim,
        d_kv=shape.head_dim,
        d_ff=shape.inner,
        num_layers=shape.layers,
        num_heads=shape.heads,
        dropout_rate=shape.dropout,
        pad_token_id=0,
        decoder_start_token_id=0,
        eos_token_id=None,
    )
    model = T5ForConditionalGeneration(config).eval()
    for ours, theirs in zip(encoder.layers, model.encoder.block, strict=True):
        _attention(ours.attention, theirs.layer[0].SelfAttention)  # type: ignore[arg-type]
        _inner(ours.inner, theirs.layer[1].DenseReluDense)  # type: ignore[arg-type]
        for norm, layer in zip((ours.norm, ours.norm_inner), theirs.layer, strict=True):
            layer.layer_norm.weight = norm.weight
    for ours, theirs in zip(decoder.layers, model.decoder.block, strict=True):
        _attention(ours.own, theirs.layer[0].SelfAttention)  # type: ignore[arg-type]
        _attention(ours.memory, theirs.layer[1].EncDecAttention)  # type: ignore[arg-type]
        _inner(ours.inner, theirs.layer[2].DenseReluDense)  # type: ignore[arg-type]
        for norm, layer in zip((ours.norm, ours.norm_memory, ours.norm_inner), theirs.layer, strict=True):
            layer.layer_norm.weight = norm.weight
    for mine, table, stack in ((encoder, bias, model.encoder), (decoder, decoder.bias, model.decoder)):
        stack.final_layer_norm.weight = mine.norm.weight
        stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight = table.table
    return model


def _attention(ours: Attention, theirs: Any) -> None:
    for mine, name in ((ours.query, "q"), (ours.key, "k"), (ours.value, "v"), (ours.out, "o")):
        getattr(theirs, name).weight = mine.weight


def _inner(ours: FeedForward, theirs: Any) -> None:
    theirs.wi.weight, theirs.wo.weight = ours.first.weight, ours.second.weight
