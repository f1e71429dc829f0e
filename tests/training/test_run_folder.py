"""A stage's folder: taken by one, cleared of what is half written, never of what is not its own."""

import pytest

from cascade.training.run_folder import FILES, StageFolder, is_stage
from cascade.utils.lock import Lock
from stages import InputError


def of_a_stage(path):
    """A folder that a killed run left, and what in it is somebody else's."""
    for place in ("state", "samples", "logs"):
        (path / place).mkdir(parents=True)
    whole = [*FILES, "state/step-10.safetensors", "samples/step-10.png", "logs/events"]
    half = [
        ".model.7.part.safetensors",
        "state/.step-20.7.part.safetensors",
        "samples/.s.7.part.png",
    ]
    mine = ["notes.txt", "state/notes.txt", "samples/best.png"]
    for name in (*whole, *half, *mine):
        (path / name).write_text(name)
    return whole, half, mine


def there(path):
    found = {str(f.relative_to(path)) for f in path.rglob("*") if f.is_file()}
    return found - {".lock", ".holder"}


def test_taking_a_folder_clears_what_is_half_written(tmp_path):
    whole, _, mine = of_a_stage(tmp_path / "stage")
    folder = StageFolder(tmp_path / "stage")
    folder.take(restart=False)
    assert there(folder.path) == {*whole, *mine}
    with pytest.raises(InputError, match="is being trained by process"):
        StageFolder(folder.path).take(restart=False)
    folder.release()
    folder.release()  # again, which does nothing
    Lock(folder.path).release()


def test_anew_only_what_is_not_the_stage_s_is_left(tmp_path):
    *_, mine = of_a_stage(tmp_path / "stage")
    folder = StageFolder(tmp_path / "stage")
    folder.take(restart=True)
    assert there(folder.path) == set(mine)
    folder.release(discard=True)
    assert there(folder.path) == set(mine), "it was there before"


def test_a_new_folder_is_gone_if_nothing_came_of_it(tmp_path):
    for discard in (True, False):
        folder = StageFolder(tmp_path / "runs" / "stage")
        folder.take(restart=False)
        assert is_stage(folder.path)
        folder.release(discard)
        assert folder.path.exists() != discard


def test_a_folder_of_something_else_is_refused_as_it_is(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for restart in (True, False):
        with pytest.raises(InputError, match="holds files that are not a stage's"):
            StageFolder(tmp_path).take(restart)
        with pytest.raises(InputError, match="is a file"):
            StageFolder(tmp_path / "thesis.tex").take(restart)
    assert there(tmp_path) == {"thesis.tex"} and not (tmp_path / ".lock").exists()
