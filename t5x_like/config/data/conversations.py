# SPDX-License-Identifier: Apache-2.0
"""Tasks for assistants: conversations, questions with an answer, and answers of which one is preferred."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from t5x_like.config.data.tasks import TextTaskConfig


@dataclass(frozen=True)
class ConversationsConfig(TextTaskConfig):
    """Conversations, of which the assistant's own words are learnt (Ouyang et al. 2022, SFT); or pairs of a prompt and
    an answer. What is too long loses its beginning."""

    kind: Literal["conversations"] = "conversations"
    messages: str | None = "messages"  # a column of {"role", "content"}; None: each is `prompt` and `answer`
    prompt: str = "prompt"  # columns of text, as they are
    answer: str = "answer"
    template: str = ""  # the folder whose chat template turns messages into text; "": the built-in one
    pack: bool = True  # several in a row, where they fit; what answers are drawn for has one

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.prompt, self.answer) if self.messages is None else (self.messages,)

    @property
    def reads(self) -> dict[str, str]:
        return super().reads if self.messages is None else {self.messages: "a list of messages"}

    def fault(self, example: Mapping[str, Any]) -> str | None:
        said = [{"role": "assistant"}] if self.messages is None else example[self.messages]
        return None if any(each["role"] == "assistant" for each in said) else "no message is an assistant's"


@dataclass(frozen=True)
class PreferencesConfig(TextTaskConfig):
    """A prompt with two answers, the first of which is preferred; a row of `sequence_length` holds both, so each has
    half of it. What is too long loses its beginning."""

    kind: Literal["preferences"] = "preferences"
    prompt: str = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"
    chat: bool = False  # the prompt is a user's message, the answers an assistant's; otherwise texts as they are
    template: str = ""  # as above
    mismatched: bool = False  # a third part holds the prompt with another's chosen answer, which KTO compares with

    @property
    def columns(self) -> tuple[str, ...]:
        return self.prompt, self.chosen, self.rejected
