import json
import os
import random
import zlib

import pytest
import torch
from safetensors import safe_open
from torch import nn

from tonsor.pack import load, pack, save, uniform, unpack
from tonsor.pack.entry import parsed
from tonsor.pack.file import _checksum

TRIES = int(os.environ.get("TONSOR_FUZZ", "300"))
LIMIT = 1 << 20


def state():
    torch.manual_seed(0)
    sparse = torch.rand(30, 40) < 0.1
    return {
        "body.weight": torch.randn(30, 40) * sparse,
        "head.weight": torch.randn(5, 30),
        "head.bias": torch.randn(5).half(),
        "steps": torch.tensor(7),
        "flags": torch.rand(64) < 0.5,
        "none": torch.empty(0, 3),
    }


def written(folder, **settings):
    path = folder / "a.tonsor"
    save(pack(state(), **settings), path)
    return path


def split(data):
    size = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:size]), data[size:]


def joined(header, body):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def resealed(data):
    """Return a file whose checksums are right again, as an attacker would write them."""
    header, body = split(data)
    texts = header["__metadata__"]
    for name, told in header.items():
        line = texts.get(f"@{name}")
        if name != "__metadata__" and isinstance(line, str):
            first, end = told["data_offsets"]
            entry, _ = parsed(line, body[first:end])
            texts[f"@{name}"] = entry.line(_checksum(name, entry))
    return joined(header, body)


def test_a_file_gives_back_what_was_packed_and_is_the_same_each_time(tmp_path):
    packed = pack(state(), bits=4, about={"model": "a", "sizes": [1, 2]})
    size = save(packed, tmp_path / "a.tonsor")
    save(packed, tmp_path / "b.tonsor")
    assert size == (tmp_path / "a.tonsor").stat().st_size
    assert (tmp_path / "a.tonsor").read_bytes() == (tmp_path / "b.tonsor").read_bytes()
    assert load(tmp_path / "a.tonsor") == packed
    got, expected = unpack(load(tmp_path / "a.tonsor")), unpack(packed)
    assert all(torch.equal(got[name], tensor) for name, tensor in expected.items())
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.tonsor", "b.tonsor"]


def test_any_reader_of_safetensors_lists_the_tensors_and_a_person_can_read_the_header(tmp_path):
    path = written(tmp_path, bits=4)
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == set(state())
        assert file.metadata()["@head.weight"].startswith("F32 [5,30] kmeans:4x1 inline crc32=")
    assert b'"@body.weight":"F32 [30,40] kmeans:4x1 ' in path.read_bytes()


def test_one_tensor_is_read_without_the_others(tmp_path):
    path = written(tmp_path)
    data = bytearray(path.read_bytes())
    header, _ = split(bytes(data))
    place = len(data) - header["none"]["data_offsets"][1] + header["body.weight"]["data_offsets"][0]
    data[place + 3] ^= 1  # another tensor is broken
    path.write_bytes(data)
    assert torch.equal(unpack(load(path, names=["head.weight"]))["head.weight"], state()["head.weight"])
    with pytest.raises(ValueError, match=r"'body\.weight' has another checksum than the file says"):
        load(path)
    with pytest.raises(ValueError, match=r"unknown tensor 'head\.wight'; did you mean 'head\.weight'"):
        load(path, names=["head.wight"])


def test_tied_names_come_back_tied(tmp_path):
    model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 50, bias=False))
    model[1].weight = model[0].weight
    save(pack(model), tmp_path / "a.tonsor")
    got = unpack(load(tmp_path / "a.tonsor"))
    assert got["0.weight"] is got["1.weight"]
    assert torch.equal(got["0.weight"], model[0].weight)
    assert list(unpack(load(tmp_path / "a.tonsor", names=["1.weight"]), names=["1.weight"])) == ["1.weight"]


def test_names_of_all_kinds_come_back(tmp_path):
    strange = {name: torch.ones(2) for name in ("", "format", "__metadata", "Ω\n\"'\\", "@w", "= x", "about")}
    save(pack(strange), tmp_path / "a.tonsor")
    assert set(unpack(load(tmp_path / "a.tonsor"))) == set(strange)
    with pytest.raises(ValueError, match="__metadata__"):
        save(pack({"__metadata__": torch.ones(1)}), tmp_path / "b.tonsor")


def test_a_file_cut_anywhere_is_told(tmp_path):
    path = written(tmp_path, bits=4)
    data = path.read_bytes()
    for size in {*range(0, len(data), 23), len(data) - 1}:
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"a\.tonsor: "):
            load(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(ValueError, match="and its header tells of"):
        load(path)


def test_a_file_that_claims_more_than_the_limit_is_refused_before_memory_is_taken(tmp_path):
    path = written(tmp_path)
    header, body = split(path.read_bytes())
    line = header["__metadata__"]["@body.weight"]
    header["__metadata__"]["@body.weight"] = line.replace("[30,40]", "[300000,400000]")
    path.write_bytes(joined(header, body))
    with pytest.raises(
        ValueError, match=r"it unpacks to 480,000,\d+,\d+ bytes; limit=8,589,934,592 allows less"
    ):
        load(path)
    with pytest.raises(ValueError, match="limit=100 allows less"):
        load(written(tmp_path), limit=100)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda h: h["__metadata__"].update(version="2"), "it has version '2', this tonsor reads 1"),
        (lambda h: h["__metadata__"].update(format="pt"), "was not written by tonsor's pack"),
        (lambda h: h.pop("steps"), "begin at|not the same names|header tells of"),
        (lambda h: h["__metadata__"].pop("@steps"), "not the same names"),
        (lambda h: h["__metadata__"].update({"@x": "= y"}), "not the same names"),
        (lambda h: h["__metadata__"].update({"@steps": "I64 [] raw inline"}), "'steps': its line is"),
        (lambda h: h["__metadata__"].update(about="[" * 100_000), "its 'about' is no JSON"),
        (lambda h: h["flags"].update(data_offsets=[0, 10**30]), "flags"),
        (lambda h: h["flags"].update(data_offsets=[True, False]), "flags"),
        (lambda h: h.update(flags=3), "tells no bytes of 'flags'"),
        (lambda h: h.update(__metadata__=[]), "has no texts"),
    ],
)
def test_a_header_that_contradicts_itself_is_told(change, told, tmp_path):
    path = written(tmp_path)
    header, body = split(path.read_bytes())
    change(header)
    path.write_bytes(joined(header, body))
    with pytest.raises(ValueError, match=told):
        load(path)


def test_a_key_that_is_there_twice_is_told(tmp_path):
    path = written(tmp_path)
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    text = data[8 : 8 + size].rstrip()[:-1] + b',"none":{}}'
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    with pytest.raises(ValueError, match="a key is there twice"):
        load(path)


def mutated(data, drawn):
    """Return a file with something changed: bytes, a cut, a line or an offset; half of them resealed."""
    kind = drawn.randrange(4)
    changed = bytearray(data)
    start = 8 + int.from_bytes(data[:8], "little") if kind == 1 else 0
    for _ in range(drawn.choice([1, 1, 2, 8])):
        changed[drawn.randrange(start, len(changed))] = drawn.randrange(256)
    if kind == 2:
        place = drawn.randrange(len(changed))
        del changed[place : place + drawn.randrange(1, 9)]
    if kind == 3:
        header, body = split(data)
        name = drawn.choice(list(state()))
        line = header["__metadata__"][f"@{name}"]
        places = [i for i, letter in enumerate(line) if letter.isdigit()] or [0]
        place = drawn.choice(places)
        line = line[:place] + str(drawn.randrange(10)) + line[place + 1 :]
        old, new = drawn.choice(
            [("runs", "csr"), ("F32", "U8"), ("kmeans", "uniform"), ("raw", "raw"), ("[", "[2,")]
        )
        header["__metadata__"][f"@{name}"] = line.replace(old, new)
        changed = joined(header, bytes(changed[-len(body) :]))
    try:
        return resealed(bytes(changed)) if drawn.random() < 0.7 else bytes(changed)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return bytes(changed)


def test_changed_files_are_told_or_read_and_never_take_more_than_the_limit(tmp_path):
    drawn, path = random.Random(0), tmp_path / "a.tonsor"
    ways = ({}, {"bits": 4}, {"bits": 3, "sharing": uniform})
    files = [written(tmp_path, **settings).read_bytes() for settings in ways]
    refused = 0
    for number in range(TRIES):
        path.write_bytes(mutated(files[number % len(files)], drawn))
        try:
            got = unpack(load(path, limit=LIMIT))
            assert sum(tensor.nbytes for tensor in got.values()) <= LIMIT
        except ValueError as error:
            refused += 1
            assert str(error)
    assert refused > TRIES / 2


def test_the_checksum_is_the_crc_of_name_line_and_bytes(tmp_path):
    path = written(tmp_path)
    header, body = split(path.read_bytes())
    first, end = header["steps"]["data_offsets"]
    line = header["__metadata__"]["@steps"]
    kept, _, crc = line.rpartition("crc32=")
    assert int(crc, 16) == zlib.crc32(b"steps\n" + kept.encode() + b"crc32=" + body[first:end])
