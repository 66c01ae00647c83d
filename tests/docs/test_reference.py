"""What docs/reference says is what the code says."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from gunicorn.workers.base import Worker

from outrider_supervisor import exits, status
from outrider_supervisor.control_commands import FORMS, decode
from outrider_testing import reference
from outrider_testing.field_descriptions import Described, describe_fields
from outrider_testing.reference import BLOCKS, REFERENCE, Block, find, status_fields, table


def section(page: str, title: str) -> str:
    """What stands below a heading of a page, up to the next one."""
    text = (REFERENCE / page).read_text(encoding="utf-8")
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_page_says_what_the_code_says(block: Block) -> None:
    text = (REFERENCE / block.page).read_text(encoding="utf-8")
    begin, end = find(text, block.name)
    assert text[begin:end] == block.render(), "run `make reference`"


def test_make_reference_mends_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for block in BLOCKS:
        text = (REFERENCE / block.page).read_text(encoding="utf-8")
        begin, end = find(text, block.name)
        (tmp_path / block.page).write_text(f"{text[:begin]}old\n{text[end:]}", encoding="utf-8")
    monkeypatch.setattr(reference, "REFERENCE", tmp_path)
    reference.main()
    for block in BLOCKS:
        assert (tmp_path / block.page).read_bytes() == (REFERENCE / block.page).read_bytes()


def test_every_block_in_a_page_has_its_source() -> None:
    marker = re.compile(r"^<!-- ([\w ]+): begin, written by `make reference` -->$", re.MULTILINE)
    pages = {page.name: marker.findall(page.read_text(encoding="utf-8")) for page in sorted(REFERENCE.glob("*.md"))}
    assert {(page, name) for page, names in pages.items() for name in names} == {
        (block.page, block.name) for block in BLOCKS
    }


@pytest.mark.parametrize("text", ["", "<!-- a: begin -->\nx\n", 2 * "<!-- a: begin -->\nx\n<!-- a: end -->\n"])
def test_block_must_be_there_once(text: str) -> None:
    with pytest.raises(ValueError, match="blocks 'a'"):
        find(text, "a")


def test_place_between_the_marks_is_without_the_empty_lines() -> None:
    text = "<!-- a: begin, by hand -->\n\n| x |\n| y |\n\n<!-- a: end -->\n"
    begin, end = find(text, "a")
    assert text[begin:end] == "| x |\n| y |\n"


def test_bar_in_a_cell_of_a_table_is_escaped() -> None:
    assert table(("a", "b"), [("x|y", "z")]) == "| a | b |\n|---|---|\n| x\\|y | z |\n"


def test_every_field_of_the_status_is_described() -> None:
    described = describe_fields(Path(status.__file__).read_text(encoding="utf-8"))
    assert [f"{kind}.{name}" for kind in described for name, field in described[kind].items() if not field.text] == []
    assert status_fields().count("\n| `") == sum(
        len(fields) * (kind != "Status") for kind, fields in described.items()
    ) + len(described["Status"])


def test_text_of_a_field_is_the_one_below_it() -> None:
    source = (
        'class A:\n    """Its own."""\n    x: int | None\n    """Of\n    x."""\n    y: list[B]\n    z: str\n'
        '    E = 1\n    """e"""\n'
    )
    assert describe_fields(source) == {
        "A": {
            "x": Described("int | None", "Of x."),
            "y": Described("list[B]", ""),
            "z": Described("str", ""),
            "E": Described("", "e"),
        }
    }


@pytest.mark.parametrize(
    "annotation, json_type, contents",
    [
        ("int", "integer", None),
        ("float | None", "number or null", None),
        ("list[str]", "list of strings", None),
        ("dict[str, int]", "object", None),
        ("Inner | None", "object or null", "Inner"),
        ("list[Inner]", "list of objects", "Inner"),
    ],
)
def test_type_of_a_field_is_told_in_the_words_of_json(annotation: str, json_type: str, contents: str | None) -> None:
    field = Described(annotation, "")
    assert (field.json_type, field.contents) == (json_type, contents)


@pytest.mark.parametrize("name", sorted(FORMS))
def test_example_of_a_body_is_taken(name: str) -> None:
    for example in FORMS[name].examples or ("",):
        assert type(decode(name, example.encode())) is FORMS[name].kind


def test_every_signal_of_a_worker_is_described() -> None:
    described = set(re.findall(r"`([A-Z0-9]+)`", re.sub(r"(?m)\|[^|]*\|$", "", section("signals.md", "To a worker"))))
    assert described == {number.name.removeprefix("SIG") for number in Worker.SIGNALS if number != signal.SIGCHLD}


def test_every_end_of_a_worker_that_has_a_meaning_is_described() -> None:
    described = re.findall(r"^\| ([^|]+) \|", section("exit-codes.md", "Of workers and masters"), re.MULTILINE)
    names = {str(code) if code > 0 else f"killed by {signal.Signals(-code).name}" for code in exits.WORKER_MEANINGS}
    assert names <= set(described)
