"""``mmrec serve``: what it refuses before it listens."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.command_line import Command


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--limit", "k=many"], "k: "),
        (["--limit", "l=5"], "a known key"),
        (["--limit", "k"], "name=value"),
        (["--keys", "nothing"], "check --keys"),
        (["--index-option", "m=3"], "build the index anew"),
        (["--host", "no.such.host.invalid"], "a host and a free port"),
    ],
)
def test_options_that_cannot_be(
    mmrec: Command, bundles: dict[str, Path], options: list[str], reason: str
) -> None:
    ended = mmrec("serve", bundles["lightgcn"], "--port", 0, *options)
    assert ended.code == 2
    assert reason in ended.err


def test_no_bundle_and_no_port(mmrec: Command, bundles: dict[str, Path], tmp_path: Path) -> None:
    ended = mmrec("serve", tmp_path)
    assert (ended.code, "a bundle folder" in ended.err) == (2, True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = mmrec("serve", bundles["lightgcn"], "--port", taken.getsockname()[1])
    assert (ended.code, "choose another --host or --port" in ended.err) == (2, True)
