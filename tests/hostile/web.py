"""Hostile HTTP: whole requests as bytes, as no library would let one write them."""

from __future__ import annotations

from collections.abc import Iterator

from tests.hostile import Case
from tests.hostile.pictures import originals

ANY_BUT_FAILURE = frozenset({0, 101, 501, 505, *range(200, 500)})
REFUSED = frozenset({0, 501, 505, *range(400, 500)})
BAD_REQUEST = frozenset({400})
FINE = frozenset({200})
FINE_OR_BAD = FINE | BAD_REQUEST
TOO_LARGE = frozenset({413})
HTML = "<img src=x onerror=alert(1)>"

HEAD = "HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
END = b" " + HEAD.encode() + b"\r\n"


def malformed(post_to: str) -> Iterator[Case]:
    """Requests that are not quite HTTP, for any server; those with a body go to `post_to`."""
    for name, data, statuses in _REQUEST_LINES:
        yield Case("request line", name, data, statuses)
    for name, header, statuses in _HEADERS:
        data = f"GET /healthz {HEAD}".encode() + header + b"\r\n\r\n"
        yield Case("header", name, data, statuses)
    for host in _HOSTS:
        lines = b"GET / HTTP/1.1\r\n" + b"".join(b"Host: " + h + b"\r\n" for h in host)
        data = lines + b"Connection: close\r\n\r\n"
        yield Case("host", repr(host)[:30], data, ANY_BUT_FAILURE)
    post = f"POST {post_to} HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode()
    for length in _LENGTHS:
        lines = b"".join(b"Content-Length: " + text + b"\r\n" for text in length)
        yield Case("length", repr(length)[:30], post + lines + b"\r\nhello", REFUSED)
    for name, body in _CHUNKED:
        data = post + b"Transfer-Encoding: chunked\r\n\r\n" + body
        yield Case("chunked", name, data, REFUSED)
    for name, headers_and_body in _SMUGGLED:
        yield Case("smuggling", name, post + headers_and_body, REFUSED)


def sound(*paths: str) -> Iterator[Case]:
    """Requests that nothing is wrong with, to see how they are answered."""
    for path in paths:
        yield Case("sound", path, f"GET {path} {HEAD}\r\n".encode(), FINE)


def uploads() -> Iterator[Case]:
    """Uploads to app1 of which the form, a field, a name or the address is wrong."""
    yield from _forms()
    yield from _fields()
    yield from _file_names()
    yield from _addresses()


def _upload(
    kind: str,
    name: str,
    body: bytes,
    statuses: frozenset[int] = BAD_REQUEST,
    *,
    content_type: str = "multipart/form-data; boundary=xyz",
    path: str = "/api/captions",
    headers: str = "",
) -> Case:
    lines = f"POST {path} {HEAD}Content-Length: {len(body)}\r\n{headers}"
    head = f"{lines}Content-Type: {content_type}\r\n\r\n"
    return Case(kind, name, head.encode("latin-1") + body, statuses)


def _form(*parts: bytes) -> bytes:
    return b"".join(b"--xyz\r\n" + part + b"\r\n" for part in parts) + b"--xyz--\r\n"


def _field(name: str, value: str) -> bytes:
    return f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode()


def _photo(name: bytes = b'filename="a.jpg"', field: bytes = b"image") -> bytes:
    """A part with a photo that is good."""
    disposition = b'Content-Disposition: form-data; name="' + field + b'"; ' + name
    return disposition + b"\r\n\r\n" + originals()["jpeg"]


def _forms() -> Iterator[Case]:
    good = _form(_photo())
    boundary = "multipart/form-data; boundary="
    for name, body, content_type in (
        ("no boundary", good, "multipart/form-data"),
        ("an empty boundary", good, boundary),
        ("another boundary", good, boundary + "abc"),
        ("a boundary of 10,000 characters", good, boundary + "x" * 10_000),
        ("a boundary of odd characters", good, boundary + '"\xff<b>\\"'),
        ("two boundaries", good, boundary + "abc; boundary=abc"),
        ("multipart/mixed", good, "multipart/mixed; boundary=xyz"),
        ("no type", good, ""),
        ("a type that is none", good, "/;;=;"),
        ("no picture without form", b"", "image/jpeg"),
        ("JSON without end", b"[" * 100_000, "application/json"),
        ("JSON of another kind", b'{"image": {"a": [1]}}', "application/json"),
        ("JSON", b'{"image": "a.jpg"}', "application/json"),
        ("XML", b"<image>a.jpg</image>", "text/xml"),
        ("urlencoded", b"image=%ff%d8%ff", "application/x-www-form-urlencoded"),
        ("100,000 urlencoded fields", b"a=1&" * 100_000, "application/x-www-form-urlencoded"),
        ("nothing", b"", boundary + "xyz"),
        ("nothing but boundaries", b"--xyz\r\n" * 10_000, boundary + "xyz"),
        ("nothing but the end", b"--xyz--\r\n", boundary + "xyz"),
        ("line ends before it", b"\r\n" * 100_000, boundary + "xyz"),
        ("returns and no boundary", b"\r\n" + b"\r" * 2_000_000, boundary + "xyz"),
        ("dashes", b"-" * 2_000_000, boundary + "-" * 60),
    ):
        yield _upload("form", name, body, BAD_REQUEST | TOO_LARGE, content_type=content_type)
    empty = b'Content-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    inner = b"Content-Type: multipart/mixed; boundary=abc\r\n\r\n--abc\r\n\r\nx\r\n--abc--"
    for name, parts, statuses in (
        ("no part has a name", [b"Content-Disposition: form-data\r\n\r\nx"], BAD_REQUEST),
        ("no part has headers", [b"\r\nx"], BAD_REQUEST),
        ("a part without a blank line", [b"X: y"], BAD_REQUEST),
        ("an attachment", [_photo().replace(b"form-data", b"attachment")], FINE_OR_BAD),
        ("a file in another field", [_photo(field=b"picture")], BAD_REQUEST),
        ("text instead of a file", [_field("image", "hello")], BAD_REQUEST),
        ("a file without a name", [_photo(b'filename=""')], FINE),
        ("a field named in HTML", [_photo(field=HTML.encode())], BAD_REQUEST),
        ("a form in a form", [empty.replace(b"\r\n\r\n", b"\r\n") + inner], frozenset({415})),
        ("a header of 1 MB", [b"X: " + b"y" * 2**20 + b"\r\n" + _photo()], FINE_OR_BAD | TOO_LARGE),
        ("5,000 headers", [b"X: y\r\n" * 5_000 + _photo()], FINE_OR_BAD | TOO_LARGE),
        ("a header that is none", [b"\xff\xfe\r\n" + _photo()], FINE_OR_BAD),
        ("a coding", [b"Content-Transfer-Encoding: base64\r\n" + _photo()], FINE_OR_BAD),
        ("a charset that is none", [b"Content-Type: x; charset=\xff\r\n" + _photo()], FINE_OR_BAD),
        ("5,000 fields", [*[_field("a", "1")] * 5_000, _photo()], TOO_LARGE),
        ("a field of 2 MB", [_field("a", "x" * 2**21), _photo()], TOO_LARGE),
        ("17 files", [_photo()] * 17, BAD_REQUEST),
        ("1,500 files", [empty] * 1_500, TOO_LARGE),
        ("16 files of nothing", [empty] * 16, FINE),
        ("two fields with files", [_photo(), _photo(field=b"other")], FINE),
        ("a charset for all", [_field("_charset_", "utf-7"), _photo()], FINE),
        ("nearly the boundary in it", [_photo() + b"\r\n--xyzabc\r\n--xy"], FINE),
    ):
        yield _upload("form", name, _form(*parts), statuses)
    yield _upload("form", "cut short", good[: len(good) // 2], frozenset({400, 422}))
    yield _upload("form", "an end without dashes", good.replace(b"--xyz--", b"--xyz"), FINE_OR_BAD)
    yield _upload("form", "line feeds alone", good.replace(b"\r\n", b"\n", 3), FINE_OR_BAD)
    yield _upload("form", "text around it", b"hello\r\n" + good + b"hello" * 1_000, FINE)


def _fields() -> Iterator[Case]:
    for field, values in (
        ("beam_size", _NUMBERS),
        ("max_candidates", _NUMBERS),
        ("attention", ("2", "yes", "-1", "01", "true", HTML)),
    ):
        for value in values:
            body = _form(_field(field, value), _photo())
            yield _upload("field", f"{field} = {value[:20]!r}", body)
    good = _form(_photo())
    for query in ("beam_size=99", "beam_size=NaN", "attention=%00", "max_candidates=%ff"):
        yield _upload("field", f"?{query}", good, path=f"/api/captions?{query}")
    for query in ("", "x=" + "y" * 30_000, "&" * 5_000, "beam_size=3&beam_size=99", "__proto__=1"):
        path = f"/api/captions?{query}"
        yield _upload("field", f"harmless: ?{query[:30]}", good, FINE, path=path)


def _file_names() -> Iterator[Case]:
    for name in FILE_NAMES:
        quoted = name.replace(b'"', b"%22").replace(b"\r", b"%0D").replace(b"\n", b"%0A")
        body = _form(_photo(b'filename="' + quoted + b'"'))
        for path in ("/api/captions", "/"):
            yield _upload("file name", f"{name[:40]!r} to {path}", body, FINE, path=path)
    for parameter in _FILE_NAME_PARAMETERS:
        yield _upload("file name", repr(parameter), _form(_photo(parameter)), FINE_OR_BAD)


def _addresses() -> Iterator[Case]:
    for method, path, *statuses in _ADDRESSES:
        data = f"{method} {path} {HEAD}Content-Length: 0\r\n\r\n".encode()
        yield Case("address", f"{method} {path[:40]}", data, frozenset(statuses))
    for token in ("", "x", "\xff", "Bearer", "Bearer x", "Basic eDp5", "bearer " + "x" * 8_000):
        data = f"DELETE /api/captions/x {HEAD}Authorization: {token}\r\n\r\n".encode("latin-1")
        yield Case("address", f"delete with {token[:20]!r}", data, frozenset({401, 403}))
    for site in ("Origin: https://evil.example", "Origin: null", "Sec-Fetch-Site: cross-site"):
        for path in ("/api/captions", "/"):
            body, refused = _form(_photo()), frozenset({403})
            name = f"{site} to {path}"
            yield _upload("other site", name, body, refused, path=path, headers=f"{site}\r\n")


_REQUEST_LINES = (
    ("nothing", b"", REFUSED),
    ("line ends", b"\r\n" * 1000, REFUSED),
    ("a TLS handshake", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), REFUSED),
    ("an SSH greeting", b"SSH-2.0-OpenSSH_9.9\r\n", REFUSED),
    ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100), REFUSED),
    ("zeros", bytes(10_000), REFUSED),
    ("a line without an end", b"GET /" + b"a" * 300_000, REFUSED),
    ("an address of 20,000 characters", b"GET /" + b"a" * 20_000 + END, ANY_BUT_FAILURE),
    ("a query of 60,000 characters", b"GET /?" + b"a&" * 30_000 + END, ANY_BUT_FAILURE),
    ("a query of 2,000 fields", b"GET /healthz?" + b"a=1&" * 2_000 + END, ANY_BUT_FAILURE),
    ("no version", b"GET /healthz\r\n\r\n", ANY_BUT_FAILURE),
    ("version 0.9", b"GET /healthz HTTP/0.9\r\n\r\n", ANY_BUT_FAILURE),
    ("version 9.9", b"GET /healthz HTTP/9.9\r\n\r\n", ANY_BUT_FAILURE),
    ("a version that is none", b"GET /healthz HTTP/x\r\n\r\n", ANY_BUT_FAILURE),
    ("spaces in the address", b"GET /a b c" + END, ANY_BUT_FAILURE),
    ("a method in lower case", b"get /healthz" + END, ANY_BUT_FAILURE),
    ("an unknown method", b"BREW /healthz" + END, REFUSED),
    ("a method of 8,000 letters", b"A" * 8_000 + b" /" + END, REFUSED),
    ("a method of odd characters", b"G\xffT<b> /" + END, REFUSED),
    ("TRACE", b"TRACE /" + END, REFUSED),
    ("CONNECT", b"CONNECT example.org:443" + END, REFUSED),
    ("PUT", b"PUT /healthz" + END, REFUSED),
    ("PROPFIND", b"PROPFIND /" + END, REFUSED),
    ("an asterisk", b"OPTIONS *" + END, ANY_BUT_FAILURE),
    ("a whole address", b"GET http://example.org/healthz" + END, ANY_BUT_FAILURE),
    ("half an address", b"GET http://[" + END, ANY_BUT_FAILURE),
    ("a path upwards", b"GET /../../../../etc/passwd" + END, REFUSED),
    ("a coded path upwards", b"GET /static/%2e%2e/%2e%2e/app.py" + END, REFUSED),
    ("a path upwards with backslashes", b"GET /static/..\\..\\app.py" + END, REFUSED),
    ("a path upwards in what is shared", b"GET /shared/..%2f__init__.py" + END, REFUSED),
    ("a NUL in the path", b"GET /static/a%00.css" + END, REFUSED),
    ("a plain NUL in the path", b"GET /static/a\0.css" + END, REFUSED),
    ("a path that is no UTF-8", b"GET /%ff%fe%00%80" + END, REFUSED),
    ("plain bytes in the path", b"GET /\xff\xfe" + END, REFUSED),
    ("HTML in the path", b"GET /<script>alert(1)</script>" + END, REFUSED),
    ("two slashes", b"GET //example.org/" + END, ANY_BUT_FAILURE),
    ("a fragment", b"GET /healthz#" + b"x" * 100 + END, ANY_BUT_FAILURE),
    ("a file name too long for a disk", b"GET /static/" + b"a" * 5_000 + END, REFUSED),
)

_HEADERS = (
    ("no colon", b"nonsense", ANY_BUT_FAILURE),
    ("no name", b": x", ANY_BUT_FAILURE),
    ("a space before the colon", b"X : y", ANY_BUT_FAILURE),
    ("a folded line", b"X: a\r\n b", ANY_BUT_FAILURE),
    ("a NUL in a value", b"X: a\0b", ANY_BUT_FAILURE),
    ("a NUL in a name", b"X\0Y: a", ANY_BUT_FAILURE),
    ("a line feed alone", b"X: a\nY: b", ANY_BUT_FAILURE),
    ("a return alone", b"X: a\rY: b", ANY_BUT_FAILURE),
    ("bytes", b"X: \xff\xfe\x80", ANY_BUT_FAILURE),
    ("a value of 100,000 characters", b"X: " + b"y" * 100_000, ANY_BUT_FAILURE),
    ("a name of 100,000 characters", b"X" * 100_000 + b": y", ANY_BUT_FAILURE),
    ("300,000 bytes of them", b"X: y\r\n" * 50_000 + b"X: y", REFUSED),
    ("5,000 of them", b"\r\n".join([b"X-%d: y" % i for i in range(5_000)]), ANY_BUT_FAILURE),
    ("one name 3,000 times", b"\r\n".join([b"X: y"] * 3_000), ANY_BUT_FAILURE),
    ("a cookie without end", b"Cookie: " + b"a=b; " * 1_500, ANY_BUT_FAILURE),
    ("an origin of another site", b"Origin: https://evil.example", ANY_BUT_FAILURE),
    ("an origin that is none", b"Origin: \xff<b>", ANY_BUT_FAILURE),
    ("forwarded addresses", b"X-Forwarded-For: " + b"1," * 500, ANY_BUT_FAILURE),
    ("a token of bytes", b"Authorization: Bearer \xff\0", ANY_BUT_FAILURE),
    ("an upgrade to nothing", b"Upgrade: nothing\r\nConnection: Upgrade", ANY_BUT_FAILURE),
    ("an upgrade to h2c", b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk", ANY_BUT_FAILURE),
    ("an expectation", b"Expect: 200-ok", ANY_BUT_FAILURE),
    ("ranges", b"Range: bytes=" + b"0-," * 1_000, ANY_BUT_FAILURE),
    ("preconditions", b"If-None-Match: " + b'"x",' * 1_000, ANY_BUT_FAILURE),
    ("a time that is none", b"If-Modified-Since: yesterday", ANY_BUT_FAILURE),
    ("an underscore", b"Content_Length: 5", ANY_BUT_FAILURE),
)

_HOSTS: tuple[list[bytes], ...] = (
    [], [b""], [b"a", b"b"], [b"<b>"], [b"\xff"], [b"["], [b"a" * 8_000], [b"a" * 64 + b".example"],
    [b".a"], [b"a..b"], [b"xn--a"], [b"127.0.0.1:x"], [b"127.0.0.1:99999"], [b"a b"], [b"a/../b"],
    [b"user@127.0.0.1"], [b"\t"], [b"evil.example"],
)  # fmt: skip

_LENGTHS: tuple[list[bytes], ...] = (
    [b"-1"], [b"+5"], [b"5.0"], [b"0x5"], [b"5 5"], [b"5, 5"], [b"5,6"], [b"five"], [b""],
    [b"\xd9\xa5"], [b"1_0"], [b"9" * 30], [b"9" * 5_000], [b"5", b"5"], [b"5", b"6"], [b"500"],
    [b"70000000"], [b"99999999999"], [], [b"1"],
)  # fmt: skip

_CHUNKED = (
    ("no size", b"\r\n\r\n"),
    ("a size that is none", b"zz\r\nhello\r\n0\r\n\r\n"),
    ("a negative size", b"-5\r\nhello\r\n0\r\n\r\n"),
    ("a signed size", b"+5\r\nhello\r\n0\r\n\r\n"),
    ("a size with 0x", b"0x5\r\nhello\r\n0\r\n\r\n"),
    ("a size with _", b"1_0\r\nhello\r\n0\r\n\r\n"),
    ("2^64 bytes", b"ffffffffffffffff\r\nhello"),
    ("2^4000 bytes", b"f" * 1_000 + b"\r\nhello"),
    ("less than it says", b"ff\r\nhello\r\n0\r\n\r\n"),
    ("more than it says", b"1\r\nhello\r\n0\r\n\r\n"),
    ("no end", b"5\r\nhello\r\n"),
    ("an extension of 100,000 characters", b"5;" + b"x" * 100_000 + b"\r\nhello\r\n0\r\n\r\n"),
    ("an extension with a line feed", b"5;\nx\r\nhello\r\n0\r\n\r\n"),
    ("trailers", b"0\r\nContent-Length: 5\r\nX: y\r\n\r\n"),
    ("trailers without end", b"0\r\n" + b"X: y\r\n" * 20_000),
    ("20,000 chunks of a byte", b"1\r\na\r\n" * 20_000 + b"0\r\n\r\n"),
    ("line feeds alone", b"5\nhello\n0\n\n"),
)

_HIDDEN = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Hidden: yes\r\n\r\n"
_NO_BODY = b"\r\n\r\n0\r\n\r\n" + _HIDDEN
_SMUGGLED = (
    (
        "CL.TE",
        b"Content-Length: %d\r\nTransfer-Encoding: chunked" % (5 + len(_HIDDEN)) + _NO_BODY,
    ),
    (
        "TE.CL",
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"%x\r\n%s\r\n0\r\n\r\n" % (len(_HIDDEN), _HIDDEN),
    ),
    ("xchunked", b"Content-Length: 5\r\nTransfer-Encoding: xchunked" + _NO_BODY),
    ("chunked, identity", b"Transfer-Encoding: chunked, identity" + _NO_BODY),
    ("identity, chunked", b"Transfer-Encoding: identity, chunked" + _NO_BODY),
    ("chunked twice", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked" + _NO_BODY),
    ("a tab", b"Content-Length: 4\r\nTransfer-Encoding:\tchunked" + _NO_BODY),
    ("a vertical tab", b"Content-Length: 5\r\nTransfer-Encoding: \x0bchunked" + _NO_BODY),
    ("quotes", b'Content-Length: 5\r\nTransfer-Encoding: "chunked"' + _NO_BODY),
    ("a space before the colon", b"Content-Length: 5\r\nTransfer-Encoding : chunked" + _NO_BODY),
    ("a line feed", b"Content-Length: 5\r\nX: y\nTransfer-Encoding: chunked" + _NO_BODY),
    ("gzip", b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\n\x1f\x8b\x08\0\0"),
)

_NUMBERS = (
    "0", "11", "9999", "-1", "+3", "3.0", "NaN", "Infinity", "1e1", "0x3", "\u0663", " 3", "3 ",
    "true", "[]", "9" * 5_000, HTML, "\0", "3\0", "'; DROP TABLE captions; --", "{{7*7}}",
    "${jndi:ldap://x}", "../../etc/passwd",
)  # fmt: skip

FILE_NAMES = (
    HTML.encode(),
    b"</script><script>alert(1)</script>.jpg",
    b"javascript:alert(1)",
    b"\"onmouseover='alert(1)'.jpg",
    b"&lt;b&gt;&#x3c;.jpg",
    b"{{ 7 * 7 }}${7*7}<%= 7*7 %>",
    b"../../../../etc/passwd",
    b"..\\..\\windows\\system32\\config",
    b"/etc/passwd",
    b"C:\\con.jpg",
    b"\\\\server\\share\\a.jpg",
    b"file:///etc/passwd",
    b".",
    b"..",
    b"/",
    b" ",
    b"\0",
    b"a\0.jpg",
    b"a.jpg\0.php",
    b"\x1b[31mred\x07\x08",
    b"\r\nSet-Cookie: a=b",
    "\u202egpj.exe".encode(),
    "\u200b\u2028\u2029.jpg".encode(),
    "\U0001f600".encode() * 500,
    b"x" * 20_000,
    b"a/" * 5_000,
    b"%00%2e%2e%2f",
    b"%s%n%x%d" * 20,
    b"`id`;$(id)|id.jpg",
    b"'; DROP TABLE captions; --",
    b"=cmd|'/c calc'!A1",
    b"__proto__",
    b"CON",
    b"-rf",
    b"~root",
)

_FILE_NAME_PARAMETERS = (
    b'filename="a"b.jpg"',
    b'filename="a\r\nX: y"',
    b'filename="a\nb.jpg"',
    b'filename=""; name="beam_size"',
    b'filename="a\\"',
    b'filename="\\""',
    b'filename="\xff\xfe\x80.jpg"',
    b'filename="\xed\xa0\x80.jpg"',
    b"filename*=utf-8''%ff%fe",
    b"filename*=nonsense''a.jpg",
    b"filename*=utf-8''",
    b"filename*0=a; filename*1=b",
    b"filename=a b c.jpg",
)

_ADDRESSES: tuple[tuple[str, str, int] | tuple[str, str, int, int], ...] = (
    ("GET", "/api/captions", 405),
    ("PUT", "/api/captions", 405),
    ("PATCH", "/api/captions", 405),
    ("DELETE", "/api/captions", 405),
    ("DELETE", "/api/captions/x", 401),
    ("DELETE", "/api/captions/%00", 401),
    ("DELETE", "/api/captions/..%2f..", 401, 404),
    ("DELETE", "/api/captions/" + "x" * 5_000, 401),
    ("POST", "/api/model", 405),
    ("POST", "/healthz", 405),
    ("POST", "/openapi.json", 405),
    ("POST", "/static/app.js", 404, 405),
    ("POST", "/delete", 400),
    ("GET", "/delete", 405),
    ("GET", "/api/nothing", 404),
    ("GET", "/api/captions/" + "%2e%2e/" * 50, 404, 405),
    ("GET", "/console", 404),
    ("GET", "/.git/config", 404),
    ("GET", "/.env", 404),
    ("GET", "/wp-login.php", 404),
)
