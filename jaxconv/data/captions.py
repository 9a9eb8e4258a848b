"""Captions of images: the files of COCO and Flickr8k, and the vocabulary that turns captions into tokens."""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxconv.data.dataset import DataError
from jaxconv.data.files import StrPath
from jaxconv.data.folder import ImageFolder
from jaxconv.data.images import ENDINGS
from jaxconv.errors import ArgumentError, ShapeError
from jaxconv.geometry import as_int
from jaxconv.tokens import END, PAD, SPECIAL, START, UNKNOWN

_WORD = re.compile(r"\w+(?:['-]\w+)*")
_PARTS = ("train", "dev", "test")


def _words(caption: str) -> list[str]:
    """Returns a caption's words, in lower case and without punctuation."""
    return _WORD.findall(caption.lower())


@dataclass(frozen=True)
class Vocabulary:
    """The words that captions are made of, and their tokens; `vocabulary` collects one from captions.

    Tokens 0 to 3 are padding, the start, the end and an unknown word; the token of ``words[i]`` is i + 4. A caption's
    words are those of its text in lower case, without punctuation.

    Args:
      words: the words, each once.

    Raises:
      DataError: a word is there twice, or is not one word in lower case.

    >>> words = Vocabulary(("a", "red", "circle"))
    >>> tokens = words.encode(["A red circle.", "a circle"])
    >>> tokens
    array([[4, 5, 6, 2],
           [4, 6, 2, 0]], dtype=int32)
    >>> words.decode(tokens)
    ['a red circle', 'a circle']
    >>> words.encode(["a blue circle"], unknown="token")
    array([[4, 3, 6, 2]], dtype=int32)
    """

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", tuple(self.words))
        twice = [word for word, count in Counter(self.words).items() if count > 1]
        wrong = twice or [word for word in self.words if _words(word) != [word]]
        if wrong:
            raise DataError(f"words must be words in lower case, each once, got {wrong[0]!r}{' twice' * bool(twice)}")

    def __len__(self) -> int:
        """Returns the number of tokens, the special ones included."""
        return len(SPECIAL) + len(self.words)

    def encode(self, captions: Sequence[str], *, length: int | None = None, unknown: str = "raise") -> np.ndarray:
        """Returns the tokens of captions, ``(N, length)`` int32: words, the end, padding.

        Args:
          captions: N texts.
          length: the number of tokens, the end included; longer captions are cut, and have no end. None is the length
            of the longest caption.
          unknown: what happens to a word that is not in the vocabulary. "raise": a DataError names it. "token": its
            token is that of an unknown word, ``<unk>``.

        Raises:
          ArgumentError: an argument is not valid.
          DataError: a caption has no word, or an unknown one.
        """
        if unknown not in ("raise", "token"):
            raise ArgumentError(f'unknown must be "raise" or "token", got {unknown!r}')
        if isinstance(captions, str):
            raise ArgumentError(f"captions must be texts, got the text {captions!r}: write [{captions!r}]")
        tokens = {word: i for i, word in enumerate(self.words, len(SPECIAL))}
        rows = []
        for i, caption in enumerate(captions):
            words = _words(caption)
            if not words:
                raise DataError(f"captions[{i}] must have at least one word, got {caption!r}")
            if unknown == "raise" and (odd := [word for word in words if word not in tokens]):
                raise DataError(
                    f"captions[{i}] must have words of the vocabulary only, got {odd[0]!r} in {caption!r}: "
                    'unknown="token" makes it <unk>'
                )
            rows.append([*(tokens.get(word, UNKNOWN) for word in words), END])
        length = max(map(len, rows), default=1) if length is None else as_int(length, "length", least=1)
        found = np.full((len(rows), length), PAD, np.int32)
        for row, encoded in zip(found, rows, strict=True):
            row[: len(encoded)] = encoded[:length]
        return found

    def decode(self, tokens: Any) -> list[str]:
        """Returns the captions of tokens ``(N, length)``, each up to its end, without padding and start.

        Raises:
          ShapeError: tokens are not ``(N, length)`` integers.
          DataError: a token is out of range.
        """
        rows = np.asarray(tokens)
        if rows.ndim != 2 or not np.issubdtype(rows.dtype, np.integer):
            raise ShapeError(f"tokens must be integers (N, length), got shape {rows.shape} {rows.dtype}")
        if rows.size and not 0 <= rows.min() <= rows.max() < len(self):
            raise DataError(f"tokens must be from 0 to {len(self) - 1}, got {rows.min()} to {rows.max()}")
        names = (*SPECIAL, *self.words)
        found = []
        for row in rows.tolist():
            row = row[: row.index(END)] if END in row else row
            found.append(" ".join(names[token] for token in row if token not in (PAD, START)))
        return found


def vocabulary(captions: Iterable[str], *, least: int = 1) -> Vocabulary:
    """Returns the vocabulary of captions: the most frequent word first, equally frequent words in alphabetical order.

    Args:
      captions: texts.
      least: how often a word must occur. `Vocabulary.encode` of a rarer word needs ``unknown="token"``.

    Raises:
      ArgumentError: ``captions`` is one text.
      DataError: no word occurs that often.

    >>> vocabulary(["A dog.", "a dog runs", "a cat"], least=2).words
    ('a', 'dog')
    """
    if isinstance(captions, str):
        raise ArgumentError(f"captions must be texts, got the text {captions!r}: write [{captions!r}]")
    counts = Counter(word for caption in captions for word in _words(caption))
    words = sorted((word for word, count in counts.items() if count >= least), key=lambda w: (-counts[w], w))
    if not words:
        raise DataError(f"captions must have words that occur at least {least} times, got none")
    return Vocabulary(tuple(words))


@dataclass(frozen=True, eq=False, repr=False)
class Captions:
    """Images in files with their captions, as `coco_captions` and `flickr8k` return them.

    Args:
      root: the folder of the images.
      names: the path of each image relative to ``root``.
      texts: the captions of each image, at least one.

    >>> data = Captions("photos", ["1.jpg", "2.jpg"], [("a dog", "a brown dog"), ("a cat",)])
    >>> data
    Captions('photos': 2 images, 3 captions)
    >>> len(data.examples(vocabulary(data.all())))
    3
    """

    root: str
    names: Sequence[str]
    texts: Sequence[tuple[str, ...]]

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.names)

    def __repr__(self) -> str:
        return f"Captions({self.root!r}: {len(self)} images, {sum(map(len, self.texts))} captions)"

    def all(self) -> list[str]:
        """Returns the captions of all images, for `vocabulary`."""
        return [text for texts in self.texts for text in texts]

    def take(self, indices: Any) -> "Captions":
        """Returns some of the images, by their indices."""
        return Captions(self.root, [self.names[i] for i in indices], [self.texts[i] for i in indices])

    def examples(self, words: Vocabulary, *, length: int | None = None, unknown: str = "raise") -> ImageFolder:
        """Returns an `ImageFolder` for `batches`, with an example for each caption: its image and its tokens.

        Args:
          words, length, unknown: as in `Vocabulary.encode`.
        """
        names = [name for name, texts in zip(self.names, self.texts, strict=True) for _ in texts]
        return ImageFolder(self.root, names, words.encode(self.all(), length=length, unknown=unknown))


def _captions(root: Path, texts: dict[str, list[str]], source: Path) -> Captions:
    """Returns the captions of images by name, or raises DataError for one whose file does not exist."""
    if not texts:
        raise DataError(f"{source} must have captions, got none")
    for name in texts:
        if not (root / name).is_file():
            raise DataError(f"{source} has captions of {name}, but {root / name} does not exist")
    return Captions(str(root), list(texts), [tuple(found) for found in texts.values()])


def coco_captions(path: StrPath, images: StrPath) -> Captions:
    """Returns the images of COCO with their captions (Chen et al., 2015). No image is read.

    Args:
      path: the file of captions, such as ``annotations/captions_val2017.json``.
      images: the folder of the images, such as ``val2017``.

    Raises:
      DataError: the file is not JSON, is truncated, or is another of COCO's files; a caption is of an unknown image; an
        image does not exist.
      OSError: the file does not exist.

    >>> coco_captions("annotations/captions_val2017.json", "val2017")   # doctest: +SKIP
    Captions('val2017': 5000 images, 25014 captions)
    """
    path, root = Path(path).expanduser(), Path(images).expanduser()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} must be JSON: {error}") from error
    try:
        names = {image["id"]: image["file_name"] for image in content["images"]}
        rows = [(row["image_id"], row["caption"]) for row in content["annotations"]]
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{path} must be COCO's file of captions, with images (id, file_name) and annotations (image_id, caption): "
            f"got no {error}"
        ) from error
    texts: dict[str, list[str]] = {}
    for image, caption in rows:
        if image not in names:
            raise DataError(f"{path} must have an image for each caption, got image_id {image} of {caption!r}")
        texts.setdefault(names[image], []).append(str(caption).strip())
    return _captions(root, texts, path)


def flickr8k(path: StrPath, part: str | None = None) -> Captions:
    """Returns the images of Flickr8k with their five captions (Hodosh et al., 2013). No image is read.

    Reads the files of the authors, ``Flickr8k.token.txt`` with images in ``Flicker8k_Dataset``, or of Kaggle,
    ``captions.txt`` with images in ``Images``. The authors' files are in ``path`` or in folders named for the archives,
    ``Flickr8k_text`` and ``Flickr8k_Dataset``.

    Args:
      path: the folder of these files.
      part: "train", "dev" or "test", for which the authors' lists such as ``Flickr_8k.trainImages.txt`` must be there.
        None is all images.

    Raises:
      ArgumentError: an unknown part.
      DataError: a file or an image does not exist, a line is not a caption, or an image of the part has no caption.

    >>> flickr8k("flickr8k", "test")   # doctest: +SKIP
    Captions('flickr8k/Flicker8k_Dataset': 1000 images, 5000 captions)
    """
    if part not in (None, *_PARTS):
        raise ArgumentError(f"part must be one of {', '.join(_PARTS)}, or None, got {part!r}")
    folder = Path(path).expanduser()
    source = _first(folder, "Flickr8k.token.txt", "Flickr8k_text/Flickr8k.token.txt", "captions.txt")
    datasets = "Flicker8k_Dataset", "Flickr8k_Dataset/Flicker8k_Dataset", "Flickr8k_Dataset", "Images"
    root = _first(folder, *datasets)
    try:
        with open(source, newline="", encoding="utf-8-sig") as file:
            lines = list(csv.reader(file) if source.name == "captions.txt" else (line.split("\t") for line in file))
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{source} must be text in UTF-8: {error}") from error
    texts: dict[str, list[str]] = {}
    for number, line in enumerate(lines, 1):
        if not "".join(line).strip() or line == ["image", "caption"]:
            continue
        name, *rest = line
        name, caption = name.split("#")[0].strip(), ",".join(rest).strip()
        if not name or not caption:
            got = ",".join(line).strip()
            raise DataError(f"{source}, line {number}: must have an image and its caption, got {got!r}")
        # The authors' file has the captions of a file "2258277193_586949ec62.jpg.1", which is not among the images.
        if Path(name).suffix.lower() in ENDINGS:
            texts.setdefault(name, []).append(caption)
    if part is not None:
        list_name = f"Flickr_8k.{part}Images.txt"
        listed = _first(folder, list_name, f"Flickr8k_text/{list_name}")
        names = listed.read_text(encoding="utf-8").split()
        if missing := [name for name in names if name not in texts]:
            raise DataError(f"{source} must have captions of all images in {listed}, got none of {missing[0]}")
        texts = {name: texts[name] for name in names}
    return _captions(root, texts, source)


def _first(folder: Path, *names: str) -> Path:
    """Returns the first of these files or folders that exists."""
    found = next((folder / name for name in names if (folder / name).exists()), None)
    if found is None:
        raise DataError(f"{folder} must have {' or '.join(names)}, got none of them")
    return found
