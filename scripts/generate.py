# SPDX-License-Identifier: Apache-2.0
"""Continues a prompt with the model of a run folder, or with the largest model of a sweep.

python scripts/generate.py --checkpoint=runs/small --prompt="def main(" --temperature=0.8 --top_p=0.95
"""

from pathlib import Path

from t5x_like.command_line import Parser
from t5x_like.errors import UserError, exit_with


def main() -> None:
    parser = Parser(__doc__, required=("checkpoint", "prompt"))
    add = parser.add_argument
    add("--checkpoint", metavar="DIR", help="a run folder, or a sweep folder")
    add("--prompt", metavar="TEXT", help="what to continue; may be empty: a new document")
    add("--temperature", type=float, default=1.0, help="0 takes the likeliest token (default: %(default)s)")
    add("--top_k", type=int, default=0, help="keep the k likeliest tokens (default: all)")
    add("--top_p", type=float, default=1.0, help="keep the likeliest tokens that reach probability p (default: all)")
    add("--max_new_tokens", type=int, default=64, help="(default: %(default)s)")
    add("--seed", type=int, default=0, help="the same seed gives the same text (default: %(default)s)")
    flags = parser.read()

    from t5x_like.data.tokenizers import load_tokenizer
    from t5x_like.inference.generate import generate
    from t5x_like.inference.sampling import Sampling
    from t5x_like.sweeps.points import largest_run
    from t5x_like.training.checkpoints import load_trained
    from t5x_like.training.startup import configure_jax

    configure_jax()
    sampling = Sampling(flags.temperature, flags.top_k, flags.top_p).check()
    folder = Path(flags.checkpoint)
    folder = largest_run(folder) if (folder / "sweep.json").is_file() else folder
    config, program, params = load_trained(folder)
    vocabulary = folder / "tokenizer.json"
    if not vocabulary.is_file():
        raise UserError(f"--checkpoint={flags.checkpoint}: was trained on {config.data.kind!r} data, which is no text")
    tokenizer = load_tokenizer(vocabulary)
    prompt = [tokenizer.separator, *map(int, tokenizer.encode(flags.prompt))]
    [new] = generate(
        program.model,
        params,
        [prompt],
        max_new_tokens=flags.max_new_tokens,
        sampling=sampling,
        stop_token=tokenizer.separator,
        seed=flags.seed,
        ctx=program.ctx,
    )
    print(flags.prompt + tokenizer.decode(new))


if __name__ == "__main__":
    exit_with(main)
