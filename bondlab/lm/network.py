"""Run the network of a language model over prompts and completions: two ways, one face.

The fast way reads hidden states from the decoder and applies the head here, in float32, and the
completions of a prompt share its cache where `attention` can. The plain way is the model's own
forward, for models that do more than a head to their logits or attend otherwise. `agreement`
decides, once a model, which of them gives the model's own distribution.

Shapes: B prompts, K completions per prompt, R = B*K rows, t tokens, D hidden width, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary
from transformers.cache_utils import Cache, DynamicLayer
from transformers.modeling_outputs import BaseModelOutput

from bondlab.lm.attention import SharedLayer, Sharing
from bondlab.lm.completions import Prompts

OPTIONAL = ("position_ids", "logits_to_keep")  # inputs that an architecture can do without
_HEADS = WeakTensorKeyDictionary()  # (version, float32 copy) of frozen heads


@dataclass
class Prefix:
    """R rows of tokens that were read, and what reading on needs of them."""

    mask: Tensor  # [R, P] of the prompts; in a causal model, of all tokens read so far
    encoded: Tensor | None  # [R, P, D], the encoder's states
    cache: Any = None
    last: Tensor | None = None  # [R, ...] what `Network._read` gave of the last token
    sharing: Sharing | None = None  # of the rows, where all of the cache is shared

    @property
    def caches(self) -> list[Cache]:
        """Of a decoder's own attention, and of that to its encoder."""
        if self.encoded is None:
            return [self.cache]
        return [self.cache.self_attention_cache, self.cache.cross_attention_cache]

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows [R'] alone, in ascending order; the cache must be shared."""
        before = torch.tensor(self.sharing.counts)
        owner = torch.arange(len(before)).repeat_interleave(before)  # the prompt of each row [R]
        counts = owner[rows].bincount(minlength=len(before))
        prompts = counts.nonzero()[:, 0]
        self.sharing = Sharing(counts[prompts].tolist())
        for layer in (layer for cache in self.caches for layer in cache.layers):
            layer.keep(rows, prompts, self.sharing)
        self.mask = self.mask[rows]
        self.encoded = None if self.encoded is None else self.encoded[rows]


class Network(nn.Module):
    """The part of `LanguageModel` that runs the network.

    Attributes:
        plain: whether the model's own forward is used.
        shared: whether a processor keeps one cache a prompt.
    """

    model: nn.Module
    temperature: float
    is_encoder_decoder: bool
    plain = shared = False

    def _follow(self, prompts: Prompts, tokens: Tensor, states: bool = False) -> Tensor:
        """`_read` of the prompt's end and of each of the tokens [B, K, t]: t+1 places."""
        b, k, t = tokens.shape
        prefix = self._prefix(prompts, k, states)
        read = prefix.last[:, None]
        if t:
            read = torch.cat([read, self._extend(prefix, tokens.flatten(0, 1), states)], 1)
        return read.unflatten(0, (b, k))

    def _prefix(
        self, prompts: Prompts, k: int | Sequence[int], states: bool = False, room: int = 0
    ) -> Prefix:
        """Each prompt read once, for k completions of it, or for as many as a list says where the
        cache is shared; `room` as for `attention.SharedLayer`."""
        ids, mask, encoded = prompts.ids, prompts.mask, None
        if self.is_encoder_decoder:
            encoder, start = self.model.get_encoder(), self.model.config.decoder_start_token_id
            encoded = encoder(input_ids=ids, attention_mask=mask, return_dict=True)[0]
            ids = ids.new_full((len(ids), 1), start)
        prefix = Prefix(mask, encoded)
        shared = self.shared and ids.device.type == "cpu"
        if shared and encoded is None:  # one that forgets nothing
            prefix.cache = Cache(layer_class_to_replicate=DynamicLayer)
        prefix.last = self._read(prefix, ids, states, logits_to_keep=1)[:, -1]
        sharing = Sharing([k] * len(ids) if isinstance(k, int) else k)
        self._share(prefix, sharing, shared, room)
        repeats = sharing.most if sharing.even else torch.tensor(sharing.counts)
        for name in ("mask", "last", "encoded"):
            if sharing.most > 1 and (held := getattr(prefix, name)) is not None:
                setattr(prefix, name, held.repeat_interleave(repeats, 0))
        return prefix

    def _share(self, prefix: Prefix, sharing: Sharing, shared: bool, room: int) -> None:
        """Make the prompts' cache one of their rows: shared, else repeated."""
        for place, cache in enumerate(prefix.caches):
            # On a GPU, too, a decoder's attention to its encoder is shared.
            if shared or (place and not self.plain):
                cache.layers = [SharedLayer(layer, sharing, room) for layer in cache.layers]
            elif sharing.most > 1:
                cache.batch_repeat_interleave(sharing.most)
        prefix.sharing = sharing if shared else None

    def _extend(self, prefix: Prefix, tokens: Tensor, states: bool = False) -> Tensor:
        """`_read` of t more tokens [R, t]; the prefix then ends with them."""
        if not self.is_encoder_decoder:
            # Tokens after an end are masked from the loss and cannot be seen by earlier ones.
            prefix.mask = torch.cat([prefix.mask, torch.ones_like(tokens)], 1)
        return self._read(prefix, tokens, states)

    def _read(self, prefix: Prefix, ids: Tensor, states: bool, **options: Any) -> Tensor:
        """What follows tokens [R, t], the prefix's last, as [R, t, ...].

        Hidden states [D] of the decoder; logits [V] where the model's own forward is asked
        (`plain`), unless `states` are wanted.
        """
        inputs = {"input_ids": ids, "past_key_values": prefix.cache, "use_cache": True, **options}
        if not self.is_encoder_decoder:
            positions = (prefix.mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            inputs |= {"attention_mask": prefix.mask, "position_ids": positions}
        elif self.plain:
            inputs |= {"attention_mask": prefix.mask, "decoder_input_ids": inputs.pop("input_ids")}
            inputs["encoder_outputs"] = BaseModelOutput(prefix.encoded)
        else:
            inputs["encoder_hidden_states"] = prefix.encoded
            inputs["encoder_attention_mask"] = prefix.mask
        network = self.model if self.plain else self.model.get_decoder()
        if self.plain:
            inputs["output_hidden_states"] = states
        taken = inspect.signature(network.forward).parameters
        inputs = {name: x for name, x in inputs.items() if name in taken or name not in OPTIONAL}
        out = network(**inputs, return_dict=True)
        prefix.cache = out.past_key_values
        if not self.plain:
            return out.last_hidden_state
        if not states:
            return out.logits
        return (out.decoder_hidden_states if self.is_encoder_decoder else out.hidden_states)[-1]

    def _logits(self, read: Tensor) -> Tensor:
        """Float32 logits [..., V] over the temperature, of what `_read` gave.

        The head runs in float32 also under autocast: bfloat16 logits would round each token's
        log-probability by up to 0.03 nat (as those of a model's own forward are).
        """
        logits = read.float() if self.plain else self._of_states(read)
        return logits if self.temperature == 1.0 else logits / self.temperature

    def _of_states(self, hidden: Tensor) -> Tensor:
        head, config = self.model.get_output_embeddings(), self.model.config.get_text_config()
        if getattr(config, "scale_decoder_outputs", False):  # T5 with tied embeddings
            hidden = hidden * config.d_model**-0.5
        with torch.autocast(hidden.device.type, enabled=False), in_half(hidden, head.weight):
            bias = None if head.bias is None else head.bias.float()
            logits = nn.functional.linear(hidden.float(), in_float32(head.weight), bias)
        cap = getattr(config, "final_logit_softcapping", None)  # Gemma 2
        return logits if cap is None else cap * torch.tanh(logits / cap)


@contextmanager
def in_half(*factors: Tensor) -> Iterator[None]:
    """Let a processor multiply float32 as bfloat16, if these tensors are of it: then it loses
    nothing, for its sums are float32 all the same, and takes a third of the time. Of gradients that
    come back it rounds what is rounded next, when they become bfloat16."""
    mode = torch.backends.mkldnn.matmul
    if any(x.dtype != torch.bfloat16 or x.device.type != "cpu" for x in factors):
        yield
        return
    before, mode.fp32_precision = mode.fp32_precision, "bf16"
    try:
        yield
    finally:
        mode.fp32_precision = before


def in_float32(weight: Tensor) -> Tensor:
    """A head's weight; of a frozen one the copy is made once for all models that share it."""
    if weight.dtype == torch.float32 or weight.requires_grad:
        return weight.float()
    version, copy = _HEADS.get(weight, (None, None))
    if version != weight._version or copy.device != weight.device:
        with torch.inference_mode(False):  # a caller's, in which a later training could not read it
            copy = weight.float()
        _HEADS[weight] = weight._version, copy
    return copy
