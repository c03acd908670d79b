"""The gradient of log pi of every completion by itself, in one backward pass for all of a prompt.

Only of a LoRA adapter at its start, B = 0: the gradient of A is then 0, and that of B is a product
of what the layer read and of the gradient of what it gave, which hooks see row by row.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from bondlab.lm.adapters import ADAPTER
from bondlab.lm.completions import Completions
from bondlab.lm.language_model import LanguageModel


def of_new_adapter(
    model: LanguageModel, prompt: str, completions: Completions, rank: int, seed: int = 0
) -> Tensor:
    """Gradients of log pi(y|x) with respect to a new adapter's parameters that are not 0: [K, D].

    Args:
        model: the policy before its first step; it is left as it is.
        prompt: one prompt.
        completions: K completions of it, [1, K, T].
        rank, seed: of the adapter, as `trainable_copy` takes them.

    Returns:
        [K, D] in float32 on the processor, D the number of entries of all matrices B.
    """
    policy = model.trainable_copy(rank, seed).to(model.device)
    layers = [
        module.lora_B[ADAPTER] for module in policy.model.modules() if hasattr(module, "lora_B")
    ]
    count = completions.tokens.shape[1]
    found = [torch.zeros(count, *layer.weight.shape, device=model.device) for layer in layers]
    for layer, total in zip(layers, found, strict=True):
        layer.register_forward_hook(partial(_watch, total))
    # One row a completion, so that rows share no layer's input, not even the encoder's.
    rows = Completions(*(
        x.transpose(0, 1) for x in (completions.tokens, completions.mask, completions.log_probs)
    ))  # fmt: skip
    policy(policy.encode([prompt] * count), rows).sum().backward()
    return torch.cat([total.flatten(1) for total in found], dim=1).cpu()


def _watch(total: Tensor, layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
    """Add each row's gradient of the layer's weight [K, out, in] to `total` when it is known."""
    read = inputs[0].detach().float()

    def add(gradient: Tensor) -> None:
        total.add_(torch.einsum("kto,kti->koi", gradient.float(), read))

    output.register_hook(add)
