# SPDX-License-Identifier: Apache-2.0
"""Tasks on images."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from t5x_like.config.checks import Checked, Coefficient, Count, Rate, Share, WholeNumber, at_least, divisors
from t5x_like.config.data import sources, tokenizers
from t5x_like.config.data.tasks import AnySource, AnyTokenizer, TaskConfig, TextTaskConfig, wrong_label
from t5x_like.strict import FieldError


@dataclass(frozen=True)
class AugmentConfig(Checked):
    """How images are changed at random before they are trained on."""

    shift: WholeNumber = 0  # by up to so many pixels each way
    flip: Share = 0.0  # probability of left for right
    rotate: Coefficient = 0.0  # by up to so many degrees each way
    zoom: Rate = 0.0  # by up to this share each way
    erase: Share = 0.0  # probability that a square of it is erased (Zhong et al. 2017)


@dataclass(frozen=True)
class ImageTaskConfig(TaskConfig):
    """Any task on images. One token that counts is one example; of others there are as many as `lengths` says.

    Images of another size are cut to a square and resized.
    """

    streams: ClassVar[tuple[str, ...]] = ("images",)

    sequence_length: int = 1
    source: AnySource = field(default_factory=sources.DigitsConfig)
    image: str = "image"  # the column: an array, an encoded image, or a file's name
    image_size: Count = 8  # pixels, of both sides
    channels: Literal[1, 3] = 1
    mean: tuple[float, ...] = (0.0,)  # which is taken from pixels between 0 and 1, of all channels or each
    stddev: tuple[float, ...] = (1.0,)  # which they are divided by then
    augment: AugmentConfig | None = None  # None: images stay as they are
    label: str | None = None  # the column of the number of a class; None: none is read
    num_labels: int | None = None  # labels are 0 to num_labels - 1; None: nobody knows

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("mean", "stddev"):
            if len(given := getattr(self, name)) not in (1, self.channels):
                raise FieldError(name, f"{given} has {len(given)} numbers; accepted: 1, or one for each channel")

    @property
    def reads(self) -> dict[str, str]:
        return {self.image: "anything"} | ({} if self.label is None else {self.label: "a whole number"})

    @property
    def mean_lengths(self) -> dict[str, float]:
        return {**self.lengths, "targets": 1}

    @property
    def features(self) -> Mapping[str, tuple[tuple[int, ...], str]]:
        """Shape and type of every feature of one row."""
        size = (self.image_size, self.image_size, self.channels)
        labels: Mapping[str, Any] = {} if self.label is None else {"labels": ((), "int32")}
        return {"images": (size, "float32"), "images_segment_ids": ((1,), "int32"), **labels}

    def fault(self, example: Mapping[str, Any]) -> str | None:
        return self.label and wrong_label(self.label, [example[self.label]], self.num_labels)


@dataclass(frozen=True)
class ImageClassificationConfig(ImageTaskConfig):
    """Images and the number of their class."""

    kind: Literal["image_classification"] = "image_classification"
    label: str | None = "label"


@dataclass(frozen=True)
class MaskedImagesConfig(ImageTaskConfig):
    """Images of which a model hides parts, drawn anew whenever one is trained on."""

    kind: Literal["masked_images"] = "masked_images"

    @property
    def features(self) -> Mapping[str, tuple[tuple[int, ...], str]]:
        return {**super().features, "images_seed": ((2,), "uint32")}


@dataclass(frozen=True)
class DetectionDataConfig(ImageTaskConfig):
    """Images and the objects in them, of which each has a box and a class."""

    kind: Literal["detection"] = "detection"
    source: AnySource = field(default_factory=sources.DigitGridsConfig)
    image_size: int = 16
    boxes: str = "boxes"  # columns: centre and size of each, between 0 and 1
    labels: str = "box_labels"
    max_objects: Count = 16  # of an image; others are left out

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.augment is not None:
            raise FieldError("augment", "is given, but boxes would not move with what an image shows; accepted: None")

    @property
    def reads(self) -> dict[str, str]:
        return super().reads | {self.boxes: "anything", self.labels: "a list of whole numbers"}

    @property
    def features(self) -> Mapping[str, tuple[tuple[int, ...], str]]:
        most = self.max_objects
        return {**super().features, "boxes": ((most, 4), "float32"), "box_labels": ((most,), "int32")}

    def fault(self, example: Mapping[str, Any]) -> str | None:
        boxes, labels = example[self.boxes], example[self.labels]
        if len(boxes) != len(labels):
            return f"{len(boxes)} {self.boxes} for {len(labels)} {self.labels}"
        return wrong_label(self.labels, labels, self.num_labels)


@dataclass(frozen=True)
class ImageTokensConfig(ImageClassificationConfig):
    """Images as tokens for a decoder: their class, then a code for every patch."""

    streams: ClassVar[tuple[str, ...]] = ("decoder",)

    kind: Literal["image_tokens"] = "image_tokens"  # type: ignore[assignment]
    sequence_length: int = 0  # follows from image_size and patch_size
    num_labels: Count | None = None  # which this task has to know
    patch_size: Count = 2
    codes: Count = 128  # K

    def __post_init__(self) -> None:
        Checked.__post_init__(self)
        if self.image_size % self.patch_size:
            accepted = divisors(self.image_size)
            raise FieldError("patch_size", f"{self.patch_size} does not divide image_size; accepted: {accepted}")
        if self.num_labels is None:
            raise FieldError("num_labels", "is None; give their number")
        if self.augment is not None:
            raise FieldError("augment", "is none of this task's")
        object.__setattr__(self, "sequence_length", (self.image_size // self.patch_size) ** 2)
        super().__post_init__()

    @property
    def vocab_size(self) -> int:
        return 1 + self.codes + (self.num_labels or 0)

    @property
    def mean_lengths(self) -> dict[str, float]:
        return {**self.lengths}

    @property
    def features(self) -> Any:
        return None  # those of text


@dataclass(frozen=True)
class CaptionsConfig(ImageTaskConfig):
    """Images and a text about each."""

    streams: ClassVar[tuple[str, ...]] = ("images", "text")

    kind: Literal["captions"] = "captions"
    tokenizer: AnyTokenizer = field(default_factory=tokenizers.BPETokenizerConfig)
    caption: str = "caption"  # the column
    text_length: Count = 32  # tokens of a text, its end among them
    classes: tuple[str, ...] = ()  # names of the labels, which evaluation then tells apart by sentences about them
    templates: tuple[str, ...] = ("{}",)  # those sentences, with {} where a name stands

    @property
    def columns(self) -> tuple[str, ...]:
        """What a tokenizer learns from."""
        return (self.caption,)

    @property
    def reads(self) -> dict[str, str]:
        return super().reads | {self.caption: "text or a number"}

    @property
    def lengths(self) -> dict[str, int]:
        return {"images": 1, "text": self.text_length}

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.tokens

    @property
    def features(self) -> Mapping[str, tuple[tuple[int, ...], str]]:
        names = ("text_tokens", "text_segment_ids")
        return {**super().features, **dict.fromkeys(names, ((self.text_length,), "int32"))}


@dataclass(frozen=True)
class VisualQuestionConfig(ImageTaskConfig, TextTaskConfig):
    """Images, a question about them, and the answer, which is to be written. Without questions the answers are
    captions. Other training examples may come first, answered, as in Flamingo's prompts (Alayrac et al. 2022)."""

    streams: ClassVar[tuple[str, ...]] = ("images", "decoder")

    kind: Literal["visual_question"] = "visual_question"
    source: AnySource = field(default_factory=sources.DigitGridsConfig)
    tokenizer: AnyTokenizer = field(default_factory=lambda: tokenizers.BPETokenizerConfig(specials=("image",)))
    sequence_length: int = 64
    question: str | None = "question"  # columns. None: nothing is asked
    answer: str = "answer"
    answer_length: Annotated[float, at_least(1)] = 4.0  # mean tokens of an answer with its end: to count FLOPs by
    images: Count = 1  # of an example; where there are several, the column holds a list
    shots: WholeNumber = 0  # how many other examples come before
    tokens_per_image: Count | None = None  # what stands in the text for one. None: as many as the model has

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_token is None:
            raise FieldError("tokenizer", "has no token for an image; accepted: one with specials=['image']")
        tokens, room = (self.tokens_per_image or 1) * self.images, self.sequence_length // (self.shots + 1)
        if tokens + 2 > room:
            raise FieldError("sequence_length", f"leaves {room} tokens an example, whose images are {tokens}")

    @property
    def image_token(self) -> int | None:
        return self.tokenizer.special("image")

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.answer,) if self.question is None else (self.question, self.answer)

    @property
    def reads(self) -> dict[str, str]:
        return {self.image: "anything", **dict.fromkeys(self.columns, "text or a number")}

    @property
    def lengths(self) -> dict[str, int]:
        return {"images": self.images * (self.shots + 1), "decoder": self.sequence_length}

    @property
    def mean_lengths(self) -> dict[str, float]:
        return {**self.lengths, "targets": self.answer_length * (self.shots + 1)}

    @property
    def features(self) -> Mapping[str, tuple[tuple[int, ...], str]]:
        count, length = self.lengths["images"], (self.sequence_length,)
        names = ("input_tokens", "target_tokens", "segment_ids", "positions", "image_index")
        size = (count, self.image_size, self.image_size, self.channels)
        images = {"images": (size, "float32"), "images_segment_ids": ((count,), "int32")}
        text = {f"decoder_{name}": (length, "int32") for name in names}
        return {**images, **text, "decoder_loss_weights": (length, "float32")}
