from __future__ import annotations

from pathlib import Path

import pytest

from outrider_testing.documented import (
    Command,
    DocumentError,
    commands,
    commands_of,
    files_of,
    interrupts,
    mistaken_in,
    pages,
)


def texts(page: str) -> list[str]:
    return [command.text for command in commands_of(page)]


def shown(page: str) -> list[tuple[str, str]]:
    return [(command.text, command.output) for command in commands_of(page)]


def test_console_gives_commands_with_their_output() -> None:
    page = "```console\n$ outrider reload  # after a change\ngeneration 2: starting\n…\n\n$ echo $?\n0\n```\n"
    assert shown(page) == [
        ("outrider reload  # after a change", "generation 2: starting\n…"),
        ("echo $?", "0"),
    ]


def test_command_knows_page_line_and_section() -> None:
    page = "# Top\n\n## Reload ##\n\ntext\n\n```console\n\n$ true\n```\n"
    assert commands_of(page, "docs/x.md") == (Command("true", "", 9, "Reload", "docs/x.md", "console"),)
    assert str(commands_of(page, "docs/x.md")[0]) == "docs/x.md:9: true"


def test_comment_in_a_block_is_no_heading() -> None:
    page = "# Top\n```sh\n# prepare\nmake\n```\n```sh\nmake test\n```\n"
    assert [command.section for command in commands_of(page)] == ["Top", "Top"]


def test_script_gives_its_commands_without_comments() -> None:
    assert texts("```sh\n# first\nmake run     # serves\n\nmake test\n```\n") == ["make run     # serves", "make test"]


def test_command_goes_on_after_a_backslash() -> None:
    assert texts("```console\n$ outrider run app:app \\\n    --workers 2\nlog\n```\n") == [
        "outrider run app:app \\\n    --workers 2"
    ]
    assert texts("```sh\na \\\nb\nc\n```\n") == ["a \\\nb", "c"]


def test_command_goes_on_within_quotes() -> None:
    assert shown("```console\n$ python -c '\n> print(1)\n> '\n1\n```\n") == [("python -c '\nprint(1)\n'", "1")]
    assert texts("```sh\npython -c '\nprint(1)\n'\ntrue\n```\n") == ["python -c '\nprint(1)\n'", "true"]


def test_apostrophe_in_a_comment_opens_no_quotes() -> None:
    assert texts("```console\n$ true  # that's it\n$ false\n```\n") == ["true  # that's it", "false"]


@pytest.mark.parametrize("opening", ["<<EOF", "<<'EOF'", '<< "EOF"', "<<-EOF"])
def test_command_has_its_here_document(opening: str) -> None:
    page = f"```console\n$ cat > app.py {opening}\nit's\n\n$ cost\nEOF\n$ ls\napp.py\n```\n"
    assert shown(page) == [(f"cat > app.py {opening}\nit's\n\n$ cost\nEOF", ""), ("ls", "app.py")]
    assert texts(f"```sh\ncat {opening}\n# no comment\nEOF\nls\n```\n") == [f"cat {opening}\n# no comment\nEOF", "ls"]


def test_loop_of_a_script_is_one_command() -> None:
    loop = "for host in a b; do\n    ssh $host outrider reload\ndone"
    assert texts(f"```sh\n{loop}\ntrue\n```\n") == [loop, "true"]


def test_indented_and_longer_fences_are_blocks() -> None:
    assert texts("1. First:\n\n   ```console\n   $ true\n   ```\n\n2. Then\n") == ["true"]
    assert texts("````markdown\n```sh\nmake\n```\n````\n") == []
    assert texts("~~~sh\ntrue\n~~~\n") == ["true"]
    assert texts("```` ```sh ```` is a script\n```sh\ntrue\n```\n") == ["true"]


def test_other_languages_have_no_commands() -> None:
    assert texts("```\n$ true\n```\n```python\nimport os\n```\n```text\n$ true\n```\n") == []


@pytest.mark.parametrize(
    "page",
    [
        "```console\n$ true\n",
        "```console\noutput\n$ true\n```\n",
        "```console\n$ cat <<EOF\n```\n",
        "```console\n$ true \\\n```\n",
        "```sh\ncat <<EOF\ntext\n```\n",
    ],
    ids=[
        "no end of the block",
        "no prompt",
        "no end of the document",
        "nothing after a backslash",
        "script without end",
    ],
)
def test_block_that_nobody_can_follow_is_refused(page: str) -> None:
    with pytest.raises(DocumentError, match=r"page:\d+: "):
        commands_of(page)


def test_files_have_title_and_text_and_come_again_when_changed() -> None:
    page = '```python title="app.py"\na = 1\n\n```\n```console\n$ true\n```\n```python title="app.py"\na = 2\n```\n'
    assert [(file.path, file.text, file.line) for file in files_of(page)] == [
        ("app.py", "a = 1\n\n", 2),
        ("app.py", "a = 2\n", 9),
    ]


def test_script_with_a_title_is_a_file() -> None:
    page = '```sh title="deploy.sh"\nset -e\n```\n'
    assert texts(page) == []
    assert [file.path for file in files_of(page)] == ["deploy.sh"]
    assert texts('```sh linenums="1"\ntrue\n```\n') == ["true"]


def test_console_with_a_title_is_a_terminal() -> None:
    page = '```console title="another terminal"\n$ true\n```\n'
    assert texts(page) == ["true"]
    assert files_of(page) == ()


@pytest.mark.parametrize("block", ["```bash\nls\n```", "```\n$ ls\n```", "```yaml\n$ ls\n```", "```\nmake run\n```"])
def test_commands_in_another_form_are_mistaken(block: str) -> None:
    assert mistaken_in(f"{block}\n") == (2,)


def test_output_and_files_are_not_mistaken() -> None:
    assert mistaken_in("```\n[1] ready\nmaker\n```\n```python\nmake = 1\n```\n```sh\nls\n```\n") == ()


def test_interrupt_is_one_in_the_text_and_none_in_a_block(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```console\n$ outrider run app:app\nPress Ctrl-C to stop.\n```\n\nPress Ctrl-C.\n")
    assert interrupts(str(page)) == (6,)


def test_pages_are_those_of_the_repository_of_docs_and_of_deploy() -> None:
    some = {"README.md", "CONTRIBUTING.md", "docs/index.md", "docs/how-to/systemd.md", "deploy/README.md"}
    assert some - set(pages()) == set()


@pytest.mark.parametrize("page", pages())
def test_page_can_be_followed(page: str) -> None:
    commands(page)
