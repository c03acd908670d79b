"""What of a model's weights is trained, kept and written: a LoRA adapter, or everything."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import logging
from transformers.pytorch_utils import Conv1D

from bondlab.lm.model_settings import sampling

ADAPTER = "policy"
FEW_ROWS = 64  # rows that are decoded; more are read


class Trainable(nn.Module):
    """The part of `LanguageModel` that concerns weights; `model` and `tokenizer` are its own."""

    def trainable_copy(self, rank: int | None, seed: int = 0) -> Self:
        """A policy that starts as this model; this model stays behind, frozen, as its reference.

        With a LoRA rank both share the frozen weights in memory and only the adapter is new; with
        None every weight is copied in float32 and trained.

        Raises:
            ValueError: this model carries an adapter, which the policy's would replace.
        """
        refuse_adapters(self.model)
        self.requires_grad_(False)
        shared = [self.tokenizer, *(self.parameters() if rank else ())]
        policy = copy.deepcopy(self, {id(x): x for x in shared})
        if rank:
            policy.add_adapter(rank, seed)
        else:
            policy.float().requires_grad_(True)
        return policy

    def add_adapter(self, rank: int, seed: int = 0) -> None:
        """Freeze the weights and add a trainable LoRA adapter to every linear layer but the head.

        The adapter starts as the identity: the distribution is unchanged until it is trained.
        Linear layers that are routers, of Llama 4 or PhiMoE, give choices, to which none is added.
        """
        from peft import LoraConfig

        layers = [*self.model.named_modules()]
        config = LoraConfig(
            r=rank,
            lora_alpha=rank,
            target_modules="all-linear",
            exclude_modules=[p for p, x in layers if type(x).__name__.endswith("Router")] or None,
            fan_in_fan_out=any(isinstance(x, Conv1D) for _, x in layers),
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model.add_adapter(config, adapter_name=ADAPTER)
        self._train_in_float32()

    def load_adapter(self, folder: str | Path) -> None:
        """Load a LoRA adapter saved in peft's format and make it active and trainable."""
        with quiet():
            path = str(Path(folder).expanduser())
            self.model.load_adapter(path, adapter_name=ADAPTER, is_trainable=True)
        self._train_in_float32()

    def _train_in_float32(self) -> None:
        hasten(self.model)
        for parameter in self.trainable():  # Adam's small updates would be lost in bfloat16
            parameter.data = parameter.data.float()

    def save_adapter(self, folder: str | Path) -> None:
        """Write the adapter in peft's format, in bfloat16: half the size, below training noise.

        `PeftModel.from_pretrained(base, folder)` puts it on a model with the reference's weights.

        Raises:
            ValueError: there is none, since all weights were trained.
            OSError: the folder cannot be made, or has a whole policy.
        """
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        if not adapted(self.model):
            raise ValueError(
                "the policy has no adapter, all its weights were trained (lora_rank=None): save it "
                "with save_pretrained"
            )
        folder = _made(folder, "config.json")
        state = get_peft_model_state_dict(self.model, adapter_name=ADAPTER)
        # peft's own prefix: without it PeftModel finds no weight, and only warns.
        state = {f"base_model.model.{k}": x.cpu().bfloat16().contiguous() for k, x in state.items()}
        save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        self.model.peft_config[ADAPTER].save_pretrained(folder)

    def merge_adapter(self) -> None:
        """Fold the adapter, if there is one, into the weights for good."""
        for path, layer in adapted(self.model):
            layer.merge()
            if "base_layer" not in path.split("."):  # of an adapter around another, as on experts
                self.model.set_submodule(path, layer.get_base_layer())
        self.model.__dict__.pop("peft_config", None)
        self.model._hf_peft_config_loaded = False

    def trainable(self) -> list[nn.Parameter]:
        """The parameters that training changes, in a fixed order."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write an ordinary Hugging Face folder: the adapter merged in, the tokenizer beside.

        In float32: folded into a bfloat16 weight, an update below half its last place (about 0.2 %
        of it) would be lost.

        Its generation settings are the policy's: transformers' `generate` of a filled template
        samples the distribution that was trained. The template itself is not in it.

        Raises:
            OSError: the folder cannot be made, or has an adapter.
        """
        folder = _made(folder, "adapter_config.json")
        whole = copy.deepcopy(self, {id(self.tokenizer): self.tokenizer}).to("cpu").float()
        whole.merge_adapter()
        whole.model.generation_config = sampling(self)
        whole.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def hasten(model: nn.Module) -> None:
    """Let linear layers with a plain adapter compute peft's sum in as few operations as it has: to
    decode a few rows with an adapter costs the number of its operations, not their size."""
    from peft.tuners.lora import Linear

    for _, layer in adapted(model):
        plain = type(layer) is Linear and list(layer.lora_A) == [ADAPTER] and not layer.lora_variant
        if plain and layer.lora_B[ADAPTER].bias is None:
            layer.__class__ = _lean_linear()


@functools.cache
def _lean_linear() -> type:
    """peft is imported where it is needed."""
    from peft.tuners.lora import Linear

    class LeanLinear(Linear):
        """peft's layer without its choices, and with rows of a second adapter beside: `beside`."""

        second: tuple[Mixture, Linear] | None = None

        def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
            if self.merged or self.disable_adapters:
                return super().forward(x, *args, **kwargs)
            out = self.base_layer(x)
            if x.device.type != "cpu" or x[..., 0].numel() > FEW_ROWS or torch.is_grad_enabled():
                return out + self._update(x)
            # Small products of bfloat16 cost a processor several times those of float32.
            with torch.autocast("cpu", enabled=False):
                return out + self._update(x.float()).to(out.dtype)

        def _update(self, x: Tensor) -> Tensor:
            if self.second is None:
                return self._own_update(x)
            mixture, other = self.second
            first = len(x) * mixture.first // mixture.rows  # some layers see tokens as rows
            mine, theirs = x.split([first, len(x) - first])
            return torch.cat([self._own_update(mine), other._own_update(theirs)])

        def _own_update(self, x: Tensor) -> Tensor:
            down, up = self.lora_A[ADAPTER].weight, self.lora_B[ADAPTER].weight
            given = x.dtype
            if cast := not torch.is_autocast_enabled(x.device.type):  # which casts by itself
                x = x.to(down.dtype)
            update, scale = linear(linear(x, down), up), self.scaling[ADAPTER]
            update = update if scale == 1 else update * scale
            return update.to(given) if cast else update

    return LeanLinear


@dataclass
class Mixture:
    """How many of the rows that pass, the first ones, are of one model; the rest are another's."""

    first: int
    rows: int


def mixable(one: nn.Module, other: nn.Module) -> bool:
    """Whether two models differ in lean adapters over the same weights alone.

    Not in adapters on routed experts, which see their own choice of the rows.
    """
    weights = [
        [id(x) for name, x in model.named_parameters() if ".lora_" not in name]
        for model in (one, other)
    ]
    layers = [*adapted(one), *adapted(other)]
    lean = bool(layers) and all(
        isinstance(layer, _lean_linear()) and ".experts." not in path for path, layer in layers
    )
    return lean and weights[0] == weights[1] and len(adapted(one)) == len(adapted(other))


@contextmanager
def beside(one: nn.Module, other: nn.Module, mixture: Mixture) -> Iterator[None]:
    """`one` then computes rows of both, which must be `mixable`."""
    pairs = zip(adapted(one), adapted(other), strict=True)
    layers = [(mine, theirs) for (_, mine), (_, theirs) in pairs]
    for mine, theirs in layers:
        mine.second = mixture, theirs
    try:
        yield
    finally:
        for mine, _ in layers:
            mine.second = None


def adapted(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Paths and layers of a model that carry an adapter of peft's."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = model.named_modules() if isinstance(model, nn.Module) else ()
    return [(path, layer) for path, layer in layers if isinstance(layer, BaseTunerLayer)]


def refuse_adapters(model: nn.Module, but: str | None = None) -> None:
    """Refuse a model with adapters beside the one called `but`: training would replace them.

    Raises:
        ValueError: there are some.
    """
    names = set(getattr(model, "peft_config", ["unnamed"])) - {but}
    if names and adapted(model):
        raise ValueError(
            f"the model carries an adapter ({', '.join(sorted(names))}) that training would "
            "replace: fold it in first, "
            "PeftModel.from_pretrained(base, adapter_folder).merge_and_unload()"
        )


def _made(folder: str | Path, other: str) -> Path:
    """The folder, created where it is missing; of one with the file `other` as well, transformers
    would add an adapter to a whole policy."""
    path = Path(folder).expanduser()
    path.mkdir(parents=True, exist_ok=True)
    if (path / other).exists():
        raise FileExistsError(
            f"{path} has a file {other}: save an adapter and a whole policy in folders of their own"
        )
    return path


@contextmanager
def quiet() -> Iterator[None]:
    """No bars of transformers' own and no advice on tied weights, which are as they should be."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
