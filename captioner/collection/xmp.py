"""XMP: reading a person's words, and adding a caption to what a packet or a sidecar holds.

Everything else in a sidecar stays as it is: other properties, other languages, namespaces, and the
processing instructions around it. Source: Adobe, "XMP Specification Part 1", 2012 (ISO 16684-1);
IPTC Photo Metadata Standard 2021.1 for the alternative text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lxml import etree

from captioner.errors import CaptionerError

_NAMESPACES = {
    "x": "adobe:ns:meta/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "Iptc4xmpCore": "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/",
    "tiff": "http://ns.adobe.com/tiff/1.0/",
    "exif": "http://ns.adobe.com/exif/1.0/",
    "acdsee": "http://ns.acdsee.com/iptc/1.0/",
}
DESCRIPTION, ALT_TEXT = "dc:description", "Iptc4xmpCore:AltTextAccessibility"
# Where a person may have described the picture.
WORDS = (
    DESCRIPTION,
    ALT_TEXT,
    "Iptc4xmpCore:ExtDescrAccessibility",
    "tiff:ImageDescription",
    "exif:UserComment",
    "acdsee:caption",
)
_XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
_MAX_BYTES = 20_000_000
_EMPTY = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
    b' <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n'
    b'  <rdf:Description rdf:about=""/>\n'
    b" </rdf:RDF>\n"
    b"</x:xmpmeta>\n"
    b'<?xpacket end="w"?>\n'
)


class XmpError(CaptionerError):
    """A sidecar is not XMP, or is damaged."""

    title = "The sidecar cannot be used"


class Xmp:
    """An XMP packet.

    Raises:
        XmpError: the content is no XMP.
    """

    def __init__(self, content: bytes | None = None) -> None:
        # No entities and no network: a sidecar may come from anywhere.
        parser = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False)
        try:
            if content is not None and len(content) > _MAX_BYTES:
                raise ValueError(f"more than {_MAX_BYTES} bytes")
            root = etree.fromstring(content or _EMPTY, parser)
            self._tree = root.getroottree()
            rdf = next(root.iter(_name("rdf:RDF")), None)
            if rdf is None:
                raise ValueError("there is no rdf:RDF in it")
        except (etree.XMLSyntaxError, ValueError) as error:
            raise XmpError(f"it is no XMP ({error})") from None
        self._rdf = rdf

    def words(self, field: str) -> str:
        """The text of a property, its default language first; empty where there is none."""
        for owner, element in self._places(field):
            if element is None:
                text = owner.get(_name(field), "")
            else:
                items = [*element.iter(_name("rdf:li"))]
                default = [item for item in items if item.get(_XML_LANG) == "x-default"]
                text = "".join((default or items or [element])[0].itertext())
            if text.strip():
                return str(text).strip()
        return ""

    def person_words(self) -> tuple[str, str] | None:
        """The first of `WORDS` that is not empty, and its text."""
        return next(((field, text) for field in WORDS if (text := self.words(field))), None)

    def set_words(self, field: str, text: str) -> None:
        """Sets a language alternative's default; other languages stay."""
        for owner, element in self._places(field):
            if element is None:
                del owner.attrib[_name(field)]
                continue
            for item in element.iter(_name("rdf:li")):
                if item.get(_XML_LANG) == "x-default":
                    item.text = text
                    return
            if (alternatives := element.find(_name("rdf:Alt"))) is not None:
                alternatives.insert(0, _item(text))
                return
            owner.remove(element)
        element = self._added(field)
        alternatives = etree.SubElement(element, _name("rdf:Alt"))
        alternatives.append(_item(text))

    def set_text(self, field: str, text: str, replace: bool = True) -> None:
        """Sets a simple property; without `replace` only where there is none."""
        places = [*self._places(field)]
        if places and not replace:
            return
        for owner, element in places:
            if element is None:
                del owner.attrib[_name(field)]
            else:
                owner.remove(element)
        self._added(field).text = text

    def to_bytes(self) -> bytes:
        """The packet, in UTF-8."""
        content: bytes = etree.tostring(self._tree, encoding="UTF-8", xml_declaration=False)
        return content if content.endswith(b"\n") else content + b"\n"

    def _places(self, field: str) -> Iterator[tuple[Any, Any]]:
        """Where a property is: (owner, element), the element None where it is an attribute."""
        for owner in self._rdf.findall(_name("rdf:Description")):
            if _name(field) in owner.attrib:
                yield owner, None
            for element in owner.findall(_name(field)):
                yield owner, element

    def _added(self, field: str) -> Any:
        owner = self._rdf.find(_name("rdf:Description"))
        if owner is None:
            owner = etree.SubElement(self._rdf, _name("rdf:Description"))
            owner.set(_name("rdf:about"), "")
        prefix = field.split(":")[0]
        return etree.SubElement(owner, _name(field), nsmap={prefix: _NAMESPACES[prefix]})


def _name(field: str) -> str:
    prefix, local = field.split(":")
    return f"{{{_NAMESPACES[prefix]}}}{local}"


def _item(text: str) -> Any:
    item = etree.Element(_name("rdf:li"))
    item.set(_XML_LANG, "x-default")
    item.text = text
    return item
