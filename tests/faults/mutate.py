"""Seeded damage to bytes, JSON, PNG, JPEG, TFRecord, npz and safetensors files."""

import copy
import io
import json
import random
import struct
import zipfile
import zlib

EXTREMES = (0, 1, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**60)
VALUES = (
    None,
    True,
    -1,
    0,
    2**31,
    2**63,
    -(2**63) - 1,
    10**400,
    1e308,
    -0.0,
    5e-324,
    "",
    "x" * 5000,
    "\0",
    "../../../etc/passwd",
    "/etc/passwd",
    "..",
    "\ud800",
    "nan",
    [],
    {},
    [[[[[[[[[[]]]]]]]]]],
    [1.5, None],
    {"a": {"b": 1}},
    "__class__",
    "resnet200",
    "float64",
)


def mutate(draw: random.Random, data: bytes, other: bytes = b"") -> bytes:
    """One to four random changes to bytes; `other` is spliced in."""
    out = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        _OPERATIONS[draw.randrange(len(_OPERATIONS))](draw, out, other or data)
    return bytes(out)


def _at(draw, out):
    # Headers are where the damage is.
    return draw.randrange(max(1, min(len(out), 64) if draw.random() < 0.5 else len(out)))


def _flip(draw, out, other):
    for _ in range(draw.choice((1, 1, 4, 40))):
        if out:
            out[_at(draw, out)] ^= 1 << draw.randrange(8)


def _cut(draw, out, other):
    del out[draw.randrange(len(out) + 1) :]


def _behead(draw, out, other):
    del out[: _at(draw, out)]


def _splice(draw, out, other):
    a, b = sorted(draw.randrange(len(other) + 1) for _ in range(2))
    at = _at(draw, out)
    out[at : at + draw.choice((0, b - a))] = other[a:b]


def _zeros(draw, out, other):
    at, n = _at(draw, out), draw.choice((1, 8, 200))
    out[at : at + n] = bytes(n)


def _extreme(draw, out, other):
    width, order = draw.choice((1, 2, 4, 8)), draw.choice(("little", "big"))
    at = _at(draw, out)
    out[at : at + width] = (draw.choice(EXTREMES) % 256**width).to_bytes(width, order)


_OPERATIONS = (_flip, _cut, _behead, _splice, _zeros, _extreme)


def mutate_json(draw: random.Random, text: str) -> bytes:
    """The same JSON with values, keys or its text changed; not always JSON any more."""
    value = json.loads(text)
    for _ in range(draw.randint(1, 3)):
        places = _places(value)
        if not places:
            break
        holder, key = draw.choice(places)
        kind = draw.randrange(4)
        if kind == 0 and isinstance(holder, dict):
            holder[draw.choice(("", "../x", key + "x", "__init__", "a.b"))] = holder.pop(key)
        elif kind == 1:
            del holder[key]
        else:
            holder[key] = copy.deepcopy(draw.choice(VALUES))
    text = json.dumps(value)
    kind = draw.randrange(10)
    if kind == 0:
        return mutate(draw, text.encode())
    if kind == 1:
        words = ("NaN", "Infinity", "1e999", "[" * 2000, '{"a":' * 300 + "1" + "}" * 300)
        at = draw.choice([i for i, c in enumerate(text) if c == ":"] or [0]) + 1
        return (text[:at] + draw.choice(words) + ("," if draw.random() < 0.5 else "")).encode() + (
            text[at:].encode()
        )
    if kind == 2 and text.startswith("{") and len(text) > 2:
        return ("{" + text[1:-1] + "," + text[1:]).encode()  # every key twice
    return text.encode("utf-8", "surrogatepass")


def _places(value):
    found, todo = [], [value]
    while todo:
        holder = todo.pop()
        keys = holder.keys() if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            found.append((holder, key))
            if isinstance(holder[key], dict | list):
                todo.append(holder[key])
    return found


def mutate_image(draw: random.Random, data: bytes, other: bytes) -> bytes:
    """Raw damage, or a PNG chunk or JPEG segment changed with its checksum or length made right."""
    if draw.random() < 0.5:
        return mutate(draw, data, other)
    if data.startswith(b"\x89PNG"):
        return _mutate_png(draw, data)
    if data.startswith(b"\xff\xd8"):
        return _mutate_jpeg(draw, data)
    return mutate(draw, data, other)


def _mutate_png(draw, data):
    chunks, at = [], 8
    while at + 12 <= len(data):
        n = int.from_bytes(data[at : at + 4], "big")
        chunks.append([data[at + 4 : at + 8], data[at + 8 : at + 8 + n]])
        at += 12 + n
    i = draw.choice((0, 0, draw.randrange(len(chunks))))
    name, body = chunks[i]
    if name == b"IDAT" and draw.random() < 0.5:
        body = zlib.compress(mutate(draw, zlib.decompressobj().decompress(body)))
    elif name == b"IHDR" and draw.random() < 0.7:
        field = draw.randrange(7)
        body = bytearray(body)
        if field < 2:
            body[4 * field : 4 * field + 4] = draw.choice(EXTREMES[:10]).to_bytes(4, "big")
        else:
            body[6 + field] = draw.choice((0, 1, 2, 3, 4, 6, 16, 255))
        body = bytes(body)
    else:
        body = mutate(draw, body)
    chunks[i][1] = body
    if draw.random() < 0.2:
        bomb = b"a\0\0" + zlib.compress(bytes(2**22))
        chunks.insert(1, [draw.choice((b"zTXt", b"iCCP", b"PLTE", b"tRNS", b"acTL")), bomb])
    if draw.random() < 0.2:
        draw.shuffle(chunks)
    out = data[:8]
    for name, body in chunks:
        out += struct.pack(">I", len(body)) + name + body
        out += struct.pack(">I", zlib.crc32(name + body))
    return out


def _mutate_jpeg(draw, data):
    segments, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        n = int.from_bytes(data[at + 2 : at + 4], "big")
        segments.append((at, n))
        if data[at + 1] == 0xDA:
            break
        at += 2 + n
    at, n = draw.choice(segments)
    out = bytearray(data)
    kind = draw.randrange(4)
    if kind == 0:  # another length
        out[at + 2 : at + 4] = (draw.choice(EXTREMES) % 65536).to_bytes(2, "big")
    elif kind == 1:  # another kind of segment
        out[at + 1] = draw.choice((0xC0, 0xC1, 0xC2, 0xC3, 0xC4, 0xC9, 0xDA, 0xDB, 0xDD, 0xEE))
    elif kind == 2:
        body = mutate(draw, data[at + 4 : at + 2 + n])[:65000]
        out[at + 2 : at + 2 + n] = (len(body) + 2).to_bytes(2, "big") + body
    else:  # once more
        out[at:at] = data[at : at + 2 + n] * draw.choice((1, 3, 200))
    return bytes(out)


def npz(draw: random.Random, arrays: dict[str, tuple[bytes, bytes]]) -> bytes:
    """An archive of members (header text, data), with headers or bytes changed."""
    file = io.BytesIO()
    how = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(file, "w", how) as z:
        for name, (header, body) in arrays.items():
            if draw.random() < 0.5:
                shapes = (b"(%d,)" % 10**12, b"(-1, 2)", b"()", b"(2, 2)", b"(1e9,)", b"(" * 300)
                start = header.index(b"(")
                header = header[:start] + draw.choice(shapes) + header[header.index(b")") + 1 :]
            elif draw.random() < 0.5:
                kinds = (b"'|O'", b"'<f8'", b"'<U99999'", b"'|V2147483647'", b"[('a','<i4')]")
                header = header.replace(b"'|u1'", draw.choice(kinds))
            head = b"\x93NUMPY" + bytes([draw.choice((1, 1, 1, 2, 3, 9)), 0])
            length = len(header) if draw.random() < 0.9 else draw.choice(EXTREMES) % 65536
            z.writestr(name, head + struct.pack("<H", length) + header + body)
    data = file.getvalue()
    return mutate(draw, data) if draw.random() < 0.5 else data


def safetensors(draw: random.Random, data: bytes) -> bytes:
    """Raw damage, or a header changed and its length made right, or not."""
    kind = draw.randrange(4)
    if kind == 0:
        return mutate(draw, data)
    length = int.from_bytes(data[:8], "little")
    if kind == 1:
        return draw.choice(EXTREMES).to_bytes(8, "little") + data[8:]
    header = json.loads(data[8 : 8 + length])
    names = [n for n in header if n != "__metadata__"]
    for _ in range(draw.randint(1, 3)):
        entry = header[draw.choice(names)]
        change = draw.randrange(4)
        if change == 0:
            entry["data_offsets"][draw.randrange(2)] = draw.choice((-1, *EXTREMES, 2**64))
        elif change == 1:
            entry["dtype"] = draw.choice(("F64", "BF16", "F8_E4M3", "I64", "BOOL", "X", "C64"))
        elif change == 2:
            entry["shape"] = draw.choice(([], [-1], [2**40, 2**40], [0], [1.5], entry["shape"][:1]))
        else:  # two on the same place
            entry["data_offsets"] = list(header[draw.choice(names)]["data_offsets"])
    text = mutate_json(draw, json.dumps(header)) if kind == 2 else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def crc32c(data: bytes) -> int:
    """The masked checksum of TFRecord files."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frame(data: bytes, length: int | None = None) -> bytes:
    """A record as TFRecord files hold it; with another length, its checksum right all the same."""
    head = struct.pack("<Q", len(data) if length is None else length)
    return head + struct.pack("<I", crc32c(head)) + data + struct.pack("<I", crc32c(data))
