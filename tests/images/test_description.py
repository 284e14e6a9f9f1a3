"""Tags follow from contents, and the Dockerfiles from the rules for images."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from images.description import IMAGES, ROOT

NO_ARGUMENTS: dict[str, str] = {}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of everything that images are made of."""
    for name, image in IMAGES.items():
        image.copy_context(tmp_path / name)
        shutil.copytree(tmp_path / name, tmp_path / "both", dirs_exist_ok=True)
    return tmp_path / "both"


def tags(root: Path) -> dict[str, str]:
    return {name: image.tag(NO_ARGUMENTS, root) for name, image in IMAGES.items()}


def test_a_tag_depends_on_contents_alone(copy: Path) -> None:
    before = tags(copy)
    assert before == tags(copy)
    (copy / "crds/plumbline_api/__pycache__").mkdir()
    (copy / "crds/plumbline_api/__pycache__/base.pyc").write_bytes(b"bytecode")
    (copy / "operator/README.md").write_text("not in the image\n")
    assert tags(copy) == before


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("crds/plumbline_api/base.py", {"operator", "trainer"}),
        ("pyproject.toml", {"operator", "trainer"}),
        ("images/prune.sh", {"operator", "trainer"}),
        ("requirements/build.txt", {"operator", "trainer"}),
        ("requirements/operator.txt", {"operator"}),
        ("operator/Dockerfile", {"operator"}),
        ("operator/plumbline_operator/__init__.py", {"operator"}),
        ("trainer-image/plumbline_trainer/failures.py", {"trainer"}),
    ],
)
def test_a_changed_file_changes_the_tags_of_the_images_it_is_in(copy: Path, file: str, changed: set[str]) -> None:
    before = tags(copy)
    with (copy / file).open("a") as opened:
        opened.write("\n")
    after = tags(copy)
    assert {name for name in IMAGES if before[name] != after[name]} == changed


def test_a_new_and_a_renamed_file_change_the_tag(copy: Path) -> None:
    seen = [tags(copy)["operator"]]
    new = copy / "operator/plumbline_operator/new.py"
    new.touch()
    seen.append(tags(copy)["operator"])
    new.rename(new.with_name("newer.py"))
    seen.append(tags(copy)["operator"])
    assert len(set(seen)) == 3


def test_a_build_sees_the_files_that_its_tag_was_made_from(tmp_path: Path) -> None:
    image = IMAGES["operator"]
    (tmp_path / "left-over").mkdir()
    image.copy_context(tmp_path)
    assert image.tag(NO_ARGUMENTS, tmp_path) == image.tag(NO_ARGUMENTS)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(image.inputs(tmp_path))
    assert not (tmp_path / "left-over").exists()


def test_another_build_of_torch_is_another_image() -> None:
    trainer = IMAGES["trainer"]
    assert trainer.tag({"TORCH_INDEX_URL": "https://example.org/cu130"}) != trainer.tag(NO_ARGUMENTS)


@pytest.mark.parametrize("name", IMAGES)
def test_a_dockerfile_follows_the_rules(name: str) -> None:
    image = IMAGES[name]
    text = (ROOT / image.dockerfile).read_text()
    (base,) = re.findall(r"^ARG BASE_IMAGE=(\S+)$", text, re.MULTILINE)
    assert re.search(r":3\.11\.\d+-slim-\w+$", base), "the base is pinned to a version"
    assert text.rstrip().endswith(f'ENTRYPOINT ["python", "-m", "plumbline_{name}"]')
    final = text[text.rindex("\nFROM ") :]
    assert "\nUSER 65532:65532\n" in final
    assert "pip" not in final, "the last stage only takes what others made"


@pytest.mark.parametrize("name", IMAGES)
def test_what_a_build_copies_is_in_its_context_and_in_its_tag(name: str) -> None:
    image = IMAGES[name]
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignore[1] == "*"
    allowed = [line[1:] for line in ignore if line.startswith("!")]
    tagged = {str(path.relative_to(ROOT)) for path in image.inputs()}
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", (ROOT / image.dockerfile).read_text(), re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert copied
    for source in copied:
        assert any(Path(source).match(pattern) for pattern in allowed), f"{source} is not in .dockerignore's list"
        assert source in tagged or any(path.startswith(f"{source}/") for path in tagged)
