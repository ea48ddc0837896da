"""BST, SIM and TransformerDCN against loops over single rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmrec.errors import ConfigError
from mmrec.models.ctr.bst import BST
from mmrec.models.ctr.inputs import History
from mmrec.models.ctr.sim import SIM, find
from mmrec.models.ctr.transformer_dcn import TransformerDCN
from mmrec.ragged import Links
from tests.dense import assert_close
from tests.rows import area, build, fit, planted_rows, replaced, shaken, whole_batch

DATA = planted_rows(40, histories=("history", "likes"))
BATCH = whole_batch(DATA)


def layer_norm(rows: Tensor, own: nn.LayerNorm) -> Tensor:
    centred = rows - rows.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + own.eps).sqrt() * own.weight + own.bias


def block_twin(block: Any, x: Tensor, heads: int) -> Tensor:
    """One post-norm Transformer block over all of ``x (n, d)``, nothing hidden."""
    attention, width = block.self_attn, x.shape[1]
    queries, keys, values = (x @ attention.in_proj_weight.T + attention.in_proj_bias).split(width, 1)
    parts = []
    for head in range(heads):
        cut = slice(head * width // heads, (head + 1) * width // heads)
        logits = queries[:, cut] @ keys[:, cut].T / (width / heads) ** 0.5
        parts.append(logits.softmax(1) @ values[:, cut])
    attended = torch.cat(parts, 1) @ attention.out_proj.weight.T + attention.out_proj.bias
    x = layer_norm(x + attended, block.norm1)
    inner = (x @ block.linear1.weight.T + block.linear1.bias).clamp(min=0)
    return layer_norm(x + inner @ block.linear2.weight.T + block.linear2.bias, block.norm2)


def latest_items(embedded: Any, name: str, row: int) -> Tensor:
    """``(n, d)`` the items of a history alone, the latest first."""
    history = embedded.histories[name]
    found: Tensor = embedded.items[history.places[row][history.present[row]]].flip(0)
    return found


def test_bst_states() -> None:
    model = shaken(BST, DATA, dim=2, blocks=2, heads=2)
    embedded = model.inputs(BATCH)
    for encoder, name in zip(model.encoders, ("history", "likes"), strict=True):
        found = encoder(embedded.target, embedded.items, embedded.histories[name]).view(40, 7, -1)
        for row in range(40):
            items = latest_items(embedded, name, row)
            states = torch.cat([embedded.target[row][None], items])
            states = states + encoder.positions[: len(states)]
            for block in encoder.blocks:
                states = block_twin(block, states, 2)
            assert_close(found[row, : len(states)], states, 1e-4)
            assert not found[row, len(states) :].any()


def test_transformer_dcn_reads_the_items_and_not_the_padding() -> None:
    model = shaken(TransformerDCN, DATA, dim=2, heads=2, latest=3)
    embedded = model.inputs(BATCH)
    for encoder, name in zip(model.encoders, ("history", "likes"), strict=True):
        found = encoder(embedded.target, embedded.items, embedded.histories[name]).view(40, 4, -1)
        for row in range(40):
            items = latest_items(embedded, name, row)
            if not len(items):
                assert not found[row].any()
                continue
            states = torch.cat([items, embedded.target[row].expand(len(items), -1)], 1)
            for block in encoder.blocks:
                states = block_twin(block, states, 2)
            assert_close(found[row, : min(len(items), 3)], states[:3], 1e-4)
            assert not found[row, len(items) : 3].any()
            assert_close(found[row, 3], states.amax(0), 1e-4)


def changed_by_column(model: Any) -> Tensor:
    """``(6, 40)``: which scores of full histories of 6 items are others when only one column's item is another."""
    full = torch.randint(1, 25, (40, 6), generator=torch.Generator().manual_seed(0))
    before = model.score(replaced(BATCH, history=full))
    changed = []
    for column in range(6):
        other = full.clone()
        other[:, column] = full[:, column] % 24 + 1
        changed.append((model.score(replaced(BATCH, history=other)) - before).abs() > 1e-6)
    return torch.stack(changed)


def test_transformer_dcn_depends_on_a_full_history() -> None:
    """What the published mask hides: every item of a full history, old or new, matters."""
    changed = changed_by_column(shaken(TransformerDCN, DATA, latest=2))
    assert (changed.float().mean(1) > 0.9).all()


@pytest.mark.parametrize("model_class", [BST, TransformerDCN])
def test_only_the_last_items_are_read(model_class: Any) -> None:
    changed = changed_by_column(shaken(model_class, DATA, max_length=2))
    assert changed[4:].all()
    assert not changed[:4].any()


def test_search_finds_the_most_similar_the_latest_first() -> None:
    places = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 0, 0, 0], [0, 0, 0, 0, 0]])
    history = History(places, places > 0, Links.of(places, places > 0, 8))
    similarities = torch.tensor([0.5, 0.9, 0.5, 0.1, 0.5, -torch.inf, 0.0])
    found = find(history, similarities, 3, 8)
    assert [
        sorted(row[present].tolist()) for row, present in zip(found.places, found.present, strict=True)
    ] == [
        [2, 3, 5],
        [7],
        [],
    ]
    assert len(found.links.entries.index) == 4


@pytest.mark.parametrize(
    "params",
    [{"search": "category"}, {"search": "category", "category": "text:1"}, {"search": "features"}, {}],
)
def test_sim_against_the_search_written_out(params: dict[str, Any]) -> None:
    """The found items, chosen by loops, go through the model's own attention and network."""
    model = shaken(SIM, DATA, dim=2, found=2, **params)
    embedded, text = model.inputs(BATCH), DATA.features["text"]
    assert DATA.item_rows is not None
    pooled = []
    for number, name in enumerate(("history", "likes")):
        chosen = torch.zeros(40, 2, dtype=torch.int64)
        for row in range(40):
            target = int(BATCH.values["item"][row])
            ids = [item for item in BATCH.values[name][row].tolist() if item]
            ranks: list[tuple[float, int, int]] = []
            for place, item in enumerate(ids):
                one, two = (int(DATA.item_rows[i]) for i in (target, item))
                if params.get("search") == "category":
                    column = DATA.item_values["kind"][[target, item]]
                    if "category" in params:
                        column = DATA.codes["text"].codes[[one, two], 1]
                    if column[0] == column[1]:
                        ranks.append((0.0, -place, item))
                elif params.get("search") == "features":
                    a, b = text.vectors[one], text.vectors[two]
                    norm = (a @ a) ** 0.5 * (b @ b) ** 0.5
                    ranks.append((-float(a @ b / norm) if norm else 0.0, -place, item))
                else:
                    s = embedded.items[embedded.ids.tolist().index(item)]
                    dot = model.targets[number](embedded.target[row]) @ model.items[number](s)
                    ranks.append((-float(dot.detach()), -place, item))
            for column, (_, _, item) in enumerate(sorted(ranks)[:2]):
                chosen[row, column] = embedded.ids.tolist().index(item)
        history = History(chosen, chosen > 0, Links.of(chosen, chosen > 0, len(embedded.items)))
        pooled.append(model.units[number](embedded.target, embedded.items, history))
    flat = torch.cat([embedded.context.flatten(1), embedded.target, *pooled], 1)
    assert_close(model.score(BATCH), model.network(flat)[:, 0], 1e-4)
    terms = model.loss(BATCH)
    assert set(terms) == ({"bce"} if params else {"bce", "search"})


def test_search_learns_only_from_its_own_term() -> None:
    model = build(SIM, DATA)
    terms = model.loss(BATCH)
    terms["bce"].backward(retain_graph=True)
    assert model.targets[0].weight.grad is None
    terms["search"].backward()
    assert model.targets[0].weight.grad.any() and model.items[1].weight.grad.any()


def test_a_search_that_the_data_cannot_serve() -> None:
    with pytest.raises(ConfigError, match="kind, text:0, text:1"):
        build(SIM, DATA, search="category", category="color")
    bare = type(DATA)(DATA.fields, DATA.train, DATA.item, DATA.histories)
    with pytest.raises(ConfigError, match=r"params\.search"):
        build(SIM, bare, search="category")
    with pytest.raises(ConfigError, match="features"):
        build(SIM, bare, search="features")


@pytest.mark.parametrize(
    ("kind", "params", "lr"),
    [(BST, {}, 0.01), (SIM, {}, 0.01), (TransformerDCN, {"latest": 2}, 0.005)],
)
def test_learns_what_a_history_has_to_do_with_the_target(
    kind: Any, params: dict[str, Any], lr: float
) -> None:
    data = planted_rows(600)
    model = build(kind, data, dim=4, dropout=0.0, **params)
    losses = fit(model, data, epochs=6, lr=lr)
    assert losses[-1] < losses[0] / 2 and area(model, data) > 0.95
