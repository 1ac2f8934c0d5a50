# SPDX-License-Identifier: Apache-2.0
"""Writes lines of JSON of emoji and their names, out of the npm package emoji-datasource-twitter, as CLIP reads them.

npm pack emoji-datasource-twitter && tar xzf emoji-datasource-twitter-*.tgz
python scripts/emoji_pairs.py --package=package --out=runs/emoji.jsonl

A line has image (a file's name), caption ("grinning face with smiling eyes") and label (its category's number).
"""

import json
from pathlib import Path

from t5x_like.command_line import Parser
from t5x_like.errors import UserError, exit_with
from t5x_like.files import make_folder, write_text


def main() -> None:
    parser = Parser(__doc__, required=("package", "out"))
    parser.add_argument("--package", metavar="DIR", help="the unpacked package")
    parser.add_argument("--out", metavar="FILE", help="the lines")
    flags = parser.read()
    folder, out = Path(flags.package).resolve(), Path(flags.out)
    if not (folder / "emoji.json").is_file():
        raise UserError(f"--package={flags.package}: has no emoji.json; accepted: emoji-datasource-twitter, unpacked")
    found = [each for each in json.loads((folder / "emoji.json").read_text()) if each["has_img_twitter"]]
    kinds = sorted({each["category"] for each in found})
    lines = [
        json.dumps(
            {
                "image": str(folder / "img/twitter/64" / each["image"]),
                "caption": each["name"].lower() if each["name"] else each["short_name"].replace("_", " "),
                "label": kinds.index(each["category"]),
            }
        )
        for each in found
    ]
    make_folder(out.parent, "--out")
    write_text(out, "\n".join(lines) + "\n")
    print(f"{out}: {len(lines)} emoji of {len(kinds)} categories: {', '.join(kinds)}")


if __name__ == "__main__":
    exit_with(main)
