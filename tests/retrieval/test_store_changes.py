import numpy as np
import pytest

from medshadow.errors import StoreError
from medshadow.retrieval import CaseStore


class Reader:
    """A search structure that is kept by catching up alone."""

    def __init__(self, store):
        self.store = store
        snapshot = store.snapshot()
        self.version = snapshot.version
        self.known = dict(rows_that_may_be_shown(snapshot))

    def catch_up(self):
        changes = self.store.changes_since(self.version)
        for key in changes.removed.tolist():
            # A case that was suspended before has a key too, but was not to be found.
            self.known.pop(key, None)
        added = dict(rows_that_may_be_shown(changes.added))
        assert min(added, default=np.inf) > max(self.known, default=0)
        assert len(added) == len(changes.added.frame)
        self.known.update(added)
        assert changes.version == changes.added.version
        self.version = changes.version


def rows_that_may_be_shown(snapshot):
    assert snapshot.keys.dtype == np.int64
    assert len(snapshot.frame) == len(snapshot.embeddings) == len(snapshot.keys)
    assert (np.diff(snapshot.keys) > 0).all()
    frame = snapshot.frame
    rows = zip(snapshot.keys.tolist(), frame.to_dict("records"), snapshot.embeddings, strict=True)
    for key, row, vector in rows:
        if row["consent"] == "given":
            yield key, (row["case_id"], row["label"], vector.tobytes())


@pytest.mark.parametrize("seed", range(2))
def test_a_reader_that_catches_up_knows_the_store(any_store, some, seed):
    rng = np.random.default_rng(seed)
    some.fill(any_store, 12)
    readers = [Reader(any_store) for _ in range(2)]
    shown_by = {}
    for step in range(30):
        there = any_store.frame()["case_id"].tolist()
        chosen = rng.choice(there, min(2, len(there)), replace=False).tolist()
        match rng.integers(6):
            case 0:
                some.fill(any_store, 2, prefix=f"new{step}-", seed=step)
            case 1:
                any_store.set_consent(chosen, "suspended")
            case 2:
                any_store.set_consent(chosen, "given")
            case 3:
                any_store.update(chosen[0], label=f"label{step}")
            case 4:
                again = some.frame(1).assign(case_id=chosen[:1])
                any_store.add(again, some.vectors(1, seed=step), model_digest="m1", replace=True)
            case 5 if len(there) > 4:
                any_store.withdraw(chosen[:1])
        snapshot = any_store.snapshot()
        for reader, every in zip(readers, (1, 7), strict=True):
            if step % every == 0:
                reader.catch_up()
                assert reader.known == dict(rows_that_may_be_shown(snapshot))
                assert reader.version == any_store.version
        for key, shown in rows_that_may_be_shown(snapshot):
            assert shown_by.setdefault(key, shown) == shown
    assert any_store.verify() == []


def test_what_has_changed_gets_a_new_key(any_store, some):
    def key_of(case_id):
        snapshot = any_store.snapshot()
        return int(snapshot.keys[snapshot.frame["case_id"].tolist().index(case_id)])

    some.fill(any_store, 4)
    assert [key_of(f"c{i}") for i in range(4)] == [1, 2, 3, 4]
    any_store.update("c0", label="mel")
    assert key_of("c0") == 5
    any_store.add(some.frame(1), some.vectors(1), model_digest="m1", replace=True)
    assert key_of("c0") == 6
    any_store.set_consent("c0", "suspended")
    assert key_of("c0") == 6
    any_store.set_consent("c0", "given")
    assert key_of("c0") == 7
    any_store.set_consent("c0", "given")
    assert key_of("c0") == 7
    any_store.withdraw("c0")
    some.fill(any_store, 1, prefix="d")
    assert key_of("d0") == 8


def test_little_is_read_when_little_changed(any_store, some):
    some.fill(any_store, 30)
    version = any_store.version
    any_store.update("c3", metadata={"age": 5})
    any_store.withdraw("c4")
    changes = any_store.changes_since(version)
    assert changes.removed.tolist() == [4, 5]
    assert changes.added.frame["case_id"].tolist() == ["c3"]
    assert changes.added.frame["age"].tolist() == [5]
    nothing = any_store.changes_since(any_store.version)
    assert nothing.removed.dtype == np.int64
    assert (len(nothing.removed), len(nothing.added.frame)) == (0, 0)
    assert nothing.added.embeddings.shape == (0, 4)


def test_versions_of_another_store_cannot_be_caught_up_from(any_store, some):
    some.fill(any_store, 1)
    assert any_store.changes_since(any_store.version + 1) is None
    assert any_store.changes_since(-1) is None
    assert any_store.changes_since(0).added.frame["case_id"].tolist() == ["c0"]


def test_every_change_moves_the_version_on(any_store, some):
    seen = [any_store.version]
    for change in (
        lambda: some.fill(any_store, 2),
        lambda: any_store.add(some.frame(1), some.vectors(1), model_digest="m1", replace=True),
        lambda: any_store.update("c0", label="mel"),
        lambda: any_store.set_consent("c0", "suspended"),
        lambda: any_store.withdraw("c0"),
    ):
        change()
        seen.append(any_store.version)
    assert seen == sorted(set(seen))


def test_what_is_refused_changes_nothing(any_store, some):
    some.fill(any_store, 2)
    before, trail = any_store.snapshot(), len(any_store.trail())
    for refused in (
        lambda: any_store.withdraw(["c0", "nobody"]),
        lambda: any_store.withdraw("c0", reason="bored"),
        lambda: any_store.set_consent(["c0", "nobody"], "suspended"),
        lambda: any_store.update("c0", labels={"other"}),
    ):
        with pytest.raises(StoreError):
            refused()
    assert any_store.version == before.version
    assert any_store.snapshot().keys.tolist() == before.keys.tolist()
    assert len(any_store.trail()) == trail


def test_vectors_of_keys_that_may_be_shown(any_store, some):
    some.fill(any_store, 5)
    keys, vectors = any_store.snapshot().keys, any_store.embeddings()
    any_store.set_consent("c1", "suspended")
    any_store.withdraw("c2")
    asked = np.array([keys[4], keys[1], 999, keys[0], keys[2]])
    expected = [vectors[4], np.zeros(4), np.zeros(4), vectors[0], np.zeros(4)]
    assert any_store.vectors_of(asked).tolist() == np.array(expected).tolist()
    assert any_store.vectors_of(keys[:0]).shape == (0, 4)


def test_names_are_the_store_s_own(any_store, tmp_path, settings):
    name = any_store.keyed_name("mirror", "m1")
    assert name == any_store.keyed_name("mirror", "m1")
    assert len(name) == 16
    assert set(name) <= set("0123456789abcdef")
    with CaseStore.create(tmp_path / "other.db", **settings) as other:
        names = {name, any_store.keyed_name("mark", "m1"), any_store.keyed_name("mirror", "m2")}
        assert len(names | {other.keyed_name("mirror", "m1")}) == 4
