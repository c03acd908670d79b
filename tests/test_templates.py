"""Templates and chat formats: what reaches the model, what is cut, and a name that is stable."""

from __future__ import annotations

import json

import pytest
from tokenizers import normalizers
from tokenizers.processors import TemplateProcessing
from transformers import (
    ByT5Tokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from bondlab.lm.language_model import LanguageModel
from bondlab.lm.templates import ChatTemplate, chat_template, plain_dialogue, turns
from bondlab.naming import fingerprint
from bondlab.tasks import tiny

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
    template = template or ChatTemplate(tokenizer, dialogue=True)
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
    both = ChatTemplate(chatting(), dialogue=True)
    assert both("rain\nfire\nlaw") == "said rain told fire said law told"
    assert plain_dialogue("rain\nfire\nlaw") == "A: rain\nB: fire\nA: law\nB:"
    with pytest.raises(ValueError, match="without a turn"):
        turns("\n ")


def test_a_prompt_is_one_turn_unless_a_dialogue_is_asked_for():
    """Lines of an ordinary prompt are paragraphs: none is lost, none is put in the model's mouth.
    Without the tokenizer's own format the lines of A and B do the same."""
    for text in ("study the bank report\nthe city council", "old house\n\nrain\n\nfire"):
        assert chat_template(chatting())(text) == f"said {text} told"
        with pytest.warns(UserWarning, match="no chat template"):
            template = chat_template(tiny.tokenizer())
        assert model(tiny.tokenizer(), template).filled(text) == f"A: {text}\nB:"


def test_a_format_is_named_by_its_text():
    """The same text in another tokenizer object has the same name, another text another."""
    name = fingerprint.of(ChatTemplate(chatting(), dialogue=True))
    assert name == fingerprint.of(ChatTemplate(chatting(), dialogue=True))
    assert name != fingerprint.of(ChatTemplate(chatting(FORMAT + "!"), dialogue=True))
    assert name != fingerprint.of(ChatTemplate(chatting()))  # one turn is another text


# -- templates that hide the prompt ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{prompt}}", r"\{\{prompt\}\} .* would not be filled: write \{prompt\}"),
        ("Question: {{ question }} {prompt}", "question .* would not be filled"),
        ('{{"q": "{prompt}"}}', "would not be filled: .* other braces once"),
        ("{question} {prompt}", r"\{question\} .* would not be filled"),
        ("said {} {prompt}", r"\{\} .* would not be filled"),
        ("summarize:", r"must contain \{prompt\} once"),
        ("{prompt} {prompt}", r"must contain \{prompt\} once"),
        (lambda prompt: "said told", "drops the prompt"),
        (lambda prompt: ["said", prompt], "must return text"),
    ],
)
def test_a_template_that_hides_the_prompt_is_refused(template, message):
    """When the model is made, long before a batch is: Jinja's and str.format's ways of writing, a
    field that nothing fills, no field, and functions that give two prompts one text or no text."""
    with pytest.raises(ValueError, match=message):
        model(tiny.tokenizer(), template)
    with pytest.raises(TypeError, match="template must be a string"):
        model(tiny.tokenizer(), 7)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ('{"q": "{prompt}", "a": {"b": 1}}', '{"q": "rain {now}", "a": {"b": 1}}'),
        ("{prompt} {", "rain {now} {"),
        (r"\frac{a}{b} {prompt} \boxed{}", r"\frac{a}{b} rain {now} \boxed{}"),
        (lambda prompt: f"{prompt} {prompt}", "rain {now} rain {now}"),
    ],
)
def test_only_the_prompt_s_place_is_filled(template, text):
    """All else of a string stays letter by letter, JSON and LaTeX too, and so does a prompt's own
    text; a function may do with it what it likes."""
    assert model(tiny.tokenizer(), template).filled("rain {now}") == text


def test_a_function_may_want_prompts_of_its_own_form():
    """One that reads JSON fails on any other text: that is no reason to refuse it."""
    made = model(tiny.tokenizer(), lambda prompt: json.loads(prompt)["q"])
    assert read(made, '{"q": "rain fire"}') == "rain fire"


# -- the tokenizer's own settings -----------------------------------------------------------------


def test_sides_are_not_the_tokenizer_s():
    """The end of a long prompt goes, and causal padding stands on the left, whatever is set."""
    tokenizer = tiny.tokenizer()
    tokenizer.truncation_side, tokenizer.padding_side = "left", "right"
    made = model(tokenizer, "said {prompt}", max_prompt_tokens=8)
    assert read(made, "rain " * 40 + "fire") == "said" + " rain" * 7
    assert made.encode(["rain", "rain fire"]).mask.tolist() == [[0, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_what_a_tokenizer_appends_is_for_encoders(kept):
    """A causal model asked to go on behind an end of text is asked something else; an encoder
    reads it, and its place is within the limit."""
    tokenizer = tiny.tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="the $A </s>", special_tokens=[("the", 3), ("</s>", 1)]
    )
    words = ["rain", "fire", "law"][:kept]
    text, limits = " ".join(["rain", "fire", "law"]), {"max_new_tokens": 4}
    made = model(tokenizer, "said {prompt}", max_prompt_tokens=2 + kept, **limits)
    assert read(made, text) == " ".join(["the said", *words])
    settings = {"template": "said {prompt}", "max_prompt_tokens": 3 + kept}
    both = LanguageModel(tiny.t5(), tokenizer, **settings)
    assert read(both, text) == " ".join(["the said", *words, "</s>"])
    with pytest.raises(ValueError, match="the template alone takes more"):
        read(LanguageModel(tiny.t5(), tokenizer, **settings | {"max_prompt_tokens": 3}), text)


@pytest.mark.parametrize(
    ("template", "cut"), [("x: {prompt}", "x: rainrain"), ("{prompt} TL;DR:", "rain TL;DR:")]
)
def test_a_tokenizer_in_python_cuts_too(template, cut):
    """ByT5's has a token a byte and no offsets. Of 12 tokens one is the end's; the template takes 3
    or 7, which leaves 8 or 4 letters of the prompt."""
    config = T5Config(
        vocab_size=384, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4,
        pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    parts = T5ForConditionalGeneration(config), ByT5Tokenizer(), template
    text = "rain" * 10
    assert read(LanguageModel(*parts, max_prompt_tokens=12), text) == cut + "</s>"
    assert read(LanguageModel(*parts), text) == template.replace("{prompt}", text) + "</s>"


def test_a_prompt_without_tokens_is_named():
    """A tokenizer that knows none of a prompt's letters leaves nothing to read."""
    tokenizer = tiny.tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("☂", "")
    with pytest.raises(ValueError, match="no token in the prompt '☂'"):
        model(tokenizer, "{prompt}").encode(["rain", "☂"])


# -- in a language model --------------------------------------------------------------------------


def test_a_long_dialogue_loses_its_oldest_words():
    """The whole has 11 tokens: 7 words, a marker a turn, one for the opened turn. Cut to 10, the
    oldest word goes; cut to 5, the whole first turn and the reply to it. From 5 on the last turn
    is whole; below, it too loses its first words, and the opened turn never goes."""
    text = "the old city\nfire\nlaw and police"
    for limit, kept in [
        (11, "said the old city told fire said law and police told"),
        (10, "said old city told fire said law and police told"),
        (9, "said city told fire said law and police told"),
        (7, "said law and police told"),
        (5, "said law and police told"),
        (4, "said and police told"),
        (3, "said police told"),
    ]:
        assert read(model(max_prompt_tokens=limit), text) == kept
    with pytest.raises(ValueError, match="the template alone takes more than max_prompt_tokens"):
        read(model(max_prompt_tokens=1), text)


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
    made = model(tokenizer)
    ids = made.encode(["rain"]).ids[0].tolist()
    assert tokenizer.convert_ids_to_tokens(ids) == ["fire", "said", "rain", "told"]
    assert tokenizer(made.filled("rain"))["input_ids"] == ids  # as a reader would do it


def test_the_format_is_saved_with_the_policy(tmp_path):
    """The folder's tokenizer has the chat format, so that the loaded model is asked as trained."""
    model().trainable_copy(2).save_pretrained(tmp_path)
    saved = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert saved.chat_template == FORMAT
