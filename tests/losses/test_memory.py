import pytest
import torch

from medshadow.losses import CrossBatchMemory, ShadowLoss


def batches(count, size=6, sets=False):
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        rows = torch.randn(size, 3, generator=generator, dtype=torch.float64)
        shape = (size, 3) if sets else (size,)
        yield rows, torch.randint(0, 3 - sets, shape, generator=generator)


def by_hand(rows, labels, past, past_labels, margin):
    """Every triplet whose anchor is in the batch, one after the other."""
    everything = torch.cat([rows, past])
    everyones = [*labels.tolist(), *past_labels.tolist()]
    units = torch.nn.functional.normalize(everything, dim=1)
    hinges = []
    for a in range(len(rows)):
        for p in range(len(everything)):
            for n in range(len(everything)):
                if p != a and everyones[p] == everyones[a] != everyones[n]:
                    difference = units[a] @ units[n] - units[a] @ units[p]
                    hinges.append((difference + margin).clamp_min(0))
    return torch.stack(hinges).mean()


def test_the_batch_meets_itself_and_the_last_embeddings():
    memory = CrossBatchMemory(ShadowLoss(0.3), size=9)
    seen, seen_labels = torch.empty(0, 3, dtype=torch.float64), torch.empty(0, dtype=torch.int64)
    for rows, labels in batches(4):
        slow = rows.clone().requires_grad_()
        expected = by_hand(slow, labels, seen, seen_labels, 0.3)
        expected.backward()
        fast = rows.clone().requires_grad_()
        value = memory(fast, labels)
        value.backward()
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=0)
        torch.testing.assert_close(fast.grad, slow.grad, rtol=1e-9, atol=1e-12)
        seen, seen_labels = torch.cat([seen, rows])[-9:], torch.cat([seen_labels, labels])[-9:]
        assert memory.remembered == len(seen)


@pytest.mark.parametrize("mining", ["semihard", "hardest_negative", "batch_hard"])
@pytest.mark.parametrize("sets", [False, True])
def test_mining_reaches_into_the_memory(mining, sets):
    memory = CrossBatchMemory(ShadowLoss(mining=mining), size=100)
    (first, first_labels), (rows, labels) = batches(2, sets=sets)
    memory(first, first_labels)
    found = memory(rows, labels)
    together, both = torch.cat([rows, first]), torch.cat([labels, first_labels])
    expected = ShadowLoss(mining=mining)(rows, labels, ref_emb=together, ref_labels=both, own_at=0)
    assert found == expected
    assert found != ShadowLoss(mining=mining)(rows, labels)


def test_cleared_it_is_the_plain_loss():
    memory = CrossBatchMemory(ShadowLoss(), size=50)
    (first, first_labels), (rows, labels) = batches(2)
    memory(first, first_labels)
    memory.clear()
    assert memory.remembered == 0
    torch.testing.assert_close(memory(rows, labels), ShadowLoss()(rows, labels))


def test_evaluation_remembers_nothing():
    memory = CrossBatchMemory(ShadowLoss(), size=50).eval()
    for rows, labels in batches(2):
        memory(rows, labels)
    assert memory.remembered == 0


def test_a_checkpoint_keeps_it(tmp_path):
    memory = CrossBatchMemory(ShadowLoss(), size=50)
    (first, first_labels), (rows, labels) = batches(2)
    memory(first, first_labels)
    torch.save(memory.state_dict(), tmp_path / "loss.pt")
    restored = CrossBatchMemory(ShadowLoss(), size=50)
    restored.load_state_dict(torch.load(tmp_path / "loss.pt", weights_only=True))
    assert restored(rows, labels) == memory(rows, labels)


def test_a_batch_that_does_not_fit_is_named():
    memory = CrossBatchMemory(ShadowLoss(), size=50)
    memory(torch.randn(4, 8), torch.tensor([0, 0, 1, 1]))
    with pytest.raises(ValueError, match=r"\(4, 6\).* do not fit the memory's \(4, 8\)"):
        memory(torch.randn(4, 6), torch.tensor([0, 0, 1, 1]))
    with pytest.raises(ValueError, match="at least 1 embedding; found 0"):
        CrossBatchMemory(ShadowLoss(), size=0)
