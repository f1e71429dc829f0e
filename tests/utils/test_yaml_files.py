"""YAML files: read as written, or refused in one line, soon."""

import time

import pytest
from omegaconf import OmegaConf

from cascade.utils.yaml_files import DEEPEST, LARGEST, first_line, read_yaml
from stages import InputError


def test_what_is_written_is_read(tmp_path):
    content = {"a": 1, "b": {"c": [1.5, "x", None]}, "ä": True}
    OmegaConf.save(content, tmp_path / "a.yaml")
    assert OmegaConf.to_container(read_yaml(tmp_path / "a.yaml")) == content
    deep = "a: " + "[" * (DEEPEST - 1) + "]" * (DEEPEST - 1)
    (tmp_path / "deep.yaml").write_text(deep)
    assert "a" in read_yaml(tmp_path / "deep.yaml")


LAUGHS = "a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1\nb: [1, 2\nc: 3\n", "is not YAML: .* in line 3"),
        (b"- 1\n- 2\n", "does not hold 'key: value' lines"),
        (b"a: " + b"[" * DEEPEST + b"]" * DEEPEST, "nested too deeply"),
        (b"a: \xff\xfe", "is not YAML"),
        (b"a: !!python/object/apply:os.getcwd []", "is not YAML"),
        (LAUGHS.encode(), "is not YAML"),
        (b"#" * (LARGEST + 1), "is too large for a configuration"),
    ],
)
def test_what_is_refused_and_soon(tmp_path, content, message):
    file = tmp_path / "a.yaml"
    file.write_bytes(content)
    start = time.monotonic()
    with pytest.raises(InputError, match=message) as refused:
        read_yaml(file)
    assert time.monotonic() - start < 10
    assert str(file) in str(refused.value) and "\n" not in str(refused.value)


def test_a_missing_file_is_for_the_caller_to_explain(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_yaml(tmp_path / "none.yaml")


def test_the_first_line_of_an_error():
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"
