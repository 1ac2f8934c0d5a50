# SPDX-License-Identifier: Apache-2.0
"""Draws what a model looks at, layer by layer and head by head, as one page that needs no other file.

python scripts/attention.py --checkpoint=runs/vit_digits --image=seven.png --out=runs/attention.html
python scripts/attention.py --checkpoint=runs/small --prompt="def main(argv):" --out=runs/attention.html

A model with an encoder reads the prompt and looks at it while it writes --target, or what it would write itself.
Without --image a model of images shows the first that its run has held out; one of text with images takes an --image
for every <image> in the prompt.
"""

from pathlib import Path
from typing import Any

from t5x_like.command_line import Parser
from t5x_like.errors import UserError, exit_with

TITLES = {
    "attentions": "of a text to itself",
    "encoder_attentions": "of the input to itself",
    "cross_attentions": "of the output to the input",
    "latents": "of a text to what is known of images",
}
NEW_TOKENS = 32


def main() -> None:
    parser = Parser(__doc__, required=("checkpoint", "out"))
    add = parser.add_argument
    add("--checkpoint", metavar="DIR", help="a run folder, or a Hugging Face folder")
    add("--prompt", metavar="TEXT", help="what a model of text reads")
    add("--target", metavar="TEXT", help="what it writes, if it has an encoder (default: what it would write)")
    add("--image", metavar="FILE", action="append", help="what a model of images reads; may be repeated")
    add("--out", metavar="FILE", help="the page to write, such as attention.html")
    flags = parser.read()
    if not Path(flags.out).parent.is_dir():
        parser.error(f"--out={flags.out}: {Path(flags.out).parent} is no folder")

    from t5x_like.files import write_text
    from t5x_like.reporting.attention import attention_page
    from t5x_like.training.initial import load_any
    from t5x_like.training.startup import configure_jax

    configure_jax()
    config, program, params = load_any(Path(flags.checkpoint))
    streams = config.model.streams
    for name, needed in (("prompt", streams != ("images",)), ("image", "images" in streams)):
        if getattr(flags, name) is not None and not needed:
            raise UserError(f"--{name}: makes no sense for a {config.model.kind} model")
    if streams == ("images",):
        maps = of_image(config, program, params, flags)
    elif flags.prompt is None:
        raise UserError(f"--prompt: is not given, and a {config.model.kind} model reads text")
    elif "text" in streams:
        raise UserError(f"model.kind: {config.model.kind!r} keeps no weights of attention")
    elif streams == ("images", "decoder"):
        maps = of_text_with_images(config, program, params, flags)
    else:
        maps = of_text(program, params, flags)
    write_text(Path(flags.out), attention_page(f"Attention of {Path(flags.checkpoint).name}", maps))
    print(f"written: {flags.out}")


def of_image(config: Any, program: Any, params: Any, flags: Any) -> list[Any]:
    """Of a model of images alone."""
    import numpy as np

    from t5x_like.data.images import as_bytes, as_floats, as_pixels
    from t5x_like.data.pipeline import build_dataset
    from t5x_like.data.sources import BadExample
    from t5x_like.reporting.attention import AttentionMap

    if len(flags.image or ()) > 1:
        raise UserError(f"--image: {len(flags.image)} of them; accepted: one")
    if flags.image is None:
        image = next(build_dataset(config.data, config.seed).eval_batches(1, 1))["images"]
        pixels = as_bytes(image[0], config.data)
    else:
        try:
            pixels = as_pixels(flags.image[0], config.data.image_size, config.data.channels)
        except BadExample as error:
            raise UserError(f"--image: {error}") from None
        image = as_floats(pixels[None], config.data)
    out = program.model.apply(params, {"images": image}, want=("attentions",))
    tokens = of_patches(config.model, pixels)
    return [AttentionMap("of an image to itself", tokens, tokens, np.asarray(out["attentions"])[:, 0])]


def of_patches(model: Any, pixels: Any) -> Any:
    """The tokens of an image."""
    from t5x_like.reporting.attention import Tokens

    side = model.image_size // model.patch_size
    before = ["[class]"] * model.class_token + ["[distillation]"] * model.distillation_token
    labels = [*before, *(f"row {i // side + 1}, column {i % side + 1}" for i in range(model.patches))]
    return Tokens(labels, [*[-1] * len(before), *range(model.patches)], pixels, side)


def of_text_with_images(config: Any, program: Any, params: Any, flags: Any) -> list[Any]:
    """Of a decoder to itself, and to the latents of images where it has layers for that. Patches are shown as a picture
    of the first image, where they are tokens."""
    from argparse import Namespace

    import jax.numpy as jnp
    import numpy as np
    from generate import seeing

    from t5x_like.data.images import as_bytes
    from t5x_like.data.tokenizers import load_tokenizer
    from t5x_like.interop.hugging_face import vocabulary_of
    from t5x_like.reporting.attention import AttentionMap, Tokens

    tokenizer, model = load_tokenizer(vocabulary_of(Path(flags.checkpoint))), config.model
    asked = Namespace(prompt=flags.prompt, image=flags.image, suffix=None)
    prompt, length = seeing(asked, tokenizer, config.data, model.tokens_per_image)
    batch = {"decoder_input_tokens": jnp.asarray([prompt])}
    batch |= {"images": jnp.asarray(prompt.images[None])} if len(prompt.images) else {}
    gated = getattr(model, "cross_gated", False)
    out = program.model.apply(params, batch, want=("attentions", *["cross_attentions"] * gated))
    here = [number for number, token in enumerate(prompt) if token == model.image_token]
    places = {at: divmod(number, model.tokens_per_image) for number, at in enumerate(here)}
    labels = [
        f"image {places[i][0] + 1}, patch {places[i][1] + 1}"
        if i in places
        else tokenizer.decode([token]) or f"<{token}>"
        for i, token in enumerate(prompt)
    ]
    first = not gated and len(prompt.images) > 0
    patches = [places[i][1] if first and i in places and places[i][0] == 0 else -1 for i in range(length)]
    picture = as_bytes(prompt.images[0], config.data) if first else None
    text = Tokens(labels, patches, picture, model.vision.image_size // model.vision.patch_size)
    maps = [AttentionMap(TITLES["attentions"], text, text, np.asarray(out["attentions"])[:, 0])]
    if gated:
        weights, each = np.asarray(out["cross_attentions"])[:, 0], model.resampler.latents
        latents = [f"image {i // each + 1}, latent {i % each + 1}" for i in range(weights.shape[-1])]
        maps.append(AttentionMap(TITLES["latents"], text, Tokens(latents), weights))
    return maps


def of_text(program: Any, params: Any, flags: Any) -> list[Any]:
    """Of a model that reads text, and maybe writes another one."""
    import jax.numpy as jnp
    import numpy as np

    from t5x_like.data.tokenizers import load_tokenizer
    from t5x_like.inference.generate import generate
    from t5x_like.interop.hugging_face import vocabulary_of
    from t5x_like.reporting.attention import AttentionMap, Tokens

    tokenizer, model = load_tokenizer(vocabulary_of(Path(flags.checkpoint))), program.model
    streams, special = model.config.streams, tokenizer.specials
    text = [*map(int, tokenizer.encode(flags.prompt))]
    if streams[0] == "decoder":
        text = [special.get("bos", tokenizer.separator), *text]
    elif "cls" in special and streams == ("encoder",):
        text = [special["cls"], *text, special["sep"]]
    else:
        text = [*text, special["eos"]]
    rows = {streams[0]: text}
    if streams == ("encoder", "decoder"):
        if flags.target is None:
            end = [special["eos"]]
            written = generate(model, params, [text], max_new_tokens=NEW_TOKENS, stop_tokens=end).tokens[0]
        else:
            written = [*map(int, tokenizer.encode(flags.target))]
        rows["decoder"] = [model.start_token, *written]
    batch = {f"{stream}_input_tokens": jnp.asarray([row]) for stream, row in rows.items()}
    want = ("attentions",) if len(rows) == 1 else tuple(TITLES)[:3]
    out = model.apply(params, batch, want=want)
    named = {number: f"[{role}]" for role, number in special.items()}
    sides = {n: Tokens([named.get(i) or tokenizer.decode([i]) or f"<{i}>" for i in row]) for n, row in rows.items()}
    first, last = sides[streams[0]], sides[streams[-1]]
    ends = {"attentions": (last, last), "encoder_attentions": (first, first), "cross_attentions": (last, first)}
    return [AttentionMap(TITLES[name], *ends[name], np.asarray(out[name])[:, 0]) for name in want]


if __name__ == "__main__":
    exit_with(main)
