"""Chat formats: who speaks which line, what is cut, one start token, and a name that is stable."""

from __future__ import annotations

import copy

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from bondlab import tiny
from bondlab.bank import BankFolder
from bondlab.language_model import LanguageModel
from bondlab.task import Task
from bondlab.templates import ChatTemplate, PlainDialogue, chat_template, turns

# The user says, the model told: words of the tiny vocabulary, so that tokens can be read.
FORMAT = (
    "{% for m in messages %}{{ 'said ' if m['role'] == 'user' else 'told ' }}{{ m['content'] }} "
    "{% endfor %}{% if add_generation_prompt %}told{% endif %}"
)


def chatting(format: str = FORMAT) -> PreTrainedTokenizerFast:
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = format
    return tokenizer


def model(tokenizer=None, template=None, **limits) -> LanguageModel:
    tokenizer = tokenizer or chatting()
    template = template or ChatTemplate(tokenizer)
    return LanguageModel(tiny.gemma(), tokenizer, template=template, **limits)


def read(model: LanguageModel, prompt: str) -> str:
    """What stands in the encoded prompt, padding left out."""
    encoded = model.encode([prompt])
    return model.tokenizer.decode(encoded.ids[0][encoded.mask[0].bool()])


# -- formats --------------------------------------------------------------------------------------


def test_speakers_alternate_and_the_last_line_is_answered():
    """Of three lines the first and third are the user's; of two, or four, the oldest goes, since a
    dialogue begins with the user; blank lines are no turns."""
    assert turns("rain\n\n  fire \nlaw") == ["rain", "fire", "law"]
    assert turns("rain\nfire") == ["fire"]
    assert turns("old\nrain\nfire\nlaw") == ["rain", "fire", "law"]
    assert ChatTemplate(chatting())("rain\nfire\nlaw") == "said rain told fire said law told"
    assert PlainDialogue()("rain\nfire\nlaw") == "A: rain\nB: fire\nA: law\nB:"
    with pytest.raises(ValueError, match="without a turn"):
        turns("\n ")


def test_a_tokenizer_without_a_format_gets_plain_lines_and_says_so():
    """The format is the tokenizer's where it has one; the warning names what happens without."""
    own = chatting()
    assert chat_template(own) == ChatTemplate(own)
    with pytest.warns(UserWarning, match="no chat template: .* plain lines"):
        assert chat_template(tiny.tokenizer()) == PlainDialogue()


def test_a_format_is_named_by_its_text():
    """The same text in another tokenizer object has the same name, another text another; a
    template's address in memory is in neither."""
    name = repr(ChatTemplate(chatting()))
    assert name == repr(ChatTemplate(chatting())) != repr(ChatTemplate(chatting(FORMAT + "!")))
    assert "0x" not in name
    assert model().template == name


# -- in a language model --------------------------------------------------------------------------


def test_what_the_model_reads_is_the_format():
    """Tokens of the filled format, and nothing else."""
    assert read(model(), "rain\nfire\nlaw") == "said rain told fire said law told"


def test_a_long_dialogue_loses_its_oldest_words():
    """The whole has 11 tokens: 7 words, a marker a turn, one for the opened turn. Cut to 10, the
    oldest word goes; cut to 5, the whole first turn and the reply to it. From 5 on the last turn
    is whole; below, it too loses its first words, and the opened turn never goes."""
    text = "the old city\nfire\nlaw and police"
    assert read(model(max_prompt_tokens=11), text) == (
        "said the old city told fire said law and police told"
    )
    assert read(model(max_prompt_tokens=10), text) == (
        "said old city told fire said law and police told"
    )
    assert read(model(max_prompt_tokens=5), text) == "said law and police told"
    for limit in range(3, 12):
        kept = read(model(max_prompt_tokens=limit), text)
        assert kept.startswith("said") and len(kept.split()) <= limit
        assert kept.endswith("said law and police told" if limit >= 5 else "police told")
    with pytest.raises(ValueError, match="the template alone takes more than max_prompt_tokens"):
        read(model(max_prompt_tokens=1), text)


def test_any_function_is_a_template():
    """A function from prompt to text; what its repr says names it in the law."""

    class Shout:
        def __call__(self, prompt: str) -> str:
            return f"city {prompt} river"

        def __repr__(self) -> str:
            return "Shout()"

    shouting = model(tiny.tokenizer(), Shout())
    assert (read(shouting, "rain"), shouting.template) == ("city rain river", "Shout()")


@pytest.mark.parametrize("adds", [True, False])
def test_a_start_token_stands_once(adds):
    """Formats of Gemma's kind write the start token; a tokenizer that adds one itself would double
    it. Where the tokenizer adds none, the format's own stays."""
    tokenizer = chatting("{{ bos_token }} " + FORMAT)
    tokenizer.bos_token = "fire"
    if adds:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="fire $A", special_tokens=[("fire", tokenizer.bos_token_id)]
        )
    ids = model(tokenizer).encode(["rain"]).ids[0].tolist()
    assert tokenizer.convert_ids_to_tokens(ids) == ["fire", "said", "rain", "told"]


def test_the_bank_is_named_by_the_format(tmp_path):
    """Samples under another chat format are other samples; under the same one, the same folder."""

    def path(format: str) -> str:
        task = Task(model(chatting(format)), tiny.reward, ["rain"], ["law"], identity={"a": 1})
        return BankFolder.of(tmp_path, task, ["rain"], 2, 0, "fp32").path.name

    assert path(FORMAT) == path(FORMAT) != path(FORMAT + " told")


@pytest.mark.parametrize("rank", [2, None])
@torch.no_grad()
def test_a_policy_reads_as_its_reference_does(rank):
    """A trainable copy fills the same format with the same tokenizer object and has the same law;
    so has a copy of the copy."""
    reference = model(max_new_tokens=4)
    prompts = reference.encode(["rain\nfire\nlaw"])
    drawn = reference.sample(prompts, 2, torch.Generator().manual_seed(0))
    policy = reference.trainable_copy(rank)
    for other in (policy, copy.deepcopy(policy)):
        again = other.encode(["rain\nfire\nlaw"])
        assert torch.equal(again.ids, prompts.ids)
        assert torch.equal(other(again, drawn), reference(prompts, drawn))
    assert policy.tokenizer is reference.tokenizer


def test_the_format_is_saved_with_the_policy(tmp_path):
    """The folder's tokenizer has the chat format, so that the loaded model is asked as trained."""
    model().trainable_copy(2).save_pretrained(tmp_path)
    saved = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert saved.chat_template == FORMAT
    assert repr(ChatTemplate(saved)) == repr(ChatTemplate(chatting()))
