"""Pages of the site that are files of the repository's root: links there begin with docs/.

A hook of mkdocs; the files themselves stay as a code host shows them.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
LINK = re.compile(r"\]\(([^)#:]+)")  # where a link of a page leads, without its anchor


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add each page, with links as they are from within docs/."""
    root = Path(config.config_file_path).parent
    for source, page in PAGES.items():
        text = LINK.sub(_from_docs, (root / source).read_text(encoding="utf-8"))
        files.append(File.generated(config, page, content=text))
    return files


def _from_docs(link: re.Match[str]) -> str:
    target = link.group(1)
    return f"]({PAGES.get(target, target.removeprefix('docs/'))}"
