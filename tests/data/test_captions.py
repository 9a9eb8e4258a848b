"""Vocabularies, and caption files of COCO and Flickr8k that the tests write."""

import json

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

import jaxconv as jc
from jaxconv.data import DataError, Vocabulary, coco_captions, flickr8k, vocabulary

WORDS = Vocabulary(("a", "dog", "runs", "cat"))


def picture(path, color=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 8, 3), color, np.uint8)).save(path)


# --- Vocabulary -------------------------------------------------------------------------------------------------------


def test_words_are_counted_in_lower_case_without_punctuation():
    found = vocabulary(["A man's dog, a T-shirt!", "The dog -- runs.", "a ...dog"])
    assert found.words == ("a", "dog", "man's", "runs", "t-shirt", "the")
    assert len(found) == 10


def test_tokens_and_back():
    tokens = WORDS.encode(["A dog runs.", "a cat"], length=5)
    assert tokens.dtype == np.int32
    assert_array_equal(tokens, [[4, 5, 6, 2, 0], [4, 7, 2, 0, 0]])
    assert WORDS.decode(tokens) == ["a dog runs", "a cat"]
    assert_array_equal(WORDS.encode(["a dog runs"], length=2), [[4, 5]])
    assert WORDS.decode(np.array([[1, 4, 3, 0]])) == ["a <unk>"]
    assert WORDS.encode([]).shape == (0, 1)


def test_an_unknown_word_is_an_error_or_a_token_as_the_caller_says():
    with pytest.raises(DataError, match=r"captions\[1\] must have words of the vocabulary .* got 'zebra' in 'A zebra'"):
        WORDS.encode(["a dog", "A zebra"])
    assert_array_equal(WORDS.encode(["A zebra"], unknown="token"), [[4, 3, 2]])


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: WORDS.encode(["a"], unknown="skip"), 'unknown must be "raise" or "token"'),
        (lambda: WORDS.encode("a dog"), "captions must be texts, got the text 'a dog'"),
        (lambda: WORDS.encode(["..."]), r"captions\[0\] must have at least one word, got '\.\.\.'"),
        (lambda: WORDS.encode(["a"], length=0), "length must be"),
        (lambda: WORDS.decode([[99]]), "tokens must be from 0 to 7, got 99"),
        (lambda: WORDS.decode([4]), r"tokens must be integers \(N, length\)"),
        (lambda: vocabulary("a dog"), "captions must be texts"),
        (lambda: vocabulary(["a"], least=2), "at least 2 times, got none"),
        (lambda: Vocabulary(("a", "a")), "each once, got 'a' twice"),
        (lambda: Vocabulary(("A dog",)), "got 'A dog'"),
    ],
)
def test_what_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()


# --- COCO -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def coco(tmp_path):
    """A caption file of COCO's layout, two images, and the content to change."""
    for i, name in enumerate(("000000000139.jpg", "000000000285.jpg")):
        picture(tmp_path / "val2017" / name, i)
    content = {
        "info": {"year": 2017},
        "licenses": [],
        "images": [
            {"license": 2, "file_name": "000000000139.jpg", "height": 6, "width": 8, "id": 139},
            {"license": 4, "file_name": "000000000285.jpg", "height": 6, "width": 8, "id": 285},
        ],
        "annotations": [
            {"image_id": 285, "id": 77, "caption": "A big bear."},
            {"image_id": 139, "id": 78, "caption": "A woman in a room. "},
            {"image_id": 139, "id": 79, "caption": "A room with chairs"},
        ],
    }

    def write(change=lambda content: None):
        change(content)
        path = tmp_path / "captions_val2017.json"
        path.write_text(json.dumps(content))
        return path, tmp_path / "val2017"

    return write


def test_coco(coco):
    data = coco_captions(*coco())
    assert len(data) == 2
    found = dict(zip(data.names, data.texts, strict=True))
    assert found["000000000139.jpg"] == ("A woman in a room.", "A room with chairs")
    assert found["000000000285.jpg"] == ("A big bear.",)
    assert str(data).endswith("val2017': 2 images, 3 captions)")
    assert data.take([1]).all() == ["A woman in a room.", "A room with chairs"]


def test_examples_are_batches_of_images_and_tokens(coco):
    data = coco_captions(*coco())
    words = vocabulary(data.all(), least=2)
    assert words.words == ("a", "room")
    examples = data.examples(words, length=6, unknown="token")
    [(images, tokens)] = jc.data.batches(examples, 4)
    assert images.shape == (3, 6, 8, 3)
    assert_array_equal(images[:, 0, 0, 0], [1, 0, 0])
    assert_array_equal(tokens, [[4, 3, 3, 2, 0, 0], [4, 3, 3, 4, 5, 2], [4, 5, 3, 3, 2, 0]])
    assert words.decode(tokens)[0] == "a <unk> <unk>"
    with pytest.raises(DataError, match="got 'big' in 'A big bear"):
        data.examples(words)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: c["annotations"][0].pop("caption"), r"must be COCO's file of captions.*got no 'caption'"),
        (lambda c: c.pop("annotations"), "got no 'annotations'"),
        (lambda c: c["annotations"][0].update(image_id=5), "image_id 5 of 'A big bear.'"),
        (
            lambda c: c["images"][0].update(file_name="139.jpg"),
            "has captions of 139.jpg, but .*139.jpg does not",
        ),
        (lambda c: c["annotations"].clear(), "must have captions, got none"),
    ],
)
def test_coco_files_that_are_refused(coco, change, match):
    with pytest.raises(DataError, match=match):
        coco_captions(*coco(change))


def test_a_coco_file_cut_short_is_refused(coco):
    path, images = coco()
    path.write_text(path.read_text()[:-20])
    with pytest.raises(DataError, match=r"captions_val2017.json must be JSON"):
        coco_captions(path, images)
    with pytest.raises(FileNotFoundError):
        coco_captions(path.with_name("other.json"), images)


# --- Flickr8k ---------------------------------------------------------------------------------------------------------

LINES = """1000268201_693b08cb0e.jpg#0\tA child in a pink dress , climbing .
1000268201_693b08cb0e.jpg#1\tA girl going into a wooden building .
2258277193_586949ec62.jpg.1#0\tA runner .
1001773457_577c3a7d70.jpg#0\tA black dog and a spotted dog are fighting
"""
NAMES = ("1000268201_693b08cb0e.jpg", "1001773457_577c3a7d70.jpg")


@pytest.fixture(params=["beside", "in folders of the archives"])
def flickr(request, tmp_path):
    text, images = ("Flickr8k_text", "Flickr8k_Dataset") if "folders" in request.param else ("", "")
    (tmp_path / text).mkdir(exist_ok=True)
    (tmp_path / text / "Flickr8k.token.txt").write_text(LINES)
    (tmp_path / text / "Flickr_8k.testImages.txt").write_text(f"{NAMES[1]}\n")
    for name in NAMES:
        picture(tmp_path / images / "Flicker8k_Dataset" / name)
    return tmp_path


def test_flickr8k_of_the_authors(flickr):
    data = flickr8k(flickr)
    assert data.names == list(NAMES)
    assert data.texts[0] == ("A child in a pink dress , climbing .", "A girl going into a wooden building .")
    assert flickr8k(flickr, "test").texts == [("A black dog and a spotted dog are fighting",)]
    assert data.examples(vocabulary(data.all())).load(0)[0].shape == (6, 8, 3)


def test_flickr8k_of_kaggle(tmp_path):
    rows = f'image,caption\n{NAMES[0]},"A child , climbing ."\n{NAMES[0]},A girl\n{NAMES[1]},A black dog\n'
    (tmp_path / "captions.txt").write_text(rows)
    for name in NAMES:
        picture(tmp_path / "Images" / name)
    data = flickr8k(tmp_path)
    assert data.texts == [("A child , climbing .", "A girl"), ("A black dog",)]
    with pytest.raises(DataError, match=r"must have Flickr_8k.trainImages.txt or"):
        flickr8k(tmp_path, "train")


@pytest.mark.parametrize("line", ["no tab here", "1.jpg#0\t ", "\ta caption"])
def test_a_line_that_is_no_caption_is_named(flickr, line):
    path = next(flickr.rglob("Flickr8k.token.txt"))
    path.write_text(LINES + line + "\n")
    with pytest.raises(DataError, match=r"token.txt, line 5: must have an image and its caption, got"):
        flickr8k(flickr)


def test_flickr8k_that_is_not_whole_is_refused(flickr, tmp_path):
    with pytest.raises(jc.ArgumentError, match="part must be one of train, dev, test, or None, got 'val'"):
        flickr8k(flickr, "val")
    next(flickr.rglob("*testImages.txt")).write_text("7.jpg\n")
    with pytest.raises(DataError, match=r"must have captions of all images in .*testImages.txt, got none of 7.jpg"):
        flickr8k(flickr, "test")
    next(flickr.rglob(NAMES[0])).unlink()
    with pytest.raises(DataError, match=f"has captions of {NAMES[0]}, but .* does not exist"):
        flickr8k(flickr)
    with pytest.raises(DataError, match=r"must have Flickr8k.token.txt or .*, got none of them"):
        flickr8k(tmp_path / "nowhere")
