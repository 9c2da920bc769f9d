"""Each reader on a small file in the true form of its collection, with sentences of our own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from captioner.training.datasets import (
    Dataset,
    DatasetError,
    combine,
    file_names,
    hold_out,
    more_captions,
    read_dataset,
    uncaptioned_photos,
)

KITE, BREAD, BOAT = "1234567890_0a1b2c3d4e.jpg", "2345678901_1b2c3d4e5f.jpg", "34567_2c3d4e5f60.jpg"

Write = Callable[[dict[str, str | bytes | object]], Path]


@pytest.fixture
def collection(tmp_path: Path) -> Write:
    """Lays a collection out in an empty folder: text as it is, None for a photo, else JSON."""

    def write(files: dict[str, str | bytes | object]) -> Path:
        for name, content in files.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                file.write_bytes(b"")  # readers do not open photos
            elif isinstance(content, bytes):
                file.write_bytes(content)
            else:
                text = content if isinstance(content, str) else json.dumps(content)
                file.write_text(text, encoding="utf-8", newline="")
        return tmp_path

    return write


def contents(dataset: Dataset) -> dict[str, tuple[str, tuple[str, ...]]]:
    assert all(photo.path.is_file() for photo in dataset.photos)
    return {photo.path.name: (photo.split, photo.captions) for photo in dataset.photos}


def test_our_layout(collection: Write) -> None:
    folder = collection(
        {
            "captions.json": {KITE: ["A girl holds a kite .", " Kite ! "], BREAD: ["Bread ."]},
            "split.json": {KITE: "train"},
            f"images/{KITE}": None,
            f"images/{BREAD}": None,
        }
    )
    assert contents(read_dataset(folder)) == {
        KITE: ("train", ("A girl holds a kite .", "Kite !")),
        BREAD: ("unassigned", ("Bread .",)),
    }


def test_our_layout_without_splits_is_for_training(collection: Write) -> None:
    folder = collection({"captions.json": {KITE: ["A kite ."]}, f"images/{KITE}": None})
    assert contents(read_dataset(folder)) == {KITE: ("train", ("A kite .",))}


def test_official_flickr8k(collection: Write) -> None:
    folder = collection(
        {
            "Flickr8k_text/Flickr8k.token.txt": (
                f"{KITE}#0\tA girl in red flies a kite .\n"
                f"{KITE}#1\tA child , a beach , # 1 fun .\n"
                f"{BREAD}#0\tLoaves on a table .\n"
                f"{BOAT}#0\tA boat .\n"
                f"{BOAT}.1#0\tThe true file has such a line, without a photo .\n"
            ),
            "Flickr8k_text/Flickr8k.lemma.token.txt": f"{KITE}#0\ta girl in red fly a kite .\n",
            "Flickr8k_text/Flickr_8k.trainImages.txt": f"{KITE}\n",
            "Flickr8k_text/Flickr_8k.devImages.txt": "",
            "Flickr8k_text/Flickr_8k.testImages.txt": f"{BREAD}\n",
            f"Flicker8k_Dataset/{KITE}": None,  # sic
            f"Flicker8k_Dataset/{BREAD}": None,
            f"Flicker8k_Dataset/{BOAT}": None,
            "__MACOSX/._Flickr8k.token.txt": "what macOS leaves in archives",
        }
    )
    dataset = read_dataset(folder)
    assert contents(dataset) == {
        KITE: ("train", ("A girl in red flies a kite .", "A child , a beach , # 1 fun .")),
        BREAD: ("test", ("Loaves on a table .",)),
        BOAT: ("unassigned", ("A boat .",)),
    }
    assert dataset.missing == 1
    assert str(dataset) == "3 photos (1 train, 1 test, 1 unassigned, 1 without a file)"
    assert [photo.path.name for photo in dataset.of("test")] == [BREAD]
    assert len(dataset.of("all")) == 3


def test_official_flickr30k(collection: Write) -> None:
    folder = collection(
        {
            "results_20130124.token": (
                "1234567890.jpg#0\tTwo men mend a bicycle .\n"
                "1234567890.jpg#1\tA bicycle upside down .\n"
            ),
            "flickr30k-images/1234567890.jpg": None,
        }
    )
    assert contents(read_dataset(folder)) == {
        "1234567890.jpg": ("train", ("Two men mend a bicycle .", "A bicycle upside down ."))
    }


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_kaggle_flickr8k(collection: Write, newline: str) -> None:
    lines = [
        "image,caption",
        f"{KITE},A girl flies a kite .",
        f'{KITE},"A girl , a kite and ""the sea"" ."',
        f"{KITE},A girl , a kite , no quotes .",
        f'{BREAD},"A mark that is never closed .',
        f"{BREAD},The caption after it .",
        "",
    ]
    folder = collection(
        {"captions.txt": newline.join(lines), f"Images/{KITE}": None, f"Images/{BREAD}": None}
    )
    captions = contents(read_dataset(folder))
    assert captions[KITE][1] == (
        "A girl flies a kite .",
        'A girl , a kite and "the sea" .',
        "A girl , a kite , no quotes .",
    )
    assert captions[BREAD][1] == ("A mark that is never closed .", "The caption after it .")
    assert captions[KITE][0] == "train"


def test_kaggle_flickr30k_with_commas(collection: Write) -> None:
    folder = collection(
        {
            "captions.txt": (
                "image_name,comment_number,comment\n"
                "1234567890.jpg,0,Two men mend a bicycle , slowly .\n"
                '1234567890.jpg,1," A bicycle , upside down ."\n'
            ),
            "Images/1234567890.jpg": None,
        }
    )
    assert contents(read_dataset(folder)) == {
        "1234567890.jpg": (
            "train",
            ("Two men mend a bicycle , slowly .", "A bicycle , upside down ."),
        )
    }


def test_kaggle_flickr30k_with_bars(collection: Write) -> None:
    folder = collection(
        {
            "flickr30k_images/results.csv": (
                "image_name| comment_number| comment\n"
                "1234567890.jpg| 0| Two men mend a bicycle , slowly .\n"
                "1234567890.jpg| 4   A bar is lost here , as in the true file .\n"
            ),
            "flickr30k_images/flickr30k_images/1234567890.jpg": None,
        }
    )
    assert contents(read_dataset(folder)) == {
        "1234567890.jpg": (
            "train",
            ("Two men mend a bicycle , slowly .", "A bar is lost here , as in the true file ."),
        )
    }


def coco(photo: int, name: str, *captions: str) -> dict[str, object]:
    return {
        "info": {"year": 2017},
        "licenses": [{"id": 4, "name": "Attribution License"}],
        "images": [{"id": photo, "file_name": name, "height": 480, "width": 640, "license": 4}],
        "annotations": [
            {"image_id": photo, "id": 100 + i, "caption": caption}
            for i, caption in enumerate(captions)
        ],
    }


def test_coco(collection: Write) -> None:
    folder = collection(
        {
            "annotations/captions_train2017.json": coco(
                7, "000000000007.jpg", "A cat on a chair.", "A cat asleep.\n"
            ),
            "annotations/captions_val2017.json": coco(8, "000000000008.jpg", "A red bus."),
            "annotations/instances_val2017.json": {"images": [], "annotations": []},
            "train2017/000000000007.jpg": None,
            "val2017/000000000008.jpg": None,
        }
    )
    both = {
        "000000000007.jpg": ("train", ("A cat on a chair.", "A cat asleep.")),
        "000000000008.jpg": ("dev", ("A red bus.",)),
    }
    assert contents(read_dataset(folder)) == both
    only = read_dataset(folder / "annotations" / "captions_val2017.json")
    assert contents(only) == {"000000000008.jpg": both["000000000008.jpg"]}


def test_karpathy(collection: Write) -> None:
    images = [
        {
            "filename": f"COCO_val2014_00000000000{i}.jpg",
            "filepath": "val2014",
            "cocoid": i,
            "imgid": i,
            "sentids": [i],
            "split": split,
            "sentences": [
                {
                    "raw": f"Photo {i}, a zebra.",
                    "tokens": ["photo", "a", "zebra"],
                    "imgid": i,
                    "sentid": i,
                }
            ],
        }
        for i, split in enumerate(("train", "restval", "val", "test"))
    ]
    photos = {f"val2014/COCO_val2014_00000000000{i}.jpg": None for i in range(4)}
    folder = collection({"dataset_coco.json": {"images": images, "dataset": "coco"}, **photos})
    dataset = read_dataset(folder)
    assert [photo.split for photo in dataset.photos] == ["train", "train", "dev", "test"]
    assert dataset.photos[2].captions == ("Photo 2, a zebra.",)


def test_a_file_may_be_named(collection: Write) -> None:
    folder = collection(
        {
            "captions.txt": f"image,caption\n{KITE},A kite .\n",
            "captions.json": {KITE: ["Another kite ."]},
            f"Images/{KITE}": None,
        }
    )
    with pytest.raises(
        DatasetError, match=r"several collections \(captions\.json, captions\.txt\)"
    ):
        read_dataset(folder)
    assert contents(read_dataset(folder / "captions.txt")) == {KITE: ("train", ("A kite .",))}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"There are no captions in .*; looked for captions\.json \(our layout\); "),
        (
            {"captions.json": "{"},
            r"captions\.json is in no form that is read here \(JSONDecodeError",
        ),
        ({"captions.json": [1]}, r"captions\.json is in no form that is read here"),
        ({"captions.json": {KITE: "A kite ."}}, "are not a list"),
        (
            {"captions.json": {KITE: ["A kite ."]}, "split.json": {KITE: "exam"}},
            '"exam" is not a split; those are train, dev, test',
        ),
        ({"captions.json": {KITE: ["A kite ."]}}, r"lists 1 photos \(for example .*\), but none"),
        ({"captions.txt": "Dear diary,\n"}, 'first line is "Dear diary,", not the names'),
        ({"captions.txt": f"image,caption\n{KITE}\n"}, "line 2 does not have 2 columns"),
        ({"x.token": f"{KITE}#0\tA kite .\n{KITE}\n"}, "line 2 is not a photo, #, a number"),
        ({"x.token": b"\xff\xfe"}, "UnicodeDecodeError"),
        ({"dataset_x.json": {"images": [{"filename": KITE}]}}, "KeyError: 'sentences'"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_sentence(
    collection: Write, files: dict[str, object], message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        read_dataset(collection(dict(files)))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="There is no file or folder"):
        read_dataset(tmp_path / "nowhere")


def test_combined_collections_hold_each_photo_once_and_keep_test_photos_out_of_training(
    tmp_path: Path,
) -> None:
    def make(name: str, splits: dict[str, str]) -> Dataset:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "captions.json").write_text(json.dumps({n: [f"{name} ."] for n in splits}))
        (folder / "split.json").write_text(json.dumps(splits))
        for photo in splits:
            (folder / photo).touch()
        return read_dataset(folder)

    flickr30k = make("flickr30k", {"1234567890.jpg": "train", "777.jpg": "train"})
    flickr8k = make("flickr8k", {KITE: "test", BREAD: "train"})
    coco2014 = make("coco2014", {"COCO_val2014_000000000007.jpg": "dev"})
    coco2017 = make("coco2017", {"000000000007.jpg": "train", "000000000008.jpg": "train"})
    assert contents(combine([flickr30k, flickr8k, coco2017, coco2014])) == {
        KITE: ("test", ("flickr8k .",)),  # not train, as in Flickr30k
        "777.jpg": ("train", ("flickr30k .",)),
        BREAD: ("train", ("flickr8k .",)),
        "COCO_val2014_000000000007.jpg": ("dev", ("coco2014 .",)),
        "000000000008.jpg": ("train", ("coco2017 .",)),
    }


def test_a_share_of_the_training_photos_can_be_held_out(collection: Write) -> None:
    names = [f"{i}.jpg" for i in range(400)]
    folder = collection({"captions.json": {n: ["A photo ."] for n in names}})
    for name in names:
        (folder / name).touch()
    dataset = hold_out(read_dataset(folder), share=0.1)
    held = {photo.path.name for photo in dataset.of("dev")}
    assert 20 <= len(held) <= 60
    assert len(dataset.of("train")) == 400 - len(held)
    (folder / names[0]).unlink()
    again = {photo.path.name for photo in hold_out(read_dataset(folder), share=0.1).of("dev")}
    assert again == held - {names[0]}


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[1]", b'"a.jpg"', b"\xff"])
def test_a_list_of_file_names_is_that_or_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "names.json"
    file.write_text('["a.jpg", "b.jpg", "a.jpg"]')
    assert file_names(file) == {"a.jpg", "b.jpg"}
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DatasetError, match=r"names\.json is no JSON list of file names"):
        file_names(file)


def test_further_captions_join_those_that_are_there(collection: Write, tmp_path: Path) -> None:
    data = read_dataset(collection({"captions.json": {KITE: ["A kite ."]}, KITE: None}))
    file = tmp_path / "more.json"
    file.write_text(json.dumps({KITE: ["A red kite .", "A kite ."], "other.jpg": ["A boat ."]}))
    (photo,) = more_captions(data, [file]).photos
    assert photo.captions == ("A kite .", "A red kite .")
    file.write_text("[]")
    with pytest.raises(DatasetError, match="is no JSON object of captions"):
        more_captions(data, [file])


def test_photos_without_captions_are_those_that_no_collection_names(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "named.jpg", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    photos = uncaptioned_photos([tmp_path], {"named.jpg"})
    assert [(photo.path.name, photo.captions) for photo in photos] == [("a.PNG", ()), ("b.jpg", ())]
    with pytest.raises(DatasetError, match="There is no folder"):
        uncaptioned_photos([tmp_path / "nowhere"], ())


def test_photos_are_left_out_or_made_dev_by_name(collection: Write) -> None:
    data = read_dataset(
        collection(
            {"captions.json": {KITE: ["A kite ."], BOAT: ["A boat ."]}, KITE: None, BOAT: None}
        )
    )
    assert [photo.path.name for photo in data.without({BOAT}).photos] == [KITE]
    splits = {photo.path.name: photo.split for photo in data.as_dev({BOAT}).photos}
    assert splits == {KITE: "train", BOAT: "dev"}
    assert {photo.collection for photo in data.photos} == {data.photos[0].path.parent.name}
