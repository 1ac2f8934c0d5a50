# SPDX-License-Identifier: Apache-2.0
"""The kinds of source: where examples come from."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from t5x_like.config.checks import Checked, Count, Rate, Share, at_least, given
from t5x_like.strict import FieldError


@dataclass(frozen=True)
class SourceConfig(Checked):
    """Any source."""

    kind: str = ""


@dataclass(frozen=True)
class PythonLibraryConfig(SourceConfig):
    """The running Python's own standard library, source and docstrings, without its tests: real text, always there.

    Columns: text.
    """

    kind: Literal["python_library"] = "python_library"


@dataclass(frozen=True)
class PythonFunctionsConfig(SourceConfig):
    """Functions of the standard library and the first lines of their docstrings: real pairs, always there.

    Columns: inputs (the function without its docstring), targets, label (its package, 0 the one with most of them),
    package (its name).
    """

    kind: Literal["python_functions"] = "python_functions"
    packages: Count | None = None  # only functions of the so many packages that have most; None: of all


@dataclass(frozen=True)
class PythonDocstringsConfig(SourceConfig):
    """Docstrings of the standard library and of packages, English prose for the most part; a file is one example.

    Columns: text.
    """

    kind: Literal["python_docstrings"] = "python_docstrings"
    packages: tuple[str, ...] = ("jax", "matplotlib", "numpy", "optax", "scipy")  # what this project installs


@dataclass(frozen=True)
class _Files(SourceConfig):
    example: ClassVar[str] = "data/*"

    pattern: str = ""  # a glob pattern; on a disk or in a bucket (gs://, s3://)

    def __post_init__(self) -> None:
        if not self.pattern:
            raise FieldError("pattern", f"is empty; give a glob pattern such as '{self.example}'")


@dataclass(frozen=True)
class TextFilesConfig(_Files):
    """Any text: every file that matches the pattern is one example. Columns: text."""

    kind: Literal["text_files"] = "text_files"
    example: ClassVar[str] = "books/**/*.txt"


@dataclass(frozen=True)
class JsonLinesConfig(_Files):
    """Every line of the files is an object, and its fields are the columns."""

    kind: Literal["json_lines"] = "json_lines"
    example: ClassVar[str] = "pairs/*.jsonl"


@dataclass(frozen=True)
class ParquetConfig(_Files):
    """Rows of Parquet files with their columns."""

    kind: Literal["parquet"] = "parquet"
    example: ClassVar[str] = "pairs/*.parquet"


@dataclass(frozen=True)
class ArrayRecordConfig(_Files):
    """Records of array_record files, each a JSON object whose fields are the columns."""

    kind: Literal["array_record"] = "array_record"
    example: ClassVar[str] = "pairs/*.array_record"


@dataclass(frozen=True)
class ImageFoldersConfig(SourceConfig):
    """A folder of images for every class. Columns: image (uint8 [height, width, channels]), label."""

    kind: Literal["image_folders"] = "image_folders"
    folder: Annotated[str, given("the folder that holds a folder of images for every class")] = ""


@dataclass(frozen=True)
class DigitsConfig(SourceConfig):
    """scikit-learn's 1,797 handwritten digits. Columns: image (uint8 [8, 8, 1]), label."""

    kind: Literal["digits"] = "digits"


@dataclass(frozen=True)
class DigitGridsConfig(SourceConfig):
    """Grids of scikit-learn's handwritten digits, with what they show in words. Each is drawn from its number.

    Columns: image (uint8 [8 side, 8 side, 1]), caption, question, answer, label (the first digit), boxes (centre and
    size of every digit's cell, between 0 and 1: x, y, width, height), box_labels.
    """

    kind: Literal["digit_grids"] = "digit_grids"
    side: Count = 2  # of the grid, in digits
    count: Count = 2000  # of grids
    digits: Literal["all", "train", "held_out"] = "all"  # which are drawn from: held out is every fifth
    empty: Rate = 0.0  # probability that a cell has no digit
    seed: int = 0


_IdxFile = Annotated[str, given("an IDX file such as 'train-images-idx3-ubyte.gz'")]


@dataclass(frozen=True)
class IdxImagesConfig(SourceConfig):
    """Images and labels in two IDX files, packed or not, as of MNIST. Columns: image (uint8 [28, 28, 1]), label."""

    kind: Literal["idx_images"] = "idx_images"
    images: _IdxFile = ""
    labels: _IdxFile = ""


@dataclass(frozen=True)
class SumsConfig(SourceConfig):
    """Sums of a few numbers. Columns: prompt ("3+4="), answer, chosen (it), rejected (a wrong one), messages."""

    kind: Literal["sums"] = "sums"
    below: Annotated[int, at_least(2)] = 100  # all numbers are
    terms: Annotated[int, at_least(2)] = 2
    careless: Share = 0.0  # share of answers that are one too many
    count: Annotated[int, at_least(2)] | None = None  # of all there are; None: all


@dataclass(frozen=True)
class TFDSConfig(SourceConfig):
    """A TensorFlow dataset that was prepared as array_record; columns are its features, tuples joined by slashes."""

    kind: Literal["tfds"] = "tfds"
    name: Annotated[str, given("the name of a prepared dataset, such as 'imdb_reviews'")] = ""  # or "glue/sst2:2.0.0"
    split: str = "train"  # TFDS's syntax: "train[:10%]", "train+test"
    data_dir: str | None = None  # None: $TFDS_DATA_DIR, else ~/tensorflow_datasets
