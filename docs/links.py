"""A hook of mkdocs: pages that are kept elsewhere in the repository, and links out of docs/."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]

ELSEWHERE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "moceir/weights/compact.md": "compact.md",
}
"""Files of the repository that are pages of the site as well."""

NO_PAGES = (".py", ".sh")
"""Files in docs/ that mkdocs.yml excludes."""

_PAGES = {**ELSEWHERE, "README.md": "index.md"}
_LINK = re.compile(r"(?<!!)\[([^][]*)\]\((?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    for path, page in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    name = page.file.src_uri
    home = PurePosixPath(
        next((p for p, n in ELSEWHERE.items() if n == name), f"docs/{name}")
    ).parent

    def link(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        path = os.path.normpath(home / target)
        if path in _PAGES:
            # What follows README's # is not on the site's own first page.
            anchor = "" if path == "README.md" else anchor
            return f"[{text}]({_relative(_PAGES[path], name)}{anchor})"
        if path.startswith("docs/") and not path.endswith(NO_PAGES):
            return f"[{text}]({_relative(path.removeprefix('docs/'), name)}{anchor})"
        if not (ROOT / path).exists():
            return match[0]  # mkdocs says that it leads nowhere
        if config.repo_url:
            return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{path}{anchor})"
        return text

    return _LINK.sub(link, markdown)


def _relative(target: str, page: str) -> str:
    return os.path.relpath(target, PurePosixPath(page).parent)
