"""Which recorded files the parity tests find."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import parity
import pytest


@pytest.mark.parametrize("kind", parity.KINDS)
def test_every_kind_is_found(reconx_parity: Path, kind: str) -> None:
    assert parity.files(reconx_parity, kind), f"no file of kind '{kind}' in {reconx_parity}"


def test_every_archive_of_arrays_is_read_by_a_test(reconx_parity: Path) -> None:
    known = {path for kind in parity.KINDS for path in parity.files(reconx_parity, kind)}
    beside = {path.with_suffix(".npz") for path in known if path.suffix == ".json"}
    unread = sorted(str(p.relative_to(reconx_parity)) for p in set(reconx_parity.rglob("*.npz")) - known - beside)
    if unread:
        pytest.skip(f"files of no known kind: {', '.join(unread)}")


def save(path: Path, names: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **dict.fromkeys(names.split(), np.zeros(1)))
    return path


def test_files_are_told_by_what_they_hold(tmp_path: Path) -> None:
    unet = save(tmp_path / "a" / "anything.npz", "x context timesteps fs y inter_middle")
    save(tmp_path / "a" / "less.npz", "x context timesteps")
    graphs = tmp_path / "b" / "pair_graphs_more.json"
    graphs.parent.mkdir()
    graphs.write_text(json.dumps({}))
    assert parity.files(tmp_path, "video network") == [unet]
    assert parity.files(tmp_path, "pair graphs") == [graphs]
    assert parity.files(tmp_path, "alignment") == []


def test_parameters_say_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECONX_PARITY", str(tmp_path))
    (absent,) = parity.recorded("video network")
    assert "no file of kind 'video network'" in str(absent.id) and not absent.marks  # so the test fails to read it
    names = "x context timesteps fs y"
    save(tmp_path / "unet_full_a.npz", names), save(tmp_path / "unet_tiny.npz", names)
    full, tiny = parity.recorded("video network")
    assert [m.name for m in full.marks] == ["long"] and not tiny.marks
    monkeypatch.delenv("RECONX_PARITY")
    (skipped,) = parity.recorded("video network")
    assert [m.name for m in skipped.marks] == ["skip"]
