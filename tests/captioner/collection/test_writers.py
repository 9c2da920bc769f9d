"""Captions beside photos and in them, read again by exiftool and exiv2, which people use."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captioner.collection import writers
from captioner.collection.embedded import words_in
from captioner.collection.writers import Embedded, TextFile, Words, WriteError, XmpSidecar
from captioner.collection.xmp import Xmp, XmpError

WORDS = Words("A dog's café & <bar>.", "A dog.", "tiny")
TOOL = "captioner (tiny)"

needs_programs = [
    pytest.mark.metadata,
    pytest.mark.skipif(
        not (shutil.which("exiftool") and shutil.which("exiv2")),
        reason="exiftool or exiv2 is not installed",
    ),
]

# As darktable 4 writes it beside a raw file.
DARKTABLE = """<?xml version="1.0" encoding="UTF-8"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:exif="http://ns.adobe.com/exif/1.0/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:darktable="http://darktable.sf.net/"
    xmlns:dc="http://purl.org/dc/elements/1.1/"
    exif:DateTimeOriginal="2026:05:01 10:00:00"
    xmp:Rating="4"
    xmp:CreatorTool="darktable 4.2.1"
    darktable:xmp_version="5"
    darktable:history_end="2">
   <dc:subject><rdf:Bag><rdf:li>beach</rdf:li></rdf:Bag></dc:subject>
   <dc:description><rdf:Alt><rdf:li xml:lang="de">Ein Hund.</rdf:li></rdf:Alt></dc:description>
   <darktable:history>
    <rdf:Seq>
     <rdf:li darktable:num="0" darktable:operation="exposure" darktable:params="00ff"/>
    </rdf:Seq>
   </darktable:history>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
"""


def read(file: Path) -> dict[str, Any]:
    """What exiftool finds, by group and name."""
    command = ["exiftool", "-j", "-G1", "-charset", "iptc=UTF8", str(file)]
    done = subprocess.run(command, capture_output=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)[0]
    return found


def exiv2(file: Path) -> str:
    command = ["exiv2", "-pa", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout


def photo(path: Path, **options: Any) -> Path:
    """A noisy photo, whose pixels any new compression would change."""
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    Image.fromarray(noise).save(path, **options)
    return path


def tree(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


class TestSidecar:
    def test_a_new_one(self, tmp_path: Path) -> None:
        picture = photo(tmp_path / "a.jpg")
        XmpSidecar().write(picture, WORDS, "skip")
        assert tree(tmp_path) == ["a.jpg", "a.jpg.xmp"]
        xmp = Xmp((tmp_path / "a.jpg.xmp").read_bytes())
        assert xmp.words("dc:description") == WORDS.caption
        assert xmp.words("Iptc4xmpCore:AltTextAccessibility") == WORDS.alt_text
        assert xmp.words("xmp:CreatorTool") == TOOL
        assert XmpSidecar().existing(picture) == "dc:description in a.jpg.xmp"

    @pytest.mark.parametrize("mark", [pytest.param(0, marks=needs_programs)])
    def test_programs_read_it(self, tmp_path: Path, mark: int) -> None:
        picture = photo(tmp_path / "a.jpg")
        XmpSidecar().write(picture, WORDS, "skip")
        found = read(tmp_path / "a.jpg.xmp")
        assert found["XMP-dc:Description"] == WORDS.caption
        assert found["XMP-iptcCore:AltTextAccessibility"] == WORDS.alt_text
        assert found["XMP-xmp:CreatorTool"] == found["XMP-photoshop:CaptionWriter"] == TOOL
        assert 'lang="x-default" A dog\'s café & <bar>.' in exiv2(tmp_path / "a.jpg.xmp")

    @pytest.mark.parametrize("mark", [pytest.param(0, marks=needs_programs)])
    def test_everything_else_in_a_sidecar_stays(self, tmp_path: Path, mark: int) -> None:
        """The one of another program is found under either name, and keeps its program's name."""
        picture, sidecar = photo(tmp_path / "a.jpg"), tmp_path / "a.xmp"
        sidecar.write_text(DARKTABLE, encoding="utf-8")
        sidecar.chmod(0o640)
        before = read(sidecar)
        XmpSidecar().write(picture, WORDS, "replace")
        assert tree(tmp_path) == ["a.jpg", "a.xmp"]
        after = read(sidecar)
        added = {
            "XMP-dc:Description": WORDS.caption,
            "XMP-iptcCore:AltTextAccessibility": WORDS.alt_text,
            "XMP-photoshop:CaptionWriter": TOOL,
        }
        changing = {k for k in before if k.startswith(("System:", "ExifTool:"))}
        kept = {k: v for k, v in before.items() if k not in changing}
        assert {k: after.get(k) for k in kept} == kept
        assert {k: after[k] for k in added} == added
        assert after["XMP-dc:Description-de"] == "Ein Hund."
        assert sidecar.stat().st_mode & 0o777 == 0o640

    def test_append_keeps_what_is_there(self, tmp_path: Path) -> None:
        picture = photo(tmp_path / "a.jpg")
        for words in (WORDS, WORDS._replace(caption="Two cats."), WORDS):
            XmpSidecar().write(picture, words, "append")
        xmp = Xmp((tmp_path / "a.jpg.xmp").read_bytes())
        assert xmp.words("dc:description") == f"{WORDS.caption}\nTwo cats.\n{WORDS.caption}"

    @pytest.mark.parametrize("content", [b"", b"<a/>", b"no XML", b"<x:xmpmeta"])
    def test_a_damaged_one_is_left_alone(self, tmp_path: Path, content: bytes) -> None:
        picture, sidecar = photo(tmp_path / "a.jpg"), tmp_path / "a.jpg.xmp"
        sidecar.write_bytes(content or b" ")
        with pytest.raises(WriteError, match=r"is damaged: it is no XMP .* left as it is"):
            XmpSidecar().write(picture, WORDS, "replace")
        assert sidecar.read_bytes() == (content or b" ")
        assert tree(tmp_path) == ["a.jpg", "a.jpg.xmp"]

    def test_no_entity_is_followed(self, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_text("the password")
        attack = DARKTABLE.replace(
            "<x:xmpmeta", f'<!DOCTYPE x [<!ENTITY e SYSTEM "file://{secret}">]><x:xmpmeta', 1
        ).replace("Ein Hund.", "&e;")
        with contextlib.suppress(XmpError):
            assert "password" not in Xmp(attack.encode()).to_bytes().decode()

    def test_a_kill_leaves_the_old_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        picture, sidecar = photo(tmp_path / "a.jpg"), tmp_path / "a.jpg.xmp"
        sidecar.write_text(DARKTABLE, encoding="utf-8")

        def killed(descriptor: int) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "fsync", killed)
        with pytest.raises(KeyboardInterrupt):
            XmpSidecar().write(picture, WORDS, "replace")
        assert sidecar.read_text(encoding="utf-8") == DARKTABLE
        assert tree(tmp_path) == ["a.jpg", "a.jpg.xmp"]

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        with pytest.raises(WriteError, match=r"a\.jpg\.xmp cannot be written \(No such file"):
            XmpSidecar().write(tmp_path / "gone" / "a.jpg", WORDS, "skip")

    @pytest.mark.parametrize("name", ["x" * 240 + ".jpg", "\U0001f600" * 60 + ".jpg"])
    def test_a_long_name(self, tmp_path: Path, name: str) -> None:
        picture = photo(tmp_path / name)
        XmpSidecar().write(picture, WORDS, "skip")
        assert tree(tmp_path) == [name, f"{name}.xmp"]

    def test_a_name_that_is_too_long_for_a_sidecar(self, tmp_path: Path) -> None:
        picture = photo(tmp_path / ("x" * 251 + ".jpg"))
        assert XmpSidecar().existing(picture) == ""
        with pytest.raises(WriteError, match=r"cannot be written \(File name too long"):
            XmpSidecar().write(picture, WORDS, "skip")


FIELDS = {
    "EXIF ImageDescription": "-EXIF:ImageDescription=Our dog",
    "EXIF XPComment": "-EXIF:XPComment=Our dog",
    "EXIF UserComment": "-EXIF:UserComment=Our dog",
    "IPTC Caption-Abstract": "-IPTC:Caption-Abstract=Our dog",
    "XMP dc:description": "-XMP-dc:Description=Our dog",
    "XMP Iptc4xmpCore:AltTextAccessibility": "-XMP-iptcCore:AltTextAccessibility=Our dog",
    "XMP Iptc4xmpCore:ExtDescrAccessibility": "-XMP-iptcCore:ExtDescrAccessibility=Our dog",
    "XMP exif:UserComment": "-XMP-exif:UserComment=Our dog",
    "comment": "-Comment=Our dog",
}


@pytest.mark.parametrize("field", [pytest.param(f, marks=needs_programs) for f in FIELDS])
def test_a_persons_words_are_found_in_every_field(tmp_path: Path, field: str) -> None:
    picture = photo(tmp_path / "a.jpg")
    subprocess.run(["exiftool", "-q", FIELDS[field], str(picture)], check=True)
    assert words_in(picture) == (field, "Our dog")
    assert XmpSidecar().existing(picture) == f"{field} in the picture"


@pytest.mark.parametrize("field", [pytest.param(f, marks=needs_programs) for f in FIELDS])
def test_words_of_other_languages_are_read_as_they_are(tmp_path: Path, field: str) -> None:
    picture = photo(tmp_path / "a.jpg")
    argument = FIELDS[field].replace("Our dog", "Café \u72ac")
    subprocess.run(
        ["exiftool", "-q", "-codedcharacterset=utf8", argument, str(picture)], check=True
    )
    assert words_in(picture) == (field, "Café \u72ac")


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif", "a.avif"])
@pytest.mark.parametrize("mark", [pytest.param(0, marks=needs_programs)])
def test_they_are_found_in_other_kinds(tmp_path: Path, name: str, mark: int) -> None:
    picture = photo(tmp_path / name)
    assert words_in(picture) is None
    subprocess.run(["exiftool", "-q", "-XMP-dc:Description=Our dog", str(picture)], check=True)
    assert words_in(picture) == ("XMP dc:description", "Our dog")


@pytest.mark.parametrize(
    "text", ["OLYMPUS DIGITAL CAMERA", "SONY DSC", "Screenshot", "   ", "DCIM100", "\0\0\0"]
)
def test_what_cameras_write_are_no_words(tmp_path: Path, text: str) -> None:
    exif = Image.Exif()
    exif[0x010E] = text
    assert words_in(photo(tmp_path / "a.jpg", exif=exif)) is None


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff", b"II*\0\xff\xff\xff\xff", b"no picture"])
def test_a_broken_file_has_no_words(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    assert words_in(tmp_path / "a.jpg") is None


KINDS = ["a.jpg", "a.png", "a.webp", "a.tif", "a.avif"]


@pytest.mark.parametrize("name", [pytest.param(kind, marks=needs_programs) for kind in KINDS])
def test_embedding_touches_no_pixel(tmp_path: Path, name: str) -> None:
    picture = photo(tmp_path / name)
    os.utime(picture, (1_000_000_000, 1_000_000_000))
    pixels = np.asarray(Image.open(picture)).copy()
    writer = Embedded()
    try:
        assert writer.existing(picture) == ""
        writer.write(picture, WORDS, "skip")
        assert writer.existing(picture).endswith("in the picture")
    finally:
        writer.close()
    assert tree(tmp_path) == [name]
    found = read(picture)
    assert found["XMP-dc:Description"] == WORDS.caption
    assert found["IFD0:ImageDescription"] == WORDS.caption
    assert found["XMP-iptcCore:AltTextAccessibility"] == WORDS.alt_text
    assert found["XMP-xmp:CreatorTool"] == TOOL
    if name in ("a.jpg", "a.tif"):
        assert found["IPTC:Caption-Abstract"] == WORDS.caption
    if name != "a.avif":  # exiv2 0.27 of Debian 12 reads none
        assert "A dog's café & <bar>." in exiv2(picture)
    np.testing.assert_array_equal(np.asarray(Image.open(picture)), pixels)
    assert picture.stat().st_mtime == 1_000_000_000


class TestEmbed:
    pytestmark = needs_programs

    @pytest.fixture
    def writer(self) -> Any:
        writer = Embedded()
        yield writer
        writer.close()

    def test_the_entropy_coded_bytes_of_a_jpeg_stay(self, tmp_path: Path, writer: Embedded) -> None:
        picture = photo(tmp_path / "a.jpg")
        scan = picture.read_bytes().split(b"\xff\xda", 1)[1]
        writer.write(picture, WORDS, "skip")
        assert picture.read_bytes().split(b"\xff\xda", 1)[1] == scan

    def test_names_that_break_lines(self, tmp_path: Path, writer: Embedded) -> None:
        picture = photo(tmp_path / "-\\n two\nlines # é.jpg", format="JPEG")
        writer.write(picture, WORDS._replace(caption="One.\nTwo \\n."), "skip")
        assert words_in(picture) == ("EXIF ImageDescription", "One.\nTwo \\n.")
        assert len(tree(tmp_path)) == 1

    @pytest.mark.parametrize(
        "text",
        [
            "$a @b %d %f ${c} @{d} $$ %%", "\\n \\ \\\\ \\$ \\@", "'one' \"two\" `three`",
            "-Artist=x",
            "#[CSTR]a", "# a", "@", "$", " - ", "  a  b  ", "two\nlines\r\nand\rmore\n",
            "&amp; &lt;b> &#10; &",
            "a=b<=c+=d", "a;b|c>d", "é 犬 \U0001f600 \u202e \u2028 \x85 \xa0",
            "<x:xmpmeta>", "{0} [1]",
        ],
    )  # fmt: skip
    def test_every_text_is_written_as_it_is_under_every_name(
        self, tmp_path: Path, writer: Embedded, text: str
    ) -> None:
        folder = tmp_path / text.replace("/", "")
        folder.mkdir()
        picture = photo(folder / f"{text}.jpg", format="JPEG")
        writer.write(picture, WORDS._replace(caption=text), "skip")
        shutil.move(picture, tmp_path / "a.jpg")
        assert tree(folder) == []
        command = ["exiftool", "-j", "-b", "-G1", "-charset", "iptc=UTF8", str(tmp_path / "a.jpg")]
        found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)[0]
        for field in ("XMP-dc:Description", "IFD0:ImageDescription", "IPTC:Caption-Abstract"):
            assert found[field] == text

    @pytest.mark.parametrize(
        "name", [b"bad \xff\xfe.jpg", b"\xe9\xa9" * 60 + b".jpg", b"x" * 251 + b".jpg"]
    )
    def test_names_that_are_long_or_no_text(
        self, tmp_path: Path, writer: Embedded, name: bytes
    ) -> None:
        photo(tmp_path / "a.jpg").rename(tmp_path / os.fsdecode(name))
        picture = tmp_path / os.fsdecode(name)
        writer.write(picture, WORDS, "skip")
        assert words_in(picture) == ("EXIF ImageDescription", WORDS.caption)
        picture.write_bytes(b"no picture")
        with pytest.raises(WriteError, match="cannot be written by ExifTool"):
            writer.write(picture, WORDS, "skip")
        assert [os.fsencode(entry) for entry in os.listdir(tmp_path)] == [name]

    def test_other_metadata_stays(self, tmp_path: Path, writer: Embedded) -> None:
        picture = photo(tmp_path / "a.jpg")
        arguments = ["-XMP-xmp:CreatorTool=Lightroom", "-IPTC:Keywords=beach", "-EXIF:Artist=Ann"]
        subprocess.run(["exiftool", "-q", *arguments, str(picture)], check=True)
        writer.write(picture, WORDS, "skip")
        found = read(picture)
        assert found["XMP-xmp:CreatorTool"] == "Lightroom"
        assert (found["IPTC:Keywords"], found["IFD0:Artist"]) == ("beach", "Ann")

    def test_a_link_stays_a_link(self, tmp_path: Path, writer: Embedded) -> None:
        picture, link = photo(tmp_path / "a.jpg"), tmp_path / "link.jpg"
        link.symlink_to(picture)
        writer.write(link, WORDS, "skip")
        assert link.is_symlink()
        assert words_in(picture) is not None

    def test_append(self, tmp_path: Path, writer: Embedded) -> None:
        picture = photo(tmp_path / "a.jpg")
        subprocess.run(["exiftool", "-q", FIELDS["EXIF UserComment"], str(picture)], check=True)
        writer.write(picture, WORDS, "append")
        found = read(picture)
        assert found["XMP-dc:Description"] == f"Our dog\n{WORDS.caption}"
        assert found["ExifIFD:UserComment"] == "Our dog"

    @pytest.mark.parametrize("name", ["a.nef", "a.cr2", "a.bmp"])
    def test_raw_files_are_not_touched(self, tmp_path: Path, writer: Embedded, name: str) -> None:
        (tmp_path / name).write_bytes(b"II*\0")
        with pytest.raises(WriteError, match=r"stays as it is.*--write xmp"):
            writer.write(tmp_path / name, WORDS, "skip")
        assert (tmp_path / name).read_bytes() == b"II*\0"

    def test_a_broken_picture_stays_as_it_is(self, tmp_path: Path, writer: Embedded) -> None:
        (tmp_path / "a.jpg").write_bytes(b"no picture")
        with pytest.raises(WriteError, match="cannot be written by ExifTool"):
            writer.write(tmp_path / "a.jpg", WORDS, "skip")
        assert tree(tmp_path) == ["a.jpg"]
        assert (tmp_path / "a.jpg").read_bytes() == b"no picture"


def test_embedding_without_exiftool_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(WriteError, match="apt-get install libimage-exiftool-perl"):
        Embedded()


def test_text_files(tmp_path: Path) -> None:
    picture, writer = photo(tmp_path / "a.jpg"), TextFile()
    (tmp_path / "a.txt").write_bytes(b"\xff")
    assert writer.existing(picture) == "a.txt"
    (tmp_path / "a.txt").write_text(" \n")
    assert writer.existing(picture) == ""
    writer.write(picture, WORDS, "append")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == f"{WORDS.caption}\n"


def test_every_writer_has_a_name_on_the_command_line() -> None:
    from captioner.collection.command import WRITE

    assert tuple(writers.WRITERS) == WRITE
