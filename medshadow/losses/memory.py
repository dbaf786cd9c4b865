"""Cross-batch memory: embeddings of past batches, as further positives and negatives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from medshadow.losses.shadow import ShadowLoss


class CrossBatchMemory(nn.Module):
    """A loss whose anchors also meet the embeddings of past batches, oldest forgotten first.

    Anchors are the batch alone; positives and negatives are the batch and the memory together,
    every one of them counted exactly. Past embeddings are constants: they receive no gradient, and
    they are as old as the network that made them, so the memory pays once the network changes
    slowly. An image that an earlier batch held is met again as a positive.

    Args:
        loss: the loss; its mining, margin and reduction hold for batch and memory alike.
        size: how many embeddings to keep, at least 1.

    Raises:
        ValueError: ``size`` is below 1; or, when called, embeddings or labels of another width than
            those remembered.

    Source: Wang et al., Cross-batch memory for embedding learning, CVPR 2020.

    Example:
        >>> memory = CrossBatchMemory(ShadowLoss(), size=100)
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> for _ in range(3):
        ...     loss = memory(torch.randn(4, 8, requires_grad=True), labels)
        >>> memory.remembered, memory.statistics["triplets"]
        (12, 120)
    """

    def __init__(self, loss: ShadowLoss, size: int) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"size must be at least 1 embedding; found {size}")
        self.loss = loss
        self.size = size
        self._embeddings: Tensor | None = None
        self._labels: Tensor | None = None

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Loss of a batch against itself and the memory, which then remembers the batch.

        Args:
            embeddings: S x D, any floating dtype.
            labels: S integers, or S x L label sets.

        Returns:
            A scalar, as of the loss.
        """
        labels = labels.to(embeddings.device)
        past, past_labels = self._past(embeddings, labels)
        value: Tensor = self.loss(
            embeddings,
            labels,
            ref_emb=torch.cat([embeddings, past]),
            ref_labels=torch.cat([labels, past_labels]),
            own_at=0,
        )
        if self.training:
            self._embeddings = torch.cat([past, embeddings.detach()])[-self.size :]
            self._labels = torch.cat([past_labels, labels])[-self.size :]
        return value

    def clear(self) -> None:
        """Forget every embedding; a curriculum does so when its stage changes."""
        self._embeddings = self._labels = None

    @property
    def remembered(self) -> int:
        """How many embeddings it holds now."""
        return 0 if self._embeddings is None else len(self._embeddings)

    @property
    def statistics(self) -> dict[str, float]:
        """Statistics of the last call, as :attr:`ShadowLoss.statistics` has them."""
        return self.loss.statistics

    def get_extra_state(self) -> dict[str, Tensor | None]:
        """The memory as a checkpoint keeps it."""
        return {"embeddings": self._embeddings, "labels": self._labels}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take the memory of a checkpoint."""
        self._embeddings, self._labels = state["embeddings"], state["labels"]

    def _past(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if self._embeddings is None or self._labels is None:
            return embeddings.detach()[:0], labels[:0]
        past = self._embeddings.to(embeddings.device, embeddings.dtype)
        if past.shape[1] != embeddings.shape[1] or self._labels.shape[1:] != labels.shape[1:]:
            raise ValueError(
                f"embeddings {tuple(embeddings.shape)} with labels {tuple(labels.shape)} do not "
                f"fit the memory's {tuple(past.shape)} with {tuple(self._labels.shape)}; clear() "
                "it first"
            )
        return past, self._labels.to(labels.device)
