# SPDX-License-Identifier: Apache-2.0
"""Tasks: what is made of a source's examples."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from t5x_like.config.checks import Checked, Count, Fraction, Positive, Rate, Share, at_least, inside
from t5x_like.config.data import sources, tokenizers
from t5x_like.config.data.base import DataConfig
from t5x_like.kinds import kinds_of
from t5x_like.strict import FieldError

if TYPE_CHECKING:
    AnySource = sources.SourceConfig
    AnyTokenizer = tokenizers.TokenizerConfig
else:
    AnySource = kinds_of(sources, sources.SourceConfig)
    AnyTokenizer = kinds_of(tokenizers, tokenizers.TokenizerConfig)


@dataclass(frozen=True)
class TaskConfig(DataConfig):
    """Any task. Examples are sorted by their hash, so that which of them are held out goes by content alone."""

    source: AnySource = field(default_factory=sources.PythonLibraryConfig)
    held_out: AnySource | None = None  # examples to score the model on; None: a fraction of the source
    held_out_fraction: Annotated[float, inside("(0, 1]")] = 0.1  # of the examples; 1: all, in an evaluation set
    on_bad_example: Literal["stop", "skip"] = "stop"  # a line that cannot be read; what is skipped is counted

    def __post_init__(self) -> None:
        super().__post_init__()
        for stream, length in self.lengths.items():
            if length < 1:
                raise FieldError("sequence_length", f"{length} tokens of the {stream} are below 1")

    @property
    def reads(self) -> dict[str, str]:
        """The columns of the source that the task reads, with what each must hold, in words."""
        return {}

    def fault(self, example: Mapping[str, Any]) -> str | None:
        """What is wrong with an example whose columns hold what they must, in words."""
        return None

    @property
    def vocab_size(self) -> int:
        return 0


@dataclass(frozen=True)
class TextTaskConfig(TaskConfig):
    """Any task on text."""

    tokenizer: AnyTokenizer = field(default_factory=tokenizers.BPETokenizerConfig)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the source that the task reads as text."""
        raise NotImplementedError

    @property
    def reads(self) -> dict[str, str]:
        return dict.fromkeys(self.columns, "text or a number")

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.tokens


@dataclass(frozen=True)
class _StreamConfig(TextTaskConfig):
    text: str = "text"  # the column
    unique_tokens: Count | None = None  # of the training text, which repeat when a run takes more; None: all there are

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.text,)

    @property
    def reads(self) -> dict[str, str]:
        return {self.text: "text or token ids"}


@dataclass(frozen=True)
class LanguageModelConfig(_StreamConfig):
    """Documents in one stream of tokens, cut into windows: each token predicts the next."""

    kind: Literal["language_model"] = "language_model"


@dataclass(frozen=True)
class DebiasingDataConfig(_StreamConfig):
    """The same windows, each with one of the pairs of sentences that should be equally likely."""

    kind: Literal["debiasing"] = "debiasing"
    pairs: AnySource = field(default_factory=lambda: sources.JsonLinesConfig(pattern="pairs.jsonl"))
    pair_length: int = 64  # tokens of a sentence, without the start; what is longer is cut

    @property
    def beside(self) -> dict[int, int]:
        return {self.pair_length: 2}


@dataclass(frozen=True)
class PrefixLMDataConfig(_StreamConfig):
    """Windows of the same stream, cut in two at a random place: the first part is seen as a whole, the second predicted
    (Raffel et al. 2020, section 3.2.1)."""

    kind: Literal["prefix_lm"] = "prefix_lm"
    encoder: bool = False  # the first part is an encoder's, the second a decoder's
    decoder_start: int = 0  # what the latter's inputs begin with: the model's

    @property
    def lengths(self) -> dict[str, int]:
        return dict.fromkeys(("encoder", "decoder") if self.encoder else ("decoder",), self.sequence_length)

    @property
    def mean_lengths(self) -> dict[str, float]:
        half = self.sequence_length / 2
        return {"encoder": half, "decoder": half + 1} if self.encoder else {"decoder": 2 * half, "targets": half + 1}


@dataclass(frozen=True)
class FillInTheMiddleConfig(_StreamConfig):
    """Windows of the same stream; of some of their documents the middle comes last (Bavarian et al. 2022)."""

    kind: Literal["fill_in_the_middle"] = "fill_in_the_middle"
    rate: Share = 0.5  # of the documents
    suffix_first: Share = 0.5  # of those: suffix, prefix, middle (SPM); the others are prefix, suffix, middle (PSM)


@dataclass(frozen=True)
class SpanCorruptionConfig(_StreamConfig):
    """Spans of a text are replaced by sentinels, and are to be filled in (Raffel et al. 2020, section 3.1.4).

    `encoder_length` tokens go in; how many raw tokens they hold and how many are to be written follows.
    """

    kind: Literal["span_corruption"] = "span_corruption"
    decoder_start: int = 0  # what the decoder's inputs begin with: the model's
    sequence_length: int = 0  # follows from encoder_length
    encoder_length: Annotated[int, at_least(4)] = 512
    noise_density: Fraction = 0.15
    mean_noise_span_length: Annotated[float, at_least(1)] = 3.0

    def __post_init__(self) -> None:
        Checked.__post_init__(self)
        length = self.sizes(self.raw_length)[3]
        if self.sequence_length not in (0, length):
            raise FieldError("sequence_length", f"{self.sequence_length}, but {length} follows from encoder_length")
        object.__setattr__(self, "sequence_length", length)
        super().__post_init__()

    def sizes(self, raw: int) -> tuple[int, int, int, int]:
        """Noise tokens, spans, and tokens that go in and are to be written, for `raw` tokens of text."""
        noise = min(max(round(raw * self.noise_density), 1), raw - 1)
        spans = max(round(noise / self.mean_noise_span_length), 1)
        spans = min(spans, noise, raw - noise)
        return noise, spans, raw - noise + spans + 1, noise + spans + 1  # one more each: the end

    @property
    def raw_length(self) -> int:
        """Tokens of text whose corruption is as long as `encoder_length`, or just shorter."""
        raw = self.encoder_length
        while self.sizes(raw + 1)[2] <= self.encoder_length:
            raw += 1
        while self.sizes(raw)[2] > self.encoder_length:
            raw -= 1
        return raw

    @property
    def lengths(self) -> dict[str, int]:
        return {"encoder": self.encoder_length, "decoder": self.sequence_length}


@dataclass(frozen=True)
class MaskedLMDataConfig(_StreamConfig):
    """Windows between [CLS] and [SEP], of whose tokens some are masked, some exchanged, some left (Devlin et al. 2019).

    With `next_sentence` a window has two parts and a `labels` feature: 0 where the second follows the first in its
    document, 1 where it is of another.
    """

    streams: ClassVar[tuple[str, ...]] = ("encoder",)

    kind: Literal["masked_lm"] = "masked_lm"
    tokenizer: AnyTokenizer = field(default_factory=tokenizers.WordPieceTokenizerConfig)
    sequence_length: Annotated[int, at_least(5)] = 128
    mask_rate: Fraction = 0.15
    dynamic: bool = True  # new masks every epoch (Liu et al. 2019); False: always the same
    whole_words: bool = False
    next_sentence: bool = False

    @property
    def mean_lengths(self) -> dict[str, float]:
        framed = self.sequence_length - (3 if self.next_sentence else 2)
        return {"encoder": self.sequence_length, "targets": max(self.mask_rate * framed, 1)}


@dataclass(frozen=True)
class DenoisingConfig(_StreamConfig):
    """BART's noise (Lewis et al. 2020): sentences in another order, spans of Poisson lengths behind one mask each; the
    whole text is to be written."""

    kind: Literal["denoising"] = "denoising"
    decoder_start: int = 0  # what the decoder's inputs begin with: the model's
    mask_rate: Rate = 0.3
    mean_span_length: Positive = 3.0
    permute_sentences: bool = True

    @property
    def lengths(self) -> dict[str, int]:
        return {"encoder": 2 * self.sequence_length, "decoder": self.sequence_length}  # spans of no tokens add masks


@dataclass(frozen=True)
class Seq2SeqDataConfig(TextTaskConfig):
    """Pairs of texts: one goes in, the other is to be written. What is too long is cut."""

    kind: Literal["seq2seq"] = "seq2seq"
    decoder_start: int = 0  # what the decoder's inputs begin with: the model's
    source: AnySource = field(default_factory=sources.PythonFunctionsConfig)
    inputs: str = "inputs"  # columns
    targets: str = "targets"
    prefix: str = ""  # put before every input, such as "summarize: "
    encoder_length: int = 128
    sequence_length: int = 32
    pack: bool = True  # several pairs in a row, where they fit

    @property
    def lengths(self) -> dict[str, int]:
        return {"encoder": self.encoder_length, "decoder": self.sequence_length}

    @property
    def columns(self) -> tuple[str, ...]:
        return self.inputs, self.targets


def wrong_label(column: str, labels: Iterable[int], number: int | None) -> str | None:
    """Says which label there is none of, in words."""
    wrong = [label for label in labels if number is not None and not 0 <= label < number]
    return f"column {column!r}: {wrong[0]} is outside [0, {number}), the labels" if wrong else None


@dataclass(frozen=True)
class _LabelledConfig(TextTaskConfig):
    streams: ClassVar[tuple[str, ...]] = ("encoder",)

    tokenizer: AnyTokenizer = field(default_factory=tokenizers.WordPieceTokenizerConfig)
    num_labels: int | None = None  # labels are 0 to num_labels - 1; None: nobody knows


@dataclass(frozen=True)
class ClassificationConfig(_LabelledConfig):
    """Texts, or pairs, and their class, or a number with `num_labels=1`: [CLS] text [SEP], maybe text [SEP].

    A decoder reads start text extract, or start text delimiter text extract (Radford et al. 2018, section 3.3).
    """

    kind: Literal["classification"] = "classification"
    stream: Literal["encoder", "decoder"] = "encoder"  # the model's
    text: str = "text"
    second_text: str | None = None
    label: str = "label"

    @property
    def lengths(self) -> dict[str, int]:
        return {self.stream: self.sequence_length}

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.text,) if self.second_text is None else (self.text, self.second_text)

    @property
    def reads(self) -> dict[str, str]:
        return super().reads | {self.label: "a number" if self.num_labels == 1 else "a whole number"}

    def fault(self, example: Mapping[str, Any]) -> str | None:
        return None if self.num_labels == 1 else wrong_label(self.label, [example[self.label]], self.num_labels)


@dataclass(frozen=True)
class TaggingConfig(_LabelledConfig):
    """Words and a label for each: the first piece of a word carries it."""

    kind: Literal["tagging"] = "tagging"
    words: str = "words"  # a list of words
    tags: str = "tags"  # a list of as many numbers

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.words,)

    @property
    def reads(self) -> dict[str, str]:
        return {self.words: "a list of words", self.tags: "a list of whole numbers"}

    def fault(self, example: Mapping[str, Any]) -> str | None:
        words, tags = example[self.words], example[self.tags]
        if len(words) != len(tags):
            return f"{len(tags)} {self.tags} for the {len(words)} {self.words} of {' '.join(words)[:60]!r}"
        return wrong_label(self.tags, tags, self.num_labels)


@dataclass(frozen=True)
class SpanConfig(TextTaskConfig):
    """Questions with an answer that is a span of a text, as in SQuAD 1.1 (Rajpurkar et al. 2016).

    A text that is too long is cut to the first of its windows, half overlapping, that holds the answer.
    """

    streams: ClassVar[tuple[str, ...]] = ("encoder",)

    kind: Literal["span"] = "span"
    tokenizer: AnyTokenizer = field(default_factory=tokenizers.WordPieceTokenizerConfig)
    question: str = "question"
    context: str = "context"
    answer: str = "answer"  # as it is in the context
    answer_start: str = "answer_start"  # at which character

    @property
    def columns(self) -> tuple[str, ...]:
        return self.question, self.context

    @property
    def reads(self) -> dict[str, str]:
        return super().reads | {self.answer: "text", self.answer_start: "a whole number"}

    def fault(self, example: Mapping[str, Any]) -> str | None:
        answer, start = example[self.answer], example[self.answer_start]
        there = start >= 0 and answer.strip() and str(example[self.context]).startswith(answer, start)
        return None if there else f"column {self.context!r} has no {answer[:40]!r} at character {start}"
