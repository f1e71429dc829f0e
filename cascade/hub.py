"""Cascade folders in the repositories of a hub, through `huggingface_hub`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cascade.manifest import stage_folders
from cascade.percentiles import FILE as HELD_OUT
from cascade.utils.yaml_files import first_line
from stages import InputError

# of a repository; what else training may have left there is not fetched
FILES = [
    *("*cascade.yaml", "*config.yaml", "*record.json", "*model.safetensors"),
    *("*README.md", HELD_OUT),
]
NEEDED = ("config.yaml", "model.safetensors")


def download(repository: str, revision: str | None = None) -> Path:
    """The folder of a repository's cascade in the hub's cache, fetched where it is not there.

    ``revision`` is a branch, tag or commit, the main branch if None. Without a network it is the
    newest that the cache holds. Raises `InputError` where there is none, and says why.
    """
    library = _library(repository)
    refused = (
        f"no folder {repository} here, and {library.constants.ENDPOINT} gives no access to a "
        "repository of that name: check it, or log in where it is private (hf auth login)"
    )
    with _explained(repository, revision, library, refused):
        folder = Path(
            library.snapshot_download(
                repository, revision=revision, allow_patterns=FILES, library_name="csrflow"
            )
        )
    try:
        stages, _ = stage_folders(folder)
        inside = all(stage.resolve().is_relative_to(folder.resolve()) for stage in stages)
        files = [stage / name for stage in stages for name in NEEDED]
        lacking = [file for file in files if not file.is_file()]
    except (InputError, OSError, ValueError):  # names that no file can have are among these
        raise InputError(
            f"the repository {repository} holds neither cascade.yaml nor a trained stage: "
            "name one that Cascade.push_to_hub wrote"
        ) from None
    if not inside:
        raise InputError(
            f"the cascade.yaml of the repository {repository} lists stages outside of it: "
            "name one that Cascade.push_to_hub wrote"
        )
    if lacking:
        raise InputError(
            f"the repository {repository} is no whole cascade, it lacks "
            f"{lacking[0].relative_to(folder)}: name another revision, or push it again"
        )
    return folder


def upload(
    folder: Path, repository: str, private: bool | None, revision: str | None, message: str
) -> str:
    """Put a folder's files into a repository, which is made if need be; the commit's address."""
    library = _library(repository)
    api = library.HfApi(library_name="csrflow")
    refused = (
        f"{library.constants.ENDPOINT} does not let you write to {repository}: log in with a "
        "token that may (hf auth login)"
    )
    with _explained(repository, revision, library, refused):
        api.create_repo(repository, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder, revision=revision, commit_message=message
        )
    return str(commit.commit_url)


def _library(repository: str) -> Any:
    try:
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError:
        raise InputError(
            f"{repository} is no folder here, and a hub's repository needs a package: "
            "pip install 'csrflow[hub]'"
        ) from None
    return huggingface_hub


@contextmanager
def _explained(repository: str, revision: str | None, library: Any, refused: str) -> Iterator[None]:
    """Whatever a hub or the way to it refuses becomes one line that says what to do."""
    errors, hub = library.errors, library.constants.ENDPOINT
    try:
        yield
    except errors.RevisionNotFoundError:
        raise InputError(
            f"the repository {repository} has no revision {revision}: name a branch, tag or commit"
        ) from None
    except errors.LocalEntryNotFoundError:
        raise InputError(
            f"no folder {repository} here, and {hub} cannot be reached for a repository of that "
            "name: connect once, after which the cache holds it, or name a folder"
        ) from None
    except Exception as error:  # of the library, its transport, the disk
        status = getattr(getattr(error, "response", None), "status_code", None)
        unknown = isinstance(error, errors.RepositoryNotFoundError | errors.LocalTokenNotFoundError)
        if unknown or status in (401, 403):
            raise InputError(refused) from None
        raise InputError(
            f"{repository} and {hub}: {first_line(error)}; try again, or use a folder"
        ) from None
