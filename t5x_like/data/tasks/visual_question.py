# SPDX-License-Identifier: Apache-2.0
"""Questions about images, a row each: images, question, answer. Here an image is two tokens, 3; 0 begins and ends.

decoder_input_tokens   0 3 3 7 8 9 4       7 8 9 which digit ?   4 two
decoder_target_tokens  3 3 7 8 9 4 0
decoder_loss_weights   0 0 0 0 0 1 1
decoder_image_index    0 1 1 1 1 1 1       the number of the last image that has begun

With `shots` other training examples come before, answers and all; of training rows those are learnt from, too. What is
too long for its share of the row loses the end of its question.
"""

from pathlib import Path

import numpy as np

from t5x_like.config.data.images import VisualQuestionConfig
from t5x_like.data.cache import Texts
from t5x_like.data.images import IMAGE, Pictured, tokens_with_images
from t5x_like.data.packing import Batch
from t5x_like.data.sources import Example
from t5x_like.data.tasks.images import ImageDataset
from t5x_like.data.tasks.text import decoder_features, padded
from t5x_like.data.tokenizers import Tokenizer, build_tokenizer
from t5x_like.errors import UserError


class VisualQuestion(ImageDataset):
    """See above; `tokenizer` is learnt from training questions and answers unless given, `end` is behind an answer."""

    config: VisualQuestionConfig
    tokenizer: Tokenizer

    def prepare(self, cache_dir: Path | None, tokenizer: Tokenizer | None) -> None:
        c = self.config
        known = tokenizer or build_tokenizer(c.tokenizer, Texts(self.entries["train"], c.columns))
        self.tokenizer, self.vocab_size, self.end = known, known.vocab_size, known.separator
        self.sequence_length, self.image_token = c.sequence_length, known.needs(("image",), "a question")["image"]
        self.texts = {split: [self._text(entry.read()) for entry in of] for split, of in self.entries.items()}
        self.unique_tokens = sum(len(answer) for _, answer in self.texts["train"])

    def _text(self, example: Example) -> tuple[list[int], list[int]]:
        """The tokens of an example's images and question, and those of its answer, with its end."""
        c, known = self.config, self.tokenizer
        question = "" if c.question is None else str(example[c.question])
        images = tokens_with_images(IMAGE * c.images, known, c.tokens_per_image or 1)
        answer = [*known.encode(f" {example[c.answer]}").tolist(), self.end]
        room = c.sequence_length // (c.shots + 1) - len(images)
        answer = [*answer[: room - 1], self.end] if len(answer) > room else answer
        return [*images, *known.encode(question).tolist()[: room - len(answer)]], answer

    def _make(self, split: str, indices: np.ndarray, rows: np.ndarray) -> Batch:
        c, train = self.config, split == "train"
        draws = self.noise(split, rows, c.shots, "shots") % max(1, len(self.texts["train"]) - train)
        draws = draws + (train & (draws >= indices[:, None]))  # any but the row's own
        shots = [[("train", int(at)) for at in drawn] for drawn in draws]
        of_row = [[*before, (split, int(at))] for before, at in zip(shots, indices, strict=True)]
        parts = [
            [part for where, at in row for part in self.texts[where][at]] for row in of_row
        ]  # asked, answered, ...
        targets, real = padded([np.concatenate(row) for row in parts], self.sequence_length)
        batch = decoder_features(targets, real, self.tokenizer.specials.get("bos", self.end))
        counts = [n % 2 and (train or n > 2 * c.shots) for n in range(2 * c.shots + 2)]
        learnt = padded([np.repeat(counts, [*map(len, row)]) for row in parts], self.sequence_length)[0]
        begun = np.cumsum(batch["decoder_input_tokens"] == self.image_token, axis=1, dtype=np.int32)
        batch["decoder_loss_weights"] = learnt.astype(np.float32)
        batch["decoder_image_index"] = -(-begun // (c.tokens_per_image or 1)) * real
        count, pixels = c.lengths["images"], [image for row in of_row for at in row for image in self._pixels(*at)]
        numbers = (rows[:, None] * count + np.arange(count)).reshape(-1)
        made = self.of_pixels(split, np.stack(pixels) if pixels else self._none, numbers)
        batch["images"] = made["images"].reshape(-1, count, *made["images"].shape[1:])
        return batch | {"images_segment_ids": made["images_segment_ids"].reshape(-1, count)}

    def _pixels(self, split: str, index: int) -> list[np.ndarray]:
        entry, c = self.entries[split][index], self.config
        values = entry.read()[c.image]
        values = values if isinstance(values, list) else [values]
        if len(values) != c.images:
            place = entry.source.place(entry.index)
            raise UserError(f"{place}: column {c.image!r} holds {len(values)} images; data.images says {c.images}")
        return [self.pixels(value, entry) for value in values]

    def held_out_pairs(self, count: int) -> list[tuple[list[int], list[int]]]:
        """Up to `count` prompts that are held out, with their images, and what is to be written, without its end."""
        batch = self._held_out_rows(0, min(count, self.counts["held_out"]))
        names = ("decoder_input_tokens", "decoder_target_tokens", "decoder_loss_weights", "images")
        pairs: list[tuple[list[int], list[int]]] = []
        for inputs, targets, weights, images in zip(*(batch[name] for name in names), strict=True):
            (places,) = np.nonzero(weights)
            pairs.append((Pictured(inputs[: places[0] + 1].tolist(), images), targets[places[:-1]].tolist()))
        return pairs


build = VisualQuestion
