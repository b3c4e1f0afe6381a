"""Files of today are read tomorrow, on another machine, with another version of a library."""

import base64

import pytest
import torch

from tonsor.pack import Coding, Entry, Packed, pack, unpack

WRITTEN = {  # payloads of `known`, written once by version 1 of the format
    "context": "4QK$k0K5Rc05||V06sbZ01p^)2DbVgf7OfTu(jti{&pH)Pa^DT!rrM^^Ddq`hCWD_e?Pg%fM{WzE#^rZS--WH@lj&l9U5"
    "{5L<MZ|UBF+vfBJYPASOvZnU8F;LFF!`",
    "runs": "4QK$k0K5Rc05||V06sJUKyovygpVCbm$z2`7Qb1yT`0JoIsI7n80Xxzhvy>Li3vdd$V|-<^mo=lc$plFXCFfvat1^NZ1G*dU"
    "%P+$cqSkwNj{m6Y_dV+E~N",
}


def known():
    place = torch.arange(24 * 32)
    kept = (place * place // 7 + place // 32) % 11 == 3
    return torch.where(kept, (place * 37 % 7 - 3.0) / 2, 0.0).view(24, 32)


@pytest.mark.parametrize("positions", WRITTEN)
def test_what_was_written_once_is_read_and_written_the_same(positions):
    payload = base64.b85decode(WRITTEN[positions])
    entry = Entry("F32", (24, 32), "palette", 3, 1, positions, payload)
    assert torch.equal(unpack(Packed({"w": entry}))["w"], known())
    coding = Coding(positions=(positions,), coders=("range",))
    assert pack({"w": known()}, coding=coding).entries["w"] == entry
