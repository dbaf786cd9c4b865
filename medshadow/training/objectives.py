"""Shadow Loss and the objectives it is compared with, by name and behind one call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from medshadow.errors import OptionalDependencyError
from medshadow.losses import ShadowLoss, batch_hard, hardest_negative, semihard
from medshadow.losses.shadow import MININGS


def objective(
    name: str,
    *,
    mining: str = "batch_all",
    mining_margin: float | None = None,
    fallback: str = "hardest",
    **options: Any,
) -> nn.Module:
    """Make an objective that is called ``loss(embeddings, labels)``, with our mining or without.

    The compared losses are those of pytorch-metric-learning (2.9), not written again. All take
    S x D embeddings and S integer labels (label sets are for the two forms of Shadow Loss alone),
    and all but ``soft_triple`` also ``indices_tuple``,
    ``ref_emb`` and ``ref_labels``. Options, with their defaults and where these come from
    (docs/objectives.md has the formulas):

    ``shadow``
        :class:`~medshadow.losses.ShadowLoss` and its options; margin 0.2 in cosine distance.
    ``shadow_unnormalized``
        The paper's general form: ShadowLoss with ``normalize=False``. On unit vectors it is the
        same number as ``shadow``: only embeddings of free length tell the two apart, as of an
        :class:`~medshadow.networks.Embedder` with ``free_length=True`` in training.
    ``triplet``
        Triplet margin on plain Euclidean distance between unit vectors (on squared distance it
        would be Shadow Loss again): ``margin`` 0.05 and ``reduction`` "mean_active", the
        library's own; "mean" divides by all triplets.
    ``triplet_soft``
        softplus(d(a, p) - d(a, n)) on plain Euclidean distance, without a margin, as in Hermans et
        al. 2017.
    ``angular``
        Angular loss (Wang et al. 2017): ``alpha`` 40 degrees, the library's default.
    ``soft_triple``
        SoftTriple (Qian et al. 2019) has proxies, which are trained: give them to the optimizer
        (``adamw(embedder, loss=loss)``). Needs ``classes`` and ``embedding_dim``; the paper's
        ``centers_per_class`` 10, ``la`` 20, ``gamma`` 0.1, ``margin`` 0.01 and ``tau`` 0.2, the
        weight of what merges a class's centres (0 leaves it out); ``seed`` of the first proxies.
    ``multi_similarity``
        Multi-Similarity (Wang et al. 2019): ``alpha`` 2, ``beta`` 50, ``base`` 0.5, the library's
        defaults; the paper's text has base 1.

    Args:
        name: one of :data:`OBJECTIVES`.
        mining: "batch_all" leaves the choice of pairs and triplets to the objective: all of them.
            "semihard", "hardest_negative" or "batch_hard" choose triplets by cosine distance with
            the miners of :mod:`medshadow.losses`, for any objective but ``soft_triple``, which has
            none. Multi-Similarity uses the pairs that occur in them, the angular loss
            their (a, p) pairs, each as often as it occurs, with every negative.
        mining_margin: width of the semi-hard window in cosine distance; 0.2 when None. Shadow
            Loss's window is its own margin, so there it can only repeat that.
        fallback: what ``semihard`` takes where the window is empty: "hardest", "easiest", "skip".
        options: of the objective, as above.

    Returns:
        A module whose parameters, if it has any, belong to the optimizer.

    Raises:
        ValueError: a name, mining or option that is not known, with those that are; an argument
            that ``soft_triple`` needs is missing; on call, label sets for a compared loss.
        OptionalDependencyError: pytorch-metric-learning is not installed.

    Example:
        >>> rows = torch.nn.functional.normalize(torch.randn(12, 8), dim=1)
        >>> labels = torch.arange(12) % 3
        >>> all(objective(name)(rows, labels) > 0 for name in ("shadow", "triplet", "angular"))
        True
        >>> proxies = objective("soft_triple", classes=3, embedding_dim=8)
        >>> [tuple(p.shape) for p in proxies.parameters()]
        [(8, 30)]
    """
    if name not in _BUILDERS:
        raise ValueError(f"objective {name!r} is not known; known are {', '.join(OBJECTIVES)}")
    if mining not in MININGS:
        raise ValueError(f"mining={mining!r}; known are: {', '.join(MININGS)}")
    builder = _BUILDERS[name]
    _check_options(name, builder, options)
    if name.startswith("shadow"):
        mined = {} if mining == "batch_all" else {"mining": mining, "fallback": fallback}
        loss: nn.Module = builder(**mined, **options)
        if mining_margin not in (None, loss.margin):
            raise ValueError(
                f"mining_margin={mining_margin!r}: the semi-hard window of {name!r} is its own "
                f"margin, {loss.margin}"
            )
        return loss
    if mining != "batch_all" and name == "soft_triple":
        raise ValueError(
            f"mining={mining!r}: soft_triple compares with proxies and has no triplets to mine; "
            "leave it at 'batch_all'"
        )
    loss = builder(**options)
    loss.register_forward_pre_hook(partial(_refuse_label_sets, name), with_kwargs=True)
    if mining == "batch_all":
        return loss
    return MinedObjective(loss, mining, 0.2 if mining_margin is None else mining_margin, fallback)


class MinedObjective(nn.Module):
    """An objective that sees the triplets of one of our miners instead of all.

    Args:
        objective: takes ``indices_tuple`` as the losses of pytorch-metric-learning do.
        mining: "semihard", "hardest_negative" or "batch_hard"; may be set between batches, to
            "batch_all" too, which leaves the choice to the objective.
        mining_margin: width of the semi-hard window in cosine distance.
        fallback: see :func:`objective`.
    """

    def __init__(
        self, objective: nn.Module, mining: str, mining_margin: float, fallback: str
    ) -> None:
        super().__init__()
        self.objective = objective
        self.mining = mining
        self.mining_margin = mining_margin
        self.fallback = fallback
        self._triplets: int | None = None

    @property
    def statistics(self) -> dict[str, float]:
        """How many ``triplets`` the last call was given; empty where it was given none."""
        return {} if self._triplets is None else {"triplets": self._triplets}

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: Sequence[Tensor] | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        """Return the objective over the mined triplets; a given ``indices_tuple`` goes first."""
        if indices_tuple is None and self.mining != "batch_all":
            indices_tuple = self._mine(embeddings, labels, ref_emb, ref_labels)
        self._triplets = None if indices_tuple is None else len(indices_tuple[0])
        loss: Tensor = self.objective(embeddings, labels, indices_tuple, ref_emb, ref_labels)
        return loss

    def _mine(
        self,
        embeddings: Tensor,
        labels: Tensor,
        references: Tensor | None,
        reference_labels: Tensor | None,
    ) -> Sequence[Tensor]:
        given = (embeddings, labels)
        among = {"references": references, "reference_labels": reference_labels}
        if self.mining == "semihard":
            return semihard(*given, margin=self.mining_margin, fallback=self.fallback, **among)
        if self.mining == "hardest_negative":
            return hardest_negative(*given, **among)
        return batch_hard(*given, **among)


def _refuse_label_sets(
    name: str, _loss: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    labels = args[1] if len(args) > 1 else kwargs.get("labels")
    if isinstance(labels, Tensor) and labels.ndim != 1:
        raise ValueError(
            f"objective {name!r} takes one label a case, S integers; found labels of shape "
            f"{tuple(labels.shape)}. Only 'shadow' and 'shadow_unnormalized' train on label sets"
        )


def _shadow_unnormalized(**options: Any) -> nn.Module:
    return ShadowLoss(normalize=False, **options)


def _triplet(margin: float = 0.05, reduction: str = "mean_active") -> nn.Module:
    pml = _metric_learning()
    reducers = {
        "mean": pml.reducers.MeanReducer,
        "mean_active": pml.reducers.AvgNonZeroReducer,
    }
    if reduction not in reducers:
        raise ValueError(f"reduction={reduction!r}; expected one of {', '.join(reducers)}")
    loss: nn.Module = pml.losses.TripletMarginLoss(
        margin=margin, distance=_euclidean(pml), reducer=reducers[reduction]()
    )
    return loss


def _triplet_soft() -> nn.Module:
    pml = _metric_learning()
    loss: nn.Module = pml.losses.TripletMarginLoss(
        margin=0,
        smooth_loss=True,
        distance=_euclidean(pml),
        reducer=pml.reducers.MeanReducer(),
    )
    return loss


def _angular(alpha: float = 40) -> nn.Module:
    loss: nn.Module = _metric_learning().losses.AngularLoss(alpha=alpha)
    return loss


def _soft_triple(
    classes: int | None = None,
    embedding_dim: int | None = None,
    centers_per_class: int = 10,
    la: float = 20,
    gamma: float = 0.1,
    margin: float = 0.01,
    tau: float = 0.2,
    seed: int = 0,
) -> nn.Module:
    if classes is None or embedding_dim is None:
        raise ValueError(
            f"soft_triple needs classes (found {classes}), the number of labels in training, and "
            f"embedding_dim (found {embedding_dim}), the D of the embedder: its proxies are "
            "D x classes * centers_per_class"
        )
    pml = _metric_learning()
    merging = {}
    if tau and centers_per_class > 1:
        merging = {
            "weight_regularizer": pml.regularizers.SparseCentersRegularizer(
                num_classes=classes, centers_per_class=centers_per_class
            ),
            "weight_reg_weight": tau,
        }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        loss: nn.Module = pml.losses.SoftTripleLoss(
            num_classes=classes,
            embedding_size=embedding_dim,
            centers_per_class=centers_per_class,
            la=la,
            gamma=gamma,
            margin=margin,
            **merging,
        )
    return loss


def _multi_similarity(alpha: float = 2, beta: float = 50, base: float = 0.5) -> nn.Module:
    loss: nn.Module = _metric_learning().losses.MultiSimilarityLoss(
        alpha=alpha, beta=beta, base=base
    )
    return loss


_BUILDERS: Mapping[str, Callable[..., nn.Module]] = {
    "shadow": ShadowLoss,
    "shadow_unnormalized": _shadow_unnormalized,
    "triplet": _triplet,
    "triplet_soft": _triplet_soft,
    "angular": _angular,
    "soft_triple": _soft_triple,
    "multi_similarity": _multi_similarity,
}
OBJECTIVES = tuple(_BUILDERS)


def _metric_learning() -> ModuleType:
    try:
        import pytorch_metric_learning as pml
        from pytorch_metric_learning import distances, losses, reducers, regularizers  # noqa: F401
    except ImportError as error:
        raise OptionalDependencyError(
            "the compared objectives need pytorch-metric-learning: "
            f"pip install 'medshadow[compare]' ({error})"
        ) from error
    return pml


def _euclidean(pml: ModuleType) -> Any:
    """Plain Euclidean distance between unit vectors: the first power, not the square."""
    return pml.distances.LpDistance(normalize_embeddings=True, p=2, power=1)


def _check_options(
    name: str, builder: Callable[..., nn.Module], options: Mapping[str, Any]
) -> None:
    shadow = name.startswith("shadow")
    known = list(inspect.signature(ShadowLoss if shadow else builder).parameters)
    known = [option for option in known if option not in ("mining", "fallback")]
    if name == "shadow_unnormalized":
        known.remove("normalize")
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(
            f"objective {name!r} has no option {', '.join(unknown)}; its options are "
            f"{', '.join(known) or 'none'}"
        )
