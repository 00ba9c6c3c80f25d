"""Folders of exported edits to the hub, by huggingface_hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lethe.edits.forms import CARD, RECORD
from lethe.inputs.hub import hub_problem

OWN = ".gitattributes"  # which the hub puts into each new repository


@dataclass(frozen=True)
class Published:
    """Where a folder went or would go, and which of its files with how many bytes."""

    url: str
    files: dict[str, int]


def publish(folder: str | Path, repository: str, *, private: bool = False, dry_run: bool = False) -> Published:
    """Upload a folder of `export` as a model repository of the hub (owner/name), made if it is not there.

    private: whether only its owner may see it.  dry_run: only say what would be uploaded; nothing asks the network.

    Raises ValueError when the folder is none of `export`, the name is no hub id, this machine has no token of the hub
    or cannot reach it, and when the repository has files that the folder has not, or is public and should not be.
    """
    folder = Path(folder)
    if problem := hub_problem(repository, None):
        raise ValueError(problem)
    if not (folder / CARD).is_file() or not (folder / RECORD).is_file():
        raise ValueError(f"{folder}: it has no {CARD} or no {RECORD}; name a folder that `lethe export` wrote")
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
    from huggingface_hub import constants, get_token

    told = Published(f"{constants.ENDPOINT}/{repository}", files)
    if dry_run:
        return told
    if get_token() is None:
        raise ValueError(f"{repository}: this machine has no token of the hub; run `hf auth login`, or set HF_TOKEN")
    try:
        _upload(folder, repository, private, set(files))
    except ValueError:
        raise
    except Exception as error:  # each client of the network has classes of its own
        reason = " ".join(str(error).partition("\n")[0].split()) or type(error).__name__
        raise ValueError(
            f"{repository}: the hub at {constants.ENDPOINT} did not take it ({reason}); check the network, and that "
            "your token may write there"
        ) from None
    return told


def _upload(folder: Path, repository: str, private: bool, files: set[str]) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    api = HfApi()
    try:
        there = api.model_info(repository)
    except RepositoryNotFoundError:
        api.create_repo(repository, private=private)
    else:
        if others := sorted({file.rfilename for file in there.siblings or []} - files - {OWN}):
            raise ValueError(
                f"{repository}: it has other files already, such as {others[0]}; name a repository that is new, or "
                "that holds an earlier state of this folder"
            )
        if private and not there.private:
            raise ValueError(f"{repository}: it is there already and public; make it private on its page first")
    api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload an edit made by Lethe")
