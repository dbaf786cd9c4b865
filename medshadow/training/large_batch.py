"""Gradient caching: a batch of any size at the activation memory of one chunk."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from medshadow.training.running_statistics import PooledStatistics


def cached_backward(
    network: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    chunk_size: int,
    *,
    encode: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Backpropagate a loss over the whole batch while one chunk's activations are in memory.

    1. Encode the batch chunk by chunk without a graph.
    2. Compute the loss on all embeddings, and its gradient by them. Parameters of the loss itself
       get their gradient here.
    3. Encode again, chunk by chunk with a graph, and backpropagate the chunk's rows of that
       gradient.

    The gradient is that of the plain batch; it costs a second forward pass. Under autocast the
    embeddings, the loss and its gradient by them are the plain batch's, too; the gradient of a
    weight is rounded to bfloat16 chunk by chunk and summed in float32, so that it differs from the
    plain batch's by those roundings, 2^-8 of each chunk's part at most. Dropout and stochastic
    depth draw the same in both passes, since the random state (CPU and CUDA) of every chunk is
    replayed. Batch norm in training mode normalises by the statistics of the chunk; its running
    statistics are updated once a batch, by those of all images together
    (:class:`~medshadow.training.running_statistics.PooledStatistics`). For the first such layer
    they are the plain batch's; deeper ones see what chunks made of the layers before. Other buffers
    change in the last pass alone.

    Args:
        network: what is trained; its parameters' ``grad`` is added to, as by ``backward``, and
            stays None where there is none.
        loss: called as ``loss(embeddings, labels)``, gives a scalar.
        images: S x ..., on any device. They are handed to ``encode`` chunk by chunk, so a batch
            that does not fit the device stays on the CPU.
        labels: S integers or S x L label sets, on the device of the embeddings.
        chunk_size: images encoded at a time, at least 1; see :func:`mixed_chunks`.
        encode: how images become embeddings with ``network``, where it takes more than calling it:
            moving a chunk to the device, a precision.

    Returns:
        The loss, without graph.

    Raises:
        ValueError: ``chunk_size`` is below 1; or a layer in training, such as SyncBatchNorm, keeps
            running statistics that are not those of a chunk.

    Source: Gao, Zhang, Han, Callan, "Scaling deep contrastive learning batch size under memory
    limited setup", arXiv 2101.06983.

    Example:
        >>> from medshadow.losses import ShadowLoss
        >>> network = nn.Linear(5, 3)
        >>> images, labels = torch.eye(5)[[0, 1, 2, 3, 4, 0]], torch.tensor([0, 0, 0, 1, 1, 1])
        >>> value = cached_backward(network, ShadowLoss(), images, labels, chunk_size=2)
        >>> cached = network.weight.grad.clone()
        >>> network.zero_grad()
        >>> ShadowLoss()(network(images), labels).backward()
        >>> bool(torch.allclose(cached, network.weight.grad, atol=1e-6))
        True
    """
    encode = encode or network
    chunks = mixed_chunks(labels, chunk_size)
    statistics = PooledStatistics(network)
    embeddings, states = _encode_without_graph(network, encode, images, chunks, statistics)
    embeddings.requires_grad_()
    value = loss(embeddings, labels)
    value.backward()
    gradient = embeddings.grad
    statistics.update()
    with statistics.kept():
        for rows, state in zip(chunks, states, strict=True):
            state.restore()
            part = encode(images[rows])
            # A frozen network, or a loss of its own parameters alone, has nothing to go back to.
            if part.requires_grad and gradient is not None:
                part.backward(gradient[rows.to(gradient.device)])
    return value.detach()


def mixed_chunks(labels: Tensor, chunk_size: int) -> list[Tensor]:
    """Deal the rows of a batch into chunks of equal size and equal mixture of classes.

    Batch norm normalises a chunk by the chunk's own statistics: a chunk of one class would lose
    what sets that class apart, and one of a single image has no statistics at all. Each chunk gets
    equally many images up to one, and of every class equally many up to one, in whatever order the
    batch comes.

    Args:
        labels: S integers or S x L label sets; equal sets count as one class.
        chunk_size: largest number of rows of a chunk, at least 1.

    Returns:
        For each of the ceil(S / chunk_size) chunks its rows in the batch, ascending, on the CPU;
        one empty chunk for an empty batch.

    Raises:
        ValueError: ``chunk_size`` is below 1.

    Example:
        >>> mixed_chunks(torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), chunk_size=4)
        [tensor([0, 2, 4, 6]), tensor([1, 3, 5, 7])]
    """
    check_chunk_size(chunk_size)
    if not len(labels):
        return [torch.zeros(0, dtype=torch.long)]
    class_of = torch.unique(labels.cpu(), dim=0, return_inverse=True)[1]
    dealt = class_of.argsort(stable=True)
    count = math.ceil(len(labels) / chunk_size)
    return [dealt[first::count].sort().values for first in range(count)]


def check_chunk_size(chunk_size: int) -> None:
    """Raise ValueError unless a chunk can hold an image."""
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1 image, or None; found {chunk_size}")


def _encode_without_graph(
    network: nn.Module,
    encode: Callable[[Tensor], Tensor],
    images: Tensor,
    chunks: list[Tensor],
    statistics: PooledStatistics,
) -> tuple[Tensor, list[_RandomState]]:
    """Embeddings in the order of the batch, and the random state before each chunk."""
    devices = {p.device for p in network.parameters() if p.is_cuda}
    buffers = [buffer.clone() for buffer in network.buffers()]
    states, parts = [], []
    with torch.no_grad():
        try:
            with statistics.collecting():
                for rows in chunks:
                    statistics.begin_chunk()
                    states.append(_RandomState(devices))
                    parts.append(encode(images[rows]))
        finally:
            for buffer, before in zip(network.buffers(), buffers, strict=True):
                buffer.copy_(before)
        embeddings = torch.cat(parts)
        order = torch.cat(chunks).to(embeddings.device)
        return torch.empty_like(embeddings).index_copy_(0, order, embeddings), states


class _RandomState:
    """The state of the CPU's and some CUDA devices' generators at one moment."""

    def __init__(self, devices: set[torch.device]) -> None:
        self._cpu = torch.get_rng_state()
        self._cuda = {device: torch.cuda.get_rng_state(device) for device in devices}

    def restore(self) -> None:
        torch.set_rng_state(self._cpu)
        for device, state in self._cuda.items():
            torch.cuda.set_rng_state(state, device)
