"""The catalogue of weights, where they are found, how they are read, and what is said of those that are not right."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dust3r_networks import small_network
from safetensors.torch import save, save_file

from reconx_ros.cli.main import main
from reconx_ros.core import BackendUnavailableError, InvalidInputError, StorageError, WeightsError
from reconx_ros.diffusion.config import DiffusionConfig
from reconx_ros.diffusion.model_folders import generator_for
from reconx_ros.pointmap.backends.dust3r import PointmapNetBackend
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.pointmap.network.settings import PointmapNetSettings
from reconx_ros.pointmap.network.weights import load_network
from reconx_ros.splatting.lpips import load_lpips
from reconx_ros.weights import catalogue as module
from reconx_ros.weights import hub, resolve, verify
from reconx_ros.weights.catalogue import PACKAGE_FOLDER, WeightsRow, catalogue, write_shipped
from reconx_ros.weights.files import Digests, check_file, sha256
from reconx_ros.weights.tensors import open_tensors, read_content, read_tensors

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 553433881\n"
PAGE = b"\n<!DOCTYPE html>\n<html><body>Sign in to download</body></html>"
CPU = torch.device("cpu")


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A catalogue with a network of ours in it, a few numbers large; the file."""
    folder = tmp_path / "package"
    folder.mkdir()
    path = write_shipped(
        "reconx-tiny",
        save({"a": torch.arange(6.0)}),
        purpose="tests",
        licence_weights="Apache-2.0",
        folder=folder,
        training={"steps": 7},
    )
    for name in ("reconx_ros.weights.resolve", "reconx_ros.cli.weights"):
        monkeypatch.setattr(f"{name}.catalogue", lambda: catalogue(folder))
    monkeypatch.setenv(resolve.FOLDER_VARIABLE, str(tmp_path / "own"))
    return path


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, as its library lays it out."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def cached_on_hub(cache: Path, hub_id: str, files: dict[str, bytes], *, commit: str = "c" * 40) -> Path:
    """Files as a download leaves them: contents under their digest, links to them; the folder of the links."""
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    for folder in (repository / "blobs", repository / "refs", snapshot):
        folder.mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(commit)
    for name, content in files.items():
        blob = repository / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        (snapshot / name).symlink_to(blob)
    return snapshot


# Catalogue -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", catalogue().values(), ids=lambda row: row.name)
def test_rows_say_where_from_what_for_and_what_is_not_known(row: WeightsRow) -> None:
    assert row.purpose and row.origin and row.name == row.name.lower()
    assert sum(place is not None for place in (row.path, row.hub_id, row.url)) == 1
    assert row.hub_id is None or row.hub_id.count("/") == 1
    assert row.path is not None or row.hub_id is None or bool(row.file) != bool(row.patterns)
    assert row.sha256 is None or (len(row.sha256) == 64 and row.size_bytes is not None and row.file)
    assert "not known" in row.terms or (row.size_bytes and row.licence_weights)


def test_every_card_of_the_package_is_true() -> None:
    for row in catalogue().values():
        if row.path is not None:
            assert verify.state_of(row, thorough=True).state == verify.PRESENT, row.name
    cards = {path.stem for path in PACKAGE_FOLDER.glob("*.json")}
    assert {path.stem for path in PACKAGE_FOLDER.glob("*.safetensors")} == cards


def test_a_network_of_ours_is_two_files(shipped: Path) -> None:
    row = catalogue(shipped.parent)["reconx-tiny"]
    assert row.path == shipped and row.sha256 == sha256(shipped) and row.size_bytes == shipped.stat().st_size
    assert row.card is not None and row.card["training"] == {"steps": 7} and row.licence_code == "Apache-2.0"
    assert "lpips-vgg16-heads" in catalogue(shipped.parent)  # the public ones too
    found = resolve.resolve("reconx-tiny", setting="x.weights")
    assert found.path == shipped and set(found.files()) == {shipped, shipped.with_suffix(".json")}
    shipped.unlink()
    with pytest.raises(WeightsError, match=r"x\.weights is 'reconx-tiny'.*install reconx_ros again"):
        resolve.resolve("reconx-tiny", setting="x.weights")
    shipped.with_suffix(".json").write_text("{}")
    with pytest.raises(StorageError, match=r"reconx-tiny\.json cannot be read .*expected JSON with purpose, sha256"):
        catalogue(shipped.parent)


def test_a_pointmap_network_of_ours_runs_by_its_name(shipped: Path) -> None:
    network = small_network()
    write_shipped(
        "reconx-pairs",
        save(dict(network.state_dict())),
        purpose="tests",
        licence_weights="Apache-2.0",
        folder=shipped.parent,
        config=network.config.as_arguments(),
        min_confidence=2.5,
    )
    backend = PointmapNetBackend()
    loaded = backend.load(PointmapConfig().with_own(PointmapNetSettings(weights="reconx-pairs")), CPU)
    assert loaded.network.config == network.config and backend.confidence(loaded) == 2.5
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], value)


# Where they are --------------------------------------------------------------------------------------------------


def test_names_paths_and_hub_names(shipped: Path, tmp_path: Path, hub_cache: Path) -> None:
    assert resolve.resolve(str(shipped), setting="s").row is None
    snapshot = cached_on_hub(hub_cache, "someone/net", {"model.safetensors": shipped.read_bytes()})
    assert resolve.resolve("someone/net", setting="s").path == snapshot
    own = tmp_path / "own" / "lpips-vgg16-heads" / "vgg.pth"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"x")
    assert resolve.resolve("lpips-vgg16-heads", setting="s").path == own
    row = catalogue()["dynamicrafter-512"]
    assert resolve.find(row) is None
    snapshot = cached_on_hub(hub_cache, str(row.hub_id), {"model.ckpt": b"x"})
    assert resolve.resolve(row.name, setting="s").path == snapshot / "model.ckpt"


def test_what_belongs_to_a_folder(tmp_path: Path) -> None:
    names = ["model_index.json", "unet/config.json", "unet/a.safetensors", "tokenizer/merges.txt"]
    for name in [*names, ".cache/a.json", "unet/.lock.json", "film.mp4", "unet/deep/a.safetensors"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    found = resolve.WeightsSource(path=tmp_path).files()
    assert sorted(str(path.relative_to(tmp_path)) for path in found) == sorted(names)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", r"pointmap\.net is empty, expected weights: the cure"),
        ("dust3r-512-dtp", r"is 'dust3r-512-dtp', expected a name of the catalogue \('dust3r-512-dpt'\?\), .*the cure"),
        ("/no/such/file.pth", r"existing file or folder, or a hub name: the cure"),
        ("someone/nothing", r"hf download someone/nothing' where the hub can be reached: the cure"),
        ("dust3r-512-dpt", r"reconx weights fetch dust3r-512-dpt.*hf download naver/DUSt3R.*size not known.*CC-BY-NC"),
        ("lpips-vgg16-trunk", r"get https://download\.pytorch\.org/.* and put it into .*/own/lpips-vgg16-trunk"),
    ],
)
def test_weights_that_are_not_here(value: str, words: str, shipped: Path, hub_cache: Path) -> None:
    with pytest.raises(WeightsError, match=words) as caught:
        resolve.resolve(value, setting="pointmap.net", cure="the cure")
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, BackendUnavailableError) and isinstance(caught.value, StorageError)


def test_the_generator_of_a_hub_name_is_known_from_its_folder(hub_cache: Path) -> None:
    index = json.dumps({"_class_name": "LTXConditionPipeline"}).encode()
    cached_on_hub(hub_cache, "Lightricks/LTX-Video-0.9.5", {"model_index.json": index})
    assert generator_for("ltx-video") == generator_for("Lightricks/LTX-Video-0.9.5") == "diffusers_flf2v_ltx"
    assert not DiffusionConfig().download


# What lies in the place of weights -------------------------------------------------------------------------------


def load_pipeline_folder(path: Path) -> object:
    (path.parent / "model_index.json").write_text(json.dumps({"_class_name": "WanImageToVideoPipeline"}))
    return generator_for(str(path.parent))


def opened(path: Path) -> None:
    with open_tensors(path):
        pass


LOADERS: list[tuple[str, Callable[[Path], object]]] = [
    ("net.pth", load_network),
    ("model.safetensors", lambda path: load_network(small_folder(path).parent)),
    ("vgg.pth", lambda path: load_lpips(path, path)),
    ("vgg.safetensors", lambda path: load_lpips(path, path)),
    ("model.ckpt", opened),
    ("model.safetensors", opened),
    ("transformer.safetensors", load_pipeline_folder),
    ("any.bin", lambda path: resolve.resolve(str(path), setting="s")),
]


def small_folder(path: Path) -> Path:
    (path.parent / "config.json").write_text(json.dumps(small_network().config.as_arguments()))
    return path


@pytest.mark.parametrize(("name", "load"), LOADERS, ids=[f"{i}-{name}" for i, (name, _) in enumerate(LOADERS)])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (POINTER, r"are a Git LFS pointer of \d+ bytes.*run 'git lfs pull'"),
        (PAGE, "are a web page.*hf download"),
        (b"", "are an empty file"),
    ],
    ids=["pointer", "page", "empty"],
)
def test_every_loader_recognises_what_is_no_weights(
    name: str, load: Callable[[Path], object], content: bytes, words: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=words) as caught:
        load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_weights_that_begin_like_neither_pass(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    torch.save({"a": torch.zeros(2)}, tmp_path / "a.pth")
    for path in tmp_path.iterdir():
        check_file(path)


# Reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_tensors_come_back_as_they_were_written(suffix: str, tmp_path: Path) -> None:
    made = {f"{i}.weight": torch.randn(3, i + 1).to(t) for i, t in enumerate((torch.float32, torch.bfloat16))}
    path = tmp_path / f"a{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(made, path)
    found = read_tensors(path)
    assert found.keys() == made.keys() and all(torch.equal(found[n], made[n]) for n in made)
    with open_tensors(path) as stored:
        assert {n: (t.shape, t.dtype, t.nbytes) for n, t in stored.items()} == {
            n: (tuple(t.shape), t.dtype, t.numel() * t.element_size()) for n, t in made.items()
        }
        assert all(torch.equal(stored[n].read(), made[n]) for n in made)


class Stranger:
    """Something that only code can restore."""


def test_only_named_classes_are_made(tmp_path: Path) -> None:
    torch.save({"args": argparse.Namespace(lr=1)}, tmp_path / "args.pth")
    assert read_content(tmp_path / "args.pth", [argparse.Namespace])["args"].lr == 1
    torch.save({"args": Stranger()}, tmp_path / "strange.pth")
    for path, classes in ((tmp_path / "args.pth", []), (tmp_path / "strange.pth", [argparse.Namespace])):
        with pytest.raises(InvalidInputError, match=r"would run foreign code when read \(.*(Namespace|Stranger)"):
            read_content(path, classes)


# Digests ---------------------------------------------------------------------------------------------------------


def test_a_digest_is_computed_once_for_a_state_of_a_file(
    tmp_path: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []
    monkeypatch.setattr("reconx_ros.weights.files.sha256", lambda path: reads.append(path) or sha256(path))
    path, digests = tmp_path / "a.pth", Digests()
    path.write_bytes(b"one")
    first = digests.of(path)
    assert first == hashlib.sha256(b"one").hexdigest() == digests.of(path) and len(reads) == 1
    path.write_bytes(b"two, longer")
    assert digests.of(path) == hashlib.sha256(b"two, longer").hexdigest() and len(reads) == 2
    cached = cached_on_hub(hub_cache, "a/b", {"model.bin": b"three"}) / "model.bin"
    assert digests.of(cached) == hashlib.sha256(b"three").hexdigest() and len(reads) == 2  # the hub's name for it
    assert digests.of_all([path]) == digests.of(path) != digests.of_all([path, cached])
    assert digests.of_all([path, cached]) != digests.of_all([cached, path])


# Verifying and fetching ------------------------------------------------------------------------------------------


def test_states(shipped: Path) -> None:
    row = catalogue(shipped.parent)["reconx-tiny"]
    state = verify.state_of(row, thorough=True)
    assert (state.state, state.checked, state.path) == (verify.PRESENT, 1, shipped)
    content = bytearray(shipped.read_bytes())
    content[-1] ^= 1  # same size, other number
    shipped.write_bytes(content)
    assert verify.state_of(row).state == verify.PRESENT  # a glance does not see it
    state = verify.state_of(row, thorough=True)
    assert state.state == verify.DAMAGED
    for words in (str(shipped), sha256(shipped), str(row.sha256)):
        assert words in state.message
    with pytest.raises(WeightsError, match="have the SHA-256"):
        resolve.WeightsSource(path=shipped, row=row).digest(Digests())
    shipped.write_bytes(content[:-4])
    assert f"have {len(content) - 4} bytes, expected {len(content)}" in verify.state_of(row).message
    shipped.write_bytes(POINTER)
    assert "Git LFS pointer" in verify.state_of(row).message
    shipped.unlink()
    assert verify.state_of(row).state == verify.MISSING


def test_what_the_hub_says_of_its_files_is_checked_too(hub_cache: Path, shipped: Path) -> None:
    row = catalogue()["dust3r-512-dpt"]
    files = {"config.json": b"{}", "model.safetensors": shipped.read_bytes()}
    snapshot = cached_on_hub(hub_cache, str(row.hub_id), files)
    state = verify.state_of(row, thorough=True)
    assert (state.state, state.checked, state.path) == (verify.PRESENT, 1, snapshot)
    (snapshot / "model.safetensors").resolve().write_bytes(shipped.read_bytes()[:-1] + b"?")
    assert verify.state_of(row, thorough=True).state == verify.DAMAGED


def on_hub(row_changes: dict[str, Any]) -> WeightsRow:
    return WeightsRow(**{"name": "some", "purpose": "tests", "hub_id": "a/b", "file": "model.bin", **row_changes})


def test_fetching_says_what_is_missing(shipped: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip("huggingface_hub")

    def unreachable(*_: Any, **options: Any) -> str:
        assert options["allow_patterns"] == ["model.bin"]
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setattr(library, "snapshot_download", unreachable)
    row = on_hub({"licence_weights": "CC-BY-4.0", "size_bytes": 2_000_000})
    with pytest.raises(WeightsError) as caught:
        resolve.fetch(row)
    for words in (
        "'a/b'",
        "no route to host",
        "size 2 MB",
        "CC-BY-4.0",
        "hf download a/b model.bin",
        "another computer",
    ):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(WeightsError, match=r"are on no hub: get https://download\.pytorch"):
        resolve.fetch(catalogue()["lpips-vgg16-trunk"])
    monkeypatch.setattr(hub.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendUnavailableError, match=r"huggingface_hub: run pip install 'reconx_ros\[models\]'"):
        resolve.fetch(row)
    assert hub.cached("a/b", None) is None


def test_what_was_fetched_is_checked(shipped: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip("huggingface_hub")
    snapshot = cached_on_hub(hub_cache, "a/b", {"model.bin": b"weights"})
    monkeypatch.setattr(library, "snapshot_download", lambda *_, **__: str(snapshot))
    right = on_hub({"sha256": hashlib.sha256(b"weights").hexdigest()})
    assert resolve.fetch(right) == snapshot / "model.bin"
    with pytest.raises(WeightsError, match="have the SHA-256"):
        resolve.fetch(on_hub({"sha256": "0" * 64}))


def reconx(*words: str, out: Path) -> tuple[int, list[dict[str, Any]]]:
    code = main(["weights", *words, "--json", str(out)])
    return code, json.loads(out.read_text())["weights"] if out.is_file() else []


def test_the_command(
    shipped: Path, hub_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, rows = reconx("list", out=tmp_path / "list.json")
    printed = capsys.readouterr().out
    by_name = {row["name"]: row for row in rows}
    assert code == 0 and by_name.keys() == catalogue(shipped.parent).keys()
    assert by_name["reconx-tiny"]["state"] == "present" and by_name["reconx-tiny"]["card"]["training"] == {"steps": 7}
    assert by_name["dust3r-512-dpt"]["state"] == "missing" and by_name["dust3r-512-dpt"]["sha256"] is None
    assert (
        "not known" in printed
        and "CC-BY-NC-SA-4.0" in printed
        and "naver/DUSt3R_ViTLarge_BaseDecoder_512_dpt" in printed
    )

    code, rows = reconx("verify", out=tmp_path / "verify.json")
    assert code == 0 and "reconx-tiny  1 file(s) as expected" in capsys.readouterr().out
    shipped.write_bytes(shipped.read_bytes()[:-4] + b"\0\0\1\0")
    code, rows = reconx("verify", "reconx-tiny", out=tmp_path / "damaged.json")
    captured = capsys.readouterr()
    assert code == 1 and [row["state"] for row in rows] == ["damaged"]
    assert str(shipped) in captured.err and rows[0]["sha256"] in captured.err and sha256(shipped) in captured.err
    code, _ = reconx("verify", "dust3r-512-dpt", out=tmp_path / "missing.json")
    assert code == 1 and "reconx weights fetch dust3r-512-dpt" in capsys.readouterr().err
    assert main(["weights", "verify", "reconx-tin"]) == 1
    assert "no weights 'reconx-tin', the nearest name is 'reconx-tiny'" in capsys.readouterr().err

    index = json.dumps({"_class_name": "LTXConditionPipeline"}).encode()
    snapshot = cached_on_hub(hub_cache, "Lightricks/LTX-Video-0.9.5", {"model_index.json": index})
    monkeypatch.setattr(hub, "download", lambda *_: snapshot)
    code, rows = reconx("fetch", "ltx-video", out=tmp_path / "fetch.json")
    printed = capsys.readouterr().out
    assert code == 0 and rows[0]["path"] == str(snapshot) and str(snapshot) in printed
    assert "LicenseRef-LTX-Video-Open-Weights" in printed


def test_the_module_makes_no_row_twice() -> None:
    names = [row.name for row in module._PUBLIC]
    assert len(names) == len(set(names))
