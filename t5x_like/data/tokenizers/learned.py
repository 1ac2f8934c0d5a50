# SPDX-License-Identifier: Apache-2.0
"""Vocabularies that the `tokenizers` library learned, here or elsewhere, and SentencePiece's."""

import contextlib
import hashlib
import io
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers as huggingface

from t5x_like.data.tokenizers.tokenizer import Tokenizer, utf8
from t5x_like.errors import UserError
from t5x_like.files import write_text

SENTINEL = "<extra_id_{}>"
# Names that special tokens usually have, by role; the first that a vocabulary has is taken.
NAMES = {
    "pad": ("<pad>", "[PAD]", "<|padding|>", "<|endoftext|>"),
    "bos": ("<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>"),
    "eos": ("</s>", "<eos>", "<|endoftext|>", "<|end_of_text|>"),
    "unk": ("<unk>", "[UNK]"),
    "mask": ("<mask>", "[MASK]"),
    "cls": ("[CLS]", "<cls>", "<s>"),
    "sep": ("[SEP]", "<sep>", "</s>"),
    "image": ("<image>", "<|image|>"),
    "fim_prefix": ("<fim_prefix>", "<|fim_prefix|>", "<fim-prefix>", "▁<PRE>", "<｜fim▁begin｜>"),
    "fim_suffix": ("<fim_suffix>", "<|fim_suffix|>", "<fim-suffix>", "▁<SUF>", "<｜fim▁hole｜>"),
    "fim_middle": ("<fim_middle>", "<|fim_middle|>", "<fim-middle>", "▁<MID>", "<｜fim▁end｜>"),
    "fim_end": ("<fim_end>", "▁<EOT>"),
}
_BYTE = re.compile("<0x[0-9A-F]{2}>")  # spells what no piece covers
_PARALLELISM = "TOKENIZERS_PARALLELISM"
_USER_DECIDED = _PARALLELISM in os.environ


class LearnedTokenizer(Tokenizer):
    """A tokenizer of the `tokenizers` library. tokenizer.json is its own format.

    Byte-level BPE (Sennrich et al. 2016; bytes as in GPT-2, Radford et al. 2019) is lossless, and so are unigram pieces
    but for spaces at a text's start and a text such as "<0xF0>", which names a byte; WordPiece loses white space and,
    lower-cased, case and accents. A text that spells a special token's name gets ordinary tokens.
    """

    def __init__(self, model: huggingface.Tokenizer):
        model.encode_special_tokens = True
        model.no_padding()  # sentence encoders' files ask for 128 tokens, whatever the text
        model.no_truncation()
        self._model = model
        vocabulary = model.get_vocab(with_added_tokens=True)
        names = sorted(vocabulary, key=vocabulary.__getitem__)
        added = model.get_added_tokens_decoder().values()
        special = {token.content for token in added if token.special}
        specials = _roles(vocabulary, NAMES)
        spell = _speller(json.loads(model.to_str()))
        by_id = {index: b"" if name in special else spell(name) for name, index in vocabulary.items()}
        pieces = [by_id.get(i, b"") for i in range(vocabulary[names[-1]] + 1)]
        super().__init__(pieces, specials, _sentinels(vocabulary))
        self._spelt = {
            vocabulary[name]: [vocabulary[f"<0x{byte:02X}>"] for byte in name.encode()]
            for name in special
            if "<0x00>" in vocabulary
        }
        pieces_of_words = isinstance(model.model, huggingface.models.WordPiece)
        self._continues = np.array([n.startswith("##") for n in names]) if pieces_of_words else None

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{huggingface.__version__}\n{self._model.to_str()}".encode()).hexdigest()[:16]

    @property
    def word_starts(self) -> np.ndarray:
        return super().word_starts if self._continues is None else ~self._continues

    def encode_documents(self, texts: Sequence[str]) -> Iterator[np.ndarray]:
        for text in texts:
            utf8(text)
        for start in range(0, len(texts), 64):  # the library's records are many times larger than the tokens
            with _threads():
                encodings = self._model.encode_batch_fast(list(texts[start : start + 64]), add_special_tokens=False)
            yield from (np.array(self._ordinary(encoding.ids), self.dtype) for encoding in encodings)

    def encode_with_ends(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        if self._spelt:
            return super().encode_with_ends(text)
        found = self._model.encode(text, add_special_tokens=False)
        return np.array(found.ids, self.dtype), np.array([end for _, end in found.offsets], np.int64)

    def encode_marked(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        found = self._marked.encode(utf8(text).decode(), add_special_tokens=False)
        return np.array(found.ids, self.dtype), np.array([end for _, end in found.offsets], np.int64)

    @cached_property
    def _marked(self) -> huggingface.Tokenizer:
        """The same tokenizer, which finds special tokens in a text."""
        copy = huggingface.Tokenizer.from_str(self._model.to_str())
        copy.encode_special_tokens = False
        return copy

    def _ordinary(self, ids: list[int]) -> list[int]:
        """Unigram models know special tokens as pieces of text: where one was found, its name in bytes."""
        if not self._spelt or self._spelt.keys().isdisjoint(ids):
            return ids
        return [token for found in ids for token in self._spelt.get(found, (found,))]

    def name_of(self, token: int) -> str:
        """How the vocabulary spells a token, such as `</s>`."""
        return str(self._model.id_to_token(token))

    def save(self, path: str | os.PathLike[str]) -> None:
        write_text(path, self._model.to_str(pretty=True) + "\n")


def _roles(vocabulary: Mapping[str, int], roles: Iterable[str]) -> dict[str, int]:
    found = {role: next((vocabulary[name] for name in NAMES[role] if name in vocabulary), None) for role in roles}
    return {role: token for role, token in found.items() if token is not None}


def _sentinels(vocabulary: Mapping[str, int]) -> list[int]:
    names = itertools.takewhile(vocabulary.__contains__, map(SENTINEL.format, itertools.count()))
    return [vocabulary[name] for name in names]


def _speller(content: dict[str, Any]) -> Any:
    """From a piece of a vocabulary to its bytes, for the kinds of decoder there are."""
    kinds = json.dumps(content.get("decoder"))
    if "ByteLevel" in kinds:
        to_byte = {character: byte for byte, character in enumerate(_byte_characters())}
        return lambda piece: bytes(to_byte[c] for c in piece) if set(piece) <= set(to_byte) else piece.encode()

    def spell(piece: str) -> bytes:
        if _BYTE.fullmatch(piece):
            return bytes([int(piece[3:5], 16)])
        if "WordPiece" in kinds:
            return piece.removeprefix("##").encode() if piece.startswith("##") else b" " + piece.encode()
        return piece.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()

    return spell


def train(config: Any, texts: Iterable[str]) -> LearnedTokenizer:
    """Learns a vocabulary from texts that can be read twice; it depends on them and the config alone. Raises UserError:
    the texts have too little in them for so many tokens, or they spell a special token as a piece."""
    model, fewest = _TRAINERS[config.kind](config, texts, config.vocab_size - config.sentinels)
    model.add_special_tokens([SENTINEL.format(i) for i in reversed(range(config.sentinels))])
    found = model.get_vocab_size(with_added_tokens=True)
    if found != config.vocab_size:
        raise UserError(
            f"data.tokenizer.vocab_size={config.vocab_size}: the training documents yield only {found} "
            f"tokens; accepted: {fewest} to {found}, or more text"
        )
    return LearnedTokenizer(model)


def _specials(config: Any, *names: str) -> list[str]:
    return [*names, *(f"<{role}>" for role in config.specials)]


def _learn(model: huggingface.Tokenizer, trainer: Any, texts: Iterable[str]) -> huggingface.Tokenizer:
    with _threads():
        model.train_from_iterator(texts, trainer)
    return model


def _bpe(config: Any, texts: Iterable[str], size: int) -> tuple[huggingface.Tokenizer, int]:
    """Text is first cut by GPT-2's pattern (words with their leading space, numbers, punctuation, white space); merges
    never cross a cut. Always the most frequent pair next, ties by the older tokens."""
    model = huggingface.Tokenizer(huggingface.models.BPE())
    model.pre_tokenizer = huggingface.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = huggingface.decoders.ByteLevel()
    trainer = huggingface.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=_specials(config, "<|endoftext|>"),
        initial_alphabet=huggingface.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return _learn(model, trainer, texts), 257 + len(config.specials) + config.sentinels


def _wordpiece(config: Any, texts: Iterable[str], size: int) -> tuple[huggingface.Tokenizer, int]:
    """The library numbers letters in an order that differs from process to process, and ties go by number. So they are
    found first, and given in order as special tokens, which keep theirs."""
    names = _specials(config, "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

    def model(vocabulary: dict[str, int] | None = None) -> huggingface.Tokenizer:
        made = huggingface.Tokenizer(huggingface.models.WordPiece(vocabulary or {}, unk_token="[UNK]"))
        made.normalizer = huggingface.normalizers.BertNormalizer(lowercase=config.lowercase)
        made.pre_tokenizer = huggingface.pre_tokenizers.BertPreTokenizer()
        made.decoder = huggingface.decoders.WordPiece()
        return made

    def learned(size: int, first: list[str]) -> dict[str, int]:
        trainer = huggingface.trainers.WordPieceTrainer(vocab_size=size, special_tokens=first, show_progress=False)
        return _learn(model(), trainer, texts).get_vocab(with_added_tokens=True)

    letters = sorted(set(learned(0, names)).difference(names))
    made = model(learned(size, [*names, *letters]))
    made.add_special_tokens(names)
    return made, len(names) + 1


def _unigram(config: Any, texts: Iterable[str], size: int) -> tuple[huggingface.Tokenizer, int]:
    """SentencePiece's own trainer, since the library's differs from process to process; what no piece covers is spelt
    in bytes."""
    import sentencepiece

    names = _specials(config, "<pad>", "</s>", "<unk>")
    specials: Any = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "control_symbols": names[3:]}
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=out,
        model_type="unigram",
        vocab_size=size,
        hard_vocab_limit=False,
        character_coverage=1.0,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        max_sentence_length=2**30,
        minloglevel=2,
        **specials,
    )
    found = sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())
    pieces = [(found.id_to_piece(i), found.get_score(i)) for i in range(found.get_piece_size())]
    model = huggingface.Tokenizer(huggingface.models.Unigram(pieces, unk_id=2, byte_fallback=True))
    model.pre_tokenizer = huggingface.pre_tokenizers.Metaspace()
    model.decoder = huggingface.decoders.Sequence(
        [huggingface.decoders.ByteFallback(), huggingface.decoders.Metaspace()]
    )
    model.add_special_tokens(names)
    return model, len(names) + 257


_TRAINERS: dict[str, Any] = {"bpe": _bpe, "wordpiece": _wordpiece, "unigram": _unigram}


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model (Kudo and Richardson 2018), run by its own library."""

    def __init__(self, content: bytes):
        import sentencepiece

        self._content = content
        self._model = sentencepiece.SentencePieceProcessor(model_proto=content)
        size = self._model.get_piece_size()
        names = [self._model.id_to_piece(i) for i in range(size)]
        spell = _speller({})
        hidden = {i for i in range(size) if self._model.is_control(i) or self._model.is_unknown(i)}
        roles = {role: getattr(self._model, f"{role}_id")() for role in ("pad", "bos", "eos", "unk")}
        places = {name: i for i, name in enumerate(names)}
        specials = {role: i for role, i in roles.items() if i >= 0} | _roles(places, NAMES.keys() - roles)
        super().__init__(
            [b"" if i in hidden else spell(name) for i, name in enumerate(names)], specials, _sentinels(places)
        )

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self._content).hexdigest()[:16]

    def encode_documents(self, texts: Sequence[str]) -> Iterator[np.ndarray]:
        for text in texts:
            utf8(text)
            yield np.array(self._model.encode(text), self.dtype)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the model itself; `load_tokenizer` knows it by its content."""
        Path(path).write_bytes(self._content)


def _byte_characters() -> list[str]:
    """The printable character that stands for each byte in a byte-level BPE's vocabulary.

    Printable Latin-1 characters stand for themselves; the other bytes take, in order, the code points from 256 on.
    """
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in set(own) else chr(next(others)) for byte in range(256)]


@contextlib.contextmanager
def _threads() -> Iterator[None]:
    """Lets the library use threads (as many as this process may run on) for one call, unless the user has decided.

    Afterwards the switch stays at "false": left unset, a later fork of this process would print a warning.
    """
    if _USER_DECIDED:
        yield
        return
    os.environ[_PARALLELISM] = "true"
    try:
        yield
    finally:
        os.environ[_PARALLELISM] = "false"
