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
from transformers.modeling_outputs import BaseModelOutput

from bondlab.lm.completions import Prompts

OPTIONAL = ("position_ids", "logits_to_keep")  # inputs of a forward


@dataclass
class _Prefix:
    """What all completions of a prompt share: what follows it, cache, key-word inputs."""

    last: Tensor  # [R, D], or logits [R, V]: what `Network._read` gives of the last token
    cache: object
    inputs: dict[str, Tensor]
    lengths: Tensor  # [R] tokens of the decoder's prefix, for positions

    def repeat(self, k: int, shared: bool) -> _Prefix:
        """For k completions a prompt; `shared` leaves the cross-attention cache as it is."""
        if k > 1:
            # One row a prompt is enough for an encoder-decoder's cross-attention: see `attention`.
            own = getattr(self.cache, "self_attention_cache", self.cache)
            (own if shared else self.cache).batch_repeat_interleave(k)
        inputs = {name: x.repeat_interleave(k, 0) for name, x in self.inputs.items()}
        lengths = self.lengths.repeat_interleave(k)
        return _Prefix(self.last.repeat_interleave(k, 0), self.cache, inputs, lengths)


class Network(nn.Module):
    """The part of `LanguageModel` that runs the network.

    Attributes:
        plain: whether the model's own forward is used.
    """

    model: nn.Module
    temperature: float
    is_encoder_decoder: bool
    plain = False
    _head_copy: tuple[Tensor, int, Tensor] | None = None

    def _follow(self, prompts: Prompts, tokens: Tensor, states: bool = False) -> Tensor:
        """`_read` of the prompt's end and of each of the tokens [B, K, t]: t+1 places."""
        b, k, t = tokens.shape
        prefix = self._prefix(prompts, states).repeat(k, shared=not self.plain)
        read = prefix.last[:, None]
        if t:
            more = self._extend(prefix, tokens.reshape(b * k, t), 0, states)
            read = torch.cat([read, more], 1)
        return read.view(b, k, t + 1, -1)

    def _prefix(self, prompts: Prompts, states: bool = False) -> _Prefix:
        if self.is_encoder_decoder:
            encoder, b = self.model.get_encoder(), len(prompts.ids)
            out = encoder(input_ids=prompts.ids, attention_mask=prompts.mask, return_dict=True)
            inputs = {
                "encoder_hidden_states": out.last_hidden_state,
                "encoder_attention_mask": prompts.mask,
            }
            ids = prompts.ids.new_full((b, 1), self.model.config.decoder_start_token_id)
            lengths = torch.ones_like(prompts.mask[:, 0])
            read, cache = self._read(ids, None, inputs, states)
        else:
            inputs, ids = {"attention_mask": prompts.mask}, prompts.ids
            lengths = prompts.mask.sum(1)
            positions = (prompts.mask.cumsum(1) - 1).clamp(min=0)
            now = inputs | {"position_ids": positions, "logits_to_keep": 1}
            read, cache = self._read(ids, None, now, states)
        return _Prefix(read[:, -1], cache, inputs, lengths)

    def _extend(self, prefix: _Prefix, tokens: Tensor, done: int, states: bool = False) -> Tensor:
        """`_read` of t more tokens [R, t] after the prefix and `done` earlier ones."""
        inputs = dict(prefix.inputs)
        if not self.is_encoder_decoder:
            # Tokens after an end are masked from the loss and cannot be seen by earlier ones.
            past, (rows, t) = inputs["attention_mask"], tokens.shape
            inputs["attention_mask"] = torch.cat([past, past.new_ones(rows, done + t)], 1)
            steps = torch.arange(done, done + t, device=tokens.device)
            inputs["position_ids"] = prefix.lengths[:, None] + steps
        return self._read(tokens, prefix.cache, inputs, states)[0]

    def _read(
        self, ids: Tensor, cache: object, inputs: dict[str, Any], states: bool
    ) -> tuple[Tensor, object]:
        """What follows tokens [R, t], [R, t, ...], and the cache with them in it.

        Hidden states [D] of the decoder; logits [V] where the model's own forward is asked
        (`plain`), unless `states` are wanted.
        """
        named = inputs | {"past_key_values": cache, "use_cache": True, "return_dict": True}
        if self.plain:
            return self._own(ids, named, states)
        decoder = self.model.get_decoder()
        out = decoder(input_ids=ids, **_known(decoder, named))
        return out.last_hidden_state, out.past_key_values

    def _own(self, ids: Tensor, named: dict[str, Any], states: bool) -> tuple[Tensor, object]:
        """`_read` by the model's own forward."""
        if self.is_encoder_decoder:
            named["decoder_input_ids"] = ids
            named["encoder_outputs"] = BaseModelOutput(named.pop("encoder_hidden_states"))
            named["attention_mask"] = named.pop("encoder_attention_mask")
        else:
            named["input_ids"] = ids
        out = self.model(output_hidden_states=states, **_known(self.model, named))
        if not states:
            return out.logits, out.past_key_values
        layers = out.decoder_hidden_states if self.is_encoder_decoder else out.hidden_states
        return layers[-1], out.past_key_values

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
            logits = nn.functional.linear(hidden.float(), self._head(head.weight), bias)
        cap = getattr(config, "final_logit_softcapping", None)  # Gemma 2
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def _head(self, weight: Tensor) -> Tensor:
        """The head's weight in float32; of a frozen one the copy is made once and shared."""
        if weight.dtype == torch.float32 or weight.requires_grad:
            return weight.float()
        held = self._head_copy
        same = held and held[0] is weight and held[1] == weight._version
        if not same or held[2].device != weight.device:
            self._head_copy = held = (weight, weight._version, weight.float())
        return held[2]


def _known(module: nn.Module, named: dict[str, Any]) -> dict[str, Any]:
    """The inputs without those that this architecture does not take and can do without."""
    known = inspect.signature(module.forward).parameters
    return {name: x for name, x in named.items() if name in known or name not in OPTIONAL}
