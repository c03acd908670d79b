"""Which task, at which size: what asks for one by name."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator, model_serializer

from bondlab.config import Count
from bondlab.tasks import stand_ins

# Most tokens of a prompt and of a completion where a task's settings leave them open.
LIMITS = {
    # Not stated; chosen because XSum's gist leads and cost grows with length, and because 95 % of
    # the references are shorter.
    "xsum": (160, 40),
    # Not stated; chosen because no review's first words take more than 64 tokens, and a review's
    # next 24 show its sentiment.
    "sentiment": (64, 24),
    "chat": (144, 32),  # not stated; chosen because no prompt of its dialogues has more
    "tiny": (24, 8),
    "tiny_causal": (24, 8),
}


class TaskSettings(BaseModel):
    """Which task, at which size. None takes the models, data and limits of the task itself.

    `policy` names a model by asset name, hub name or local folder; `reward` for XSum likewise, for
    sentiment and chat one of `scorers.SCORERS`, for every task "noise"; with " > 1" behind a name
    it is 1 where that one gives more than 1, else 0 (see `stand_ins`); `data` names a data set with
    the embedded one's splits train and test and its columns: document and summary for XSum, text
    for sentiment, dialogue, context and reply for chat (see `corpora`).
    `prompt_tokens` and `completion_tokens` are the most there may be; see `LIMITS`. A `rehearsal`
    trains on the first three quarters of the training prompts and measures on the first of the
    rest, so that settings are chosen without a look at the held-out prompts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Literal["xsum", "sentiment", "chat", "tiny", "tiny_causal"]
    train: Count
    evaluate: Count
    policy: str | None = None
    reward: str | None = None
    data: str | None = None
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    rehearsal: bool = False

    @field_validator("reward")
    @classmethod
    def _readable(cls, reward: str | None) -> str | None:
        stand_ins.threshold(reward)
        return reward

    @property
    def limits(self) -> dict[str, int]:
        """max_prompt_tokens and max_new_tokens of the task's `LanguageModel`."""
        prompt, completion = LIMITS[self.name]
        return {
            "max_prompt_tokens": self.prompt_tokens or prompt,
            "max_new_tokens": self.completion_tokens or completion,
        }

    @model_serializer
    def _written(self) -> dict[str, Any]:
        """The settings as identities hold them: limits in numbers, since a default may change.

        XSum's keep the names under which its first runs were stored, and no rehearsal is what all
        were that do not mention it.
        """
        names = ("prompt_tokens", "completion_tokens")
        left_out = names if self.rehearsal else (*names, "rehearsal")
        written = {name: value for name, value in self if name not in left_out}
        if self.name == "xsum":
            names = ("document_tokens", "summary_tokens")
        return written | dict(zip(names, self.limits.values(), strict=True))
