# SPDX-License-Identifier: Apache-2.0
"""A run folder or Hugging Face folder as the model `t5x_like` of lm-evaluation-harness: see docs/evaluation.md."""

from itertools import groupby
from pathlib import Path
from typing import Any

from lm_eval import utils
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text

from t5x_like.data.tokenizers import load_tokenizer
from t5x_like.errors import UserError, exit_with
from t5x_like.evaluation.likelihood import log_likelihoods
from t5x_like.inference.generate import generate
from t5x_like.inference.sampling import Sampling
from t5x_like.interop.hugging_face import vocabulary_of
from t5x_like.models.model import Encodes
from t5x_like.training.cores import generation_context
from t5x_like.training.initial import load_any


@register_model("t5x_like")
class Harness(TemplateLM):
    """Requests are cut into tokens and windows as for the harness's own `hf` model, so the numbers are the same.

    `pretrained` is the folder, of a model without an encoder; `max_length` its positions (None: as the model says, else
    2048). With `add_bos_token` texts begin with `bos`, else the separator, as they did for models trained here.
    """

    eot_token_id = prefix_token_id = 0

    def __init__(
        self, pretrained: str, batch_size: Any = 32, max_length: Any = None, add_bos_token: bool = False, **unused: Any
    ):
        super().__init__()
        _, program, self.params = load_any(Path(pretrained))
        self.model, self.ctx = program.model, generation_context(program.ctx)
        if isinstance(self.model, Encodes):
            raise UserError(f"model.kind: {self.model.config.kind!r} has an encoder; accepted: models without one")
        self.words = load_tokenizer(vocabulary_of(Path(pretrained)))
        self.max_length = max_length or getattr(self.model.config, "max_length", None) or 2048
        self.batch_size, self.add_bos_token = int(batch_size), add_bos_token
        self.eot_token_id = end = self.words.separator
        self.prefix_token_id = self.words.specials.get("bos", end)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **unused: Any) -> list[int]:
        begins = self.add_bos_token if add_special_tokens is None else add_special_tokens
        return [self.prefix_token_id] * begins + [*map(int, self.words.encode(string))]

    def _loglikelihood_tokens(self, requests: Any, **unused: Any) -> list[tuple[float, bool]]:
        pairs = [(context[len(target) - self.max_length - 1 :], target) for _, context, target in requests]
        found = log_likelihoods(self.model, self.params, pairs, self.ctx, batch_size=self.batch_size)
        return [(each.log_prob, each.likeliest == each.tokens) for each in found]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        def windows(text: str) -> list[Any]:
            found = utils.get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.max_length, 1)
            return [("", *utils.make_disjoint_window(window)) for window in found]

        of_texts = [self._loglikelihood_tokens(windows(request.args[0])) for request in requests]
        return [sum(log_prob for log_prob, _ in parts) for parts in of_texts]

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        texts: dict[int, str] = {}
        order = sorted(range(len(requests)), key=lambda i: repr(requests[i].args[1]))
        for _, (*same,) in groupby(order, key=lambda i: repr(requests[i].args[1])):
            asked = normalize_gen_kwargs(requests[same[0]].args[1])
            sampling = Sampling(asked["temperature"], asked.get("top_k", 0), asked.get("top_p", 1.0))
            how: Any = {"max_new_tokens": asked["max_gen_toks"], "sampling": sampling, "ctx": self.ctx}
            for first in range(0, len(same), self.batch_size):
                some, room = same[first : first + self.batch_size], max(1, self.max_length - asked["max_gen_toks"])
                prompts = [self.tok_encode(requests[i].args[0])[-room:] for i in some]
                rows = generate(self.model, self.params, prompts, stop_tokens=[self.eot_token_id], **how).tokens
                for i, row in zip(some, rows, strict=True):
                    texts[i] = postprocess_generated_text(self.words.decode(row), asked["until"], None)
        return [texts[i] for i in range(len(requests))]


if __name__ == "__main__":
    exit_with(cli_evaluate)
