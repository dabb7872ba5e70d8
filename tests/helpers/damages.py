"""Ways to damage a safetensors file; each takes a generator and the file's bytes and gives the damaged bytes."""

import json
import random
from typing import Any

Parts = tuple[Any, bytes]
"""A safetensors file's header (JSON) and data."""


def _split(data: bytes) -> Parts:
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def _join(header: Any, data: bytes) -> bytes:
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "little") + text + data


def _flip(rng: random.Random, data: bytes, end: int) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        damaged[rng.randrange(end)] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def flip_bits(rng: random.Random, data: bytes) -> bytes:
    return _flip(rng, data, len(data))


def flip_header_bits(rng: random.Random, data: bytes) -> bytes:
    return _flip(rng, data, 8 + int.from_bytes(data[:8], "little"))


def truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.choice((0, 1, 7, 8, 9, rng.randrange(200), rng.randrange(len(data)), len(data) - 1))]


def extend(rng: random.Random, data: bytes) -> bytes:
    return data + rng.randbytes(rng.choice((1, 8, 4096)))


def zero_a_block(rng: random.Random, data: bytes) -> bytes:
    start, length = rng.randrange(len(data)), rng.choice((16, 512, 4096))
    return data[:start] + bytes(len(data[start : start + length])) + data[start + length :]


def change_header_length(rng: random.Random, data: bytes) -> bytes:
    length = int.from_bytes(data[:8], "little")
    changed = rng.choice((0, 1, 2, length - 1, length + 1, len(data), 10**8, 10**8 + 1, 2**31, 2**63, 2**64 - 1))
    return changed.to_bytes(8, "little") + data[8:]


def garbage(rng: random.Random, data: bytes) -> bytes:
    return rng.randbytes(rng.choice((1, 8, 100, 10_000)))


def nest_deeply(rng: random.Random, data: bytes) -> bytes:
    header, values = _split(data)
    nested = rng.choice(("[", '{"a":')) * rng.choice((100, 1_000, 100_000))
    if rng.random() < 0.5:
        key = _metadata_key(header)
        header["__metadata__"][key] = nested
        return _join(header, values)
    return len(nested).to_bytes(8, "little") + nested.encode() + values


def edit_header(rng: random.Random, data: bytes) -> bytes:
    header, values = _split(data)
    for _ in range(rng.choice((1, 1, 3))):
        header = _edit(rng, header)
    return _join(header, values)


def edit_metadata(rng: random.Random, data: bytes) -> bytes:
    header, values = _split(data)
    key = _metadata_key(header)
    inner = json.loads(header["__metadata__"][key])
    for _ in range(rng.choice((1, 1, 3))):
        inner = _edit(rng, inner)
    header["__metadata__"][key] = json.dumps(inner)
    return _join(header, values)


def damage_metadata_text(rng: random.Random, data: bytes) -> bytes:
    header, values = _split(data)
    key = _metadata_key(header)
    text = list(header["__metadata__"][key])
    for _ in range(rng.choice((1, 3))):
        at = rng.randrange(len(text))
        text[at : at + rng.choice((0, 1, 5))] = rng.choice(("", '"', "}", "1e999", "9" * 5000, "null", "\\u0000", "\n"))
    header["__metadata__"][key] = "".join(text)
    return _join(header, values)


def change_the_grid(rng: random.Random, data: bytes) -> bytes:
    header, values = _split(data)
    key = _metadata_key(header)
    inner = json.loads(header["__metadata__"][key])
    inner["grid_size"] = rng.choice(([-2, -3], [3, 2], [1, 6], [6, True], [0, 0], [2.0, 3], [2, 3, 1], [6], "2x3"))
    header["__metadata__"][key] = json.dumps(inner)
    return _join(header, values)


def bloat(rng: random.Random, data: bytes) -> bytes:
    """Much text that is sound JSON, where little is expected."""
    header, values = _split(data)
    text = rng.choice(("[]", "{}", "0", '"x"'))
    text = "[" + ",".join([text] * (rng.choice((1_000, 100_000)) if rng.random() < 0.98 else 15_000_000)) + "]"
    if rng.random() < 0.2:
        return len(text).to_bytes(8, "little") + text.encode() + values
    key = _metadata_key(header)
    whole = header["__metadata__"][key]
    header["__metadata__"][key] = rng.choice(
        (text, whole[:-1] + f', "valid": {text}}}', whole[:-1] + f', "x": {text}}}')
    )
    return _join(header, values)


def name_many_tokens(rng: random.Random, data: bytes) -> bytes:
    """Tensors without a value that are called class tokens."""
    header, values = _split(data)
    end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    for number in range(rng.choice((1, 3, 40))):
        header[f"{number}.cls_token"] = {"dtype": "F32", "shape": [2**number, 0], "data_offsets": [end, end]}
    return _join(header, values)


def claim_a_giant(rng: random.Random, data: bytes) -> bytes:
    header, values = _split(data)
    key = _metadata_key(header)
    inner = json.loads(header["__metadata__"][key])
    model = inner.get("model", inner)  # a state has none
    for name in rng.sample(sorted(model), rng.choice((1, 2))):
        giant: Any = rng.choice((2**16, 2**31, 2**40, 2**64, 10**30, 1e30, 1e308))
        model[name] = [giant, giant] if isinstance(model[name], list) else giant
    header["__metadata__"][key] = json.dumps(inner)
    return _join(header, values)


def change_a_tensor(rng: random.Random, data: bytes) -> bytes:
    """Another name, shape or type of the same number of bytes: the file stays a sound safetensors file."""
    header, values = _split(data)
    name = rng.choice([key for key in header if key != "__metadata__"])
    entry = header.pop(name)
    shape = entry["shape"]
    kind = rng.randrange(6)
    if kind == 0:
        name = rng.choice(
            ("head.weight", "module." + name, "", "a\nb", "blocks.999999999.mlp.fc1.weight", "optimizer/x")
        )
    elif kind == 1:
        entry["shape"] = shape[::-1]
    elif kind == 2:
        entry["shape"] = [1, *shape]
    elif kind == 3 and shape:
        entry |= {"dtype": rng.choice(("F16", "BF16", "I16", "U16")), "shape": [*shape[:-1], 2 * shape[-1]]}
    elif kind == 4:
        entry["dtype"] = rng.choice(("I32", "U32", "F8_E4M3", "BOOL", "F4", "C64", "F31"))
    else:
        entry["dtype"], entry["shape"] = "U8", [4 * _product(shape)]
    header[name] = entry
    return _join(header, values)


def make_a_value_infinite(rng: random.Random, data: bytes) -> bytes:
    header, values = _split(data)
    at = 4 * rng.randrange(len(values) // 4)
    bad = rng.choice((b"\x00\x00\x80\x7f", b"\x00\x00\xc0\x7f", b"\x00\x00\x80\xff"))
    return _join(header, values[:at] + bad + values[at + 4 :])


def damage_json(rng: random.Random, values: Any) -> bytes:
    """A small JSON file, edited, cut, flipped, nested or bloated; as it was in a third of the cases."""
    if rng.random() < 0.3:
        return json.dumps(values).encode()
    for _ in range(rng.choice((1, 1, 3))):
        values = _edit(rng, values)
    data = json.dumps(values).encode("utf-8", "surrogatepass")
    match rng.randrange(8):
        case 0:
            return data[: rng.randrange(len(data))]
        case 1:
            return _flip(rng, data, len(data))
        case 2:
            return rng.choice((b"[", b'{"a":')) * rng.choice((100, 100_000))
        case 3:
            return b"[" + b"[]," * rng.choice((1_000, 1_000, 1_000, 1_000_000)) + b"[]]"
    return data


def wrap_keys(rng: random.Random, data: bytes) -> bytes:
    """A file with its keys as a wrapper or two have them, perhaps with other tensors beside; others as they are."""
    try:
        header, values = _split(data)
        metadata = header.pop("__metadata__", {})
        prefix = rng.choice(("model.", "module.", "a.b.", ".", "decoder.", "vit."))
        some = {name for name in header if rng.random() < 0.8}
        renamed = {prefix + name if name in some or rng.random() < 0.8 else name: header[name] for name in header}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return data
    end = {"shape": [0], "dtype": "F32", "data_offsets": [len(values), len(values)]}
    extra = rng.choice(({}, {"n_averaged": end}, {"ema.pos_embed": end}, {"teacher.cls_token": end}))
    return _join({"__metadata__": metadata, **renamed, **extra}, values)


DAMAGES = (
    flip_bits,
    flip_header_bits,
    truncate,
    extend,
    zero_a_block,
    change_header_length,
    garbage,
    nest_deeply,
    edit_header,
    edit_header,
    edit_metadata,
    edit_metadata,
    damage_metadata_text,
    claim_a_giant,
    change_a_tensor,
    change_a_tensor,
    make_a_value_infinite,
    change_the_grid,
    bloat,
    name_many_tokens,
)


def _metadata_key(header: Any) -> str:
    return next(key for key in header["__metadata__"] if key != "format")


def _product(shape: list[int]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def _edit(rng: random.Random, value: Any) -> Any:
    """One value somewhere inside, or the whole of it, replaced, removed or doubled."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        if rng.random() < 0.1:
            return {name: item for name, item in value.items() if name != key}
        if rng.random() < 0.1:
            return value | {rng.choice(("", "x", key + key, "a\nb")): value[key]}
        return value | {key: _edit(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], *([] if rng.random() < 0.2 else [_edit(rng, value[at])]), *value[at + 1 :]]
    junk: tuple[Any, ...] = (None, True, "", "x", "\ud800", -1, 0, 1, 0.5, 2**31, 2**63, 10**30, 10**400, 1e308, [], {})
    return rng.choice((*junk, float("nan"), float("inf"), [[]], {"a": 1}, [1, 2, 3], "9" * 5000))
