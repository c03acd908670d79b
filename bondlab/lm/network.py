"""Run the network of a language model over prompts and completions: two ways, one face.

The fast way reads hidden states from the decoder and applies the head here, in float32; the
completions of an encoder-decoder's prompt share its cross-attention (`attention`). The plain way is
the model's own forward, for models that do more than a head to their logits or attend otherwise.
`agreement` decides, once a model, which of them gives the model's own distribution.

Shapes: B prompts, K completions a prompt, R = B*K rows, t tokens, D hidden width, V vocabulary.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary
from transformers.modeling_outputs import BaseModelOutput

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


class Network(nn.Module):
    """The part of `LanguageModel` that runs the network.

    Attributes:
        plain: whether the model's own forward is used.
    """

    model: nn.Module
    temperature: float
    is_encoder_decoder: bool
    plain = False

    def _follow(self, prompts: Prompts, tokens: Tensor, states: bool = False) -> Tensor:
        """`_read` of the prompt's end and of each of the tokens [B, K, t]: t+1 places."""
        b, k, t = tokens.shape
        prefix = self._prefix(prompts, k, states)
        read = prefix.last[:, None]
        if t:
            read = torch.cat([read, self._extend(prefix, tokens.flatten(0, 1), states)], 1)
        return read.unflatten(0, (b, k))

    def _prefix(self, prompts: Prompts, k: int, states: bool = False) -> Prefix:
        """Each prompt read once, for k completions of it."""
        ids, mask, encoded = prompts.ids, prompts.mask, None
        if self.is_encoder_decoder:
            encoder, start = self.model.get_encoder(), self.model.config.decoder_start_token_id
            encoded = encoder(input_ids=ids, attention_mask=mask, return_dict=True)[0]
            ids = ids.new_full((len(ids), 1), start)
        prefix = Prefix(mask, encoded)
        prefix.last = self._read(prefix, ids, states, logits_to_keep=1)[:, -1]
        if k > 1:
            # One row a prompt is enough for an encoder-decoder's cross-attention: see `attention`.
            own = getattr(prefix.cache, "self_attention_cache", prefix.cache)
            (prefix.cache if self.plain else own).batch_repeat_interleave(k)
            for name in ("mask", "last", "encoded"):
                if (held := getattr(prefix, name)) is not None:
                    setattr(prefix, name, held.repeat_interleave(k, 0))
        return prefix

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
        with torch.autocast(hidden.device.type, enabled=False):
            bias = None if head.bias is None else head.bias.float()
            logits = nn.functional.linear(hidden.float(), _in_float32(head.weight), bias)
        cap = getattr(config, "final_logit_softcapping", None)  # Gemma 2
        return logits if cap is None else cap * torch.tanh(logits / cap)


def _in_float32(weight: Tensor) -> Tensor:
    """A head's weight; of a frozen one the copy is made once for all models that share it."""
    if weight.dtype == torch.float32 or weight.requires_grad:
        return weight.float()
    version, copy = _HEADS.get(weight, (None, None))
    if version != weight._version or copy.device != weight.device:
        copy = weight.float()
        _HEADS[weight] = weight._version, copy
    return copy
