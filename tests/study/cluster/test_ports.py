"""Ports for servers of this machine: free, and out of reach of outgoing connections."""

import socket
from pathlib import Path

import pytest

from study.cluster import ports


def test_a_free_port_is_no_ports_of_workers_nor_of_outgoing_connections() -> None:
    found = [ports.free_port() for _ in range(200)]
    assert all(20000 <= port < ports._first_ephemeral() for port in found)
    assert len(set(found)) > 150, "processes that start together would choose the same"


def test_taken_ports_are_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only two ports lie below those of the system, and one of them is taken."""
    first = next(
        port for port in range(20000, 30000) if not ports.port_problem(port) and not ports.port_problem(port + 1)
    )
    monkeypatch.setattr(ports, "_FIRST", first)
    monkeypatch.setattr(ports, "_RANGE_FILE", tmp_path / "range")
    (tmp_path / "range").write_text(f"{first + 2}\t60999\n", encoding="ascii")
    with socket.socket() as other:
        other.bind((ports.HOST, first))
        other.listen()
        assert ports.port_problem(first) == "Address already in use"
        assert {ports.free_port() for _ in range(10)} == {first + 1}


@pytest.mark.parametrize("text", [None, "", "none at all", "1024\t65535"])
def test_a_port_is_found_whatever_the_system_says(
    text: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Here no port below those of the system is free: it has all of them, or others do."""
    monkeypatch.setattr(ports, "_RANGE_FILE", tmp_path / "range")
    if text is not None:
        (tmp_path / "range").write_text(text, encoding="ascii")
    monkeypatch.setattr(ports, "port_problem", lambda port: "Address already in use")
    with socket.socket() as server:
        server.bind((ports.HOST, ports.free_port()))
