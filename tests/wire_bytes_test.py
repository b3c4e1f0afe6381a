"""What is told of the bytes sent is what the network carried."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from small import environment
from wire_bytes import RULES

ALONE = ["unshare", "--map-root-user", "--net", "sh", "-c"]  # a network that nobody else uses


def can_be_alone():
    if not shutil.which("unshare") or not shutil.which("ip"):
        return False
    return subprocess.run([*ALONE, "ip link set lo up"], check=False, capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not can_be_alone(), reason="no network of one's own can be made here")
def test_what_is_told_to_be_sent_is_what_the_network_carried(tmp_path):
    script = Path(__file__).parent / "wire_bytes.py"
    command = f"ip link set lo up && exec {sys.executable} {script} {tmp_path}"
    settings = {**environment(), "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [*ALONE, command], check=False, capture_output=True, text=True, env=settings, timeout=240
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    for name in RULES:
        told, carried = seen[name]
        # Of two workers each sends its message once. The rest is what TCP adds, and the barriers.
        assert 2 * told <= carried < 2.15 * told + 20_000
    assert seen["dense"][1] > 15 * seen["PowerSGD"][1]
