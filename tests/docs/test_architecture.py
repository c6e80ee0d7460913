"""The file map in ARCHITECTURE.md says of each source file what the file says of itself.

`python tests/docs/test_architecture.py` writes the map anew.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "ARCHITECTURE.md"
BEGIN, END = "<!-- file map: begin -->\n", "<!-- file map: end -->"
ROOMS = {
    "client/shardgate": "Client",
    "gateway/shardgate_gateway": "Gateway",
    "etl_runtime/shardgate_runtime": "Runtime",
}


def first_sentence(file: Path) -> str:
    text = ast.get_docstring(ast.parse(file.read_text())) or ""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[.?])\s(?=[A-Z])", paragraph)[0].replace("|", "\\|")


def file_map() -> str:
    lines = []
    for folder, title in ROOMS.items():
        lines += [f"### {title}: `{folder}/`\n", "| file | what it is |", "|---|---|"]
        files = sorted((ROOT / folder).rglob("*.py"), key=lambda file: (file.parent, file.name))
        for file in files:
            if sentence := first_sentence(file):
                lines.append(f"| `{file.relative_to(ROOT / folder)}` | {sentence} |")
        lines.append("")
    return "\n".join(lines)


def test_the_file_map_is_what_the_files_say_of_themselves() -> None:
    text = PAGE.read_text()
    assert text.partition(BEGIN)[2].partition(END)[0] == file_map()


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(file.relative_to(ROOT))
        for folder in ROOMS
        for file in (ROOT / folder).rglob("*.py")
        if not first_sentence(file) and file.read_text().strip()
    ]
    assert silent == []


if __name__ == "__main__":
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + file_map() + END + rest.partition(END)[2])
