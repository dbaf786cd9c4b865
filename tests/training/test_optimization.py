import pytest
import torch
from torch import nn

from medshadow.losses import ShadowLoss
from medshadow.training import adamw, cosine, one_cycle
from medshadow.training.precision import has_native_bfloat16, keep_freed_memory, training_dtype


def rates(optimizer, scheduler, steps):
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize("schedule", [one_cycle, cosine])
def test_schedules_rise_then_fall(make_embedder, schedule):
    optimizer = adamw(make_embedder(), learning_rate=0.1)
    seen = rates(optimizer, schedule(optimizer, 100, warmup=0.2), 100)
    peak = seen.index(max(seen))
    assert 17 <= peak <= 21
    assert max(seen) == pytest.approx(0.1)
    assert seen[: peak + 1] == sorted(seen[: peak + 1])
    assert seen[peak:] == sorted(seen[peak:], reverse=True)
    assert seen[-1] < 1e-3


def test_every_parameter_is_optimized_once_and_vectors_are_not_decayed(make_embedder):
    embedder = make_embedder()
    groups = adamw(embedder).param_groups
    ids = [id(p) for g in groups for p in g["params"]]
    assert sorted(ids) == sorted(id(p) for p in embedder.parameters())
    assert all(g["weight_decay"] == 0 for g in groups for p in g["params"] if p.ndim == 1)


def test_frozen_modules_are_left_out_and_named_when_absent(make_embedder):
    embedder = make_embedder()
    groups = adamw(embedder, frozen=["features.layers.0", "features.layers.1"]).param_groups
    trained = {id(p) for g in groups for p in g["params"]}
    names = {n for n, p in embedder.named_parameters() if id(p) in trained}
    assert names == {"backbone.features.layers.4.weight", "backbone.features.layers.4.bias",
                     "head.weight", "head.bias"}  # fmt: skip
    with pytest.raises(ValueError, match=r"no module 'features\.nowhere'"):
        adamw(embedder, frozen=["features.nowhere"])


def test_a_losss_parameters_have_a_group_of_their_own(make_embedder):
    embedder, proxies = make_embedder(), nn.Linear(8, 3)
    proxies.bias.requires_grad_(False)
    *others, last = adamw(embedder, loss=proxies, loss_learning_rate=0.02).param_groups
    assert [id(p) for p in last["params"]] == [id(proxies.weight)]
    assert (last["lr"], last["weight_decay"]) == (0.02, 0)
    assert len(others) == len(adamw(embedder).param_groups)
    assert len(adamw(embedder, loss=ShadowLoss()).param_groups) == len(others)


def test_precision_is_chosen_by_what_the_machine_has(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False})
    assert not has_native_bfloat16(cpu)
    assert training_dtype("auto", cpu) == torch.float32
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert training_dtype("auto", cpu) == torch.bfloat16
    assert training_dtype("bfloat16", cpu) == torch.bfloat16
    with pytest.raises(ValueError, match="float64"):
        training_dtype("float64", cpu)


def test_freed_memory_is_kept_only_where_the_c_library_can(monkeypatch):
    assert isinstance(keep_freed_memory(), bool)
    monkeypatch.setattr("platform.libc_ver", lambda: ("musl", "1.2"))
    assert keep_freed_memory() is False
