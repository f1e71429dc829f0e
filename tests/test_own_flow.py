"""The programs of docs/own-flow.md run, and the flow that they build learns."""

import re

from conftest import ROOT, launch


def test_the_page_s_flow_learns_and_its_coupling_is_a_bijection(tmp_path):
    page = (ROOT / "docs" / "own-flow.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 3
    program = tmp_path / "own_flow.py"
    program.write_text("import torch\n\ntorch.set_num_threads(1)\n" + "\n".join(blocks))
    done = launch("python", program)
    assert done.returncode == 0, done.stderr
    before, after = map(float, re.findall(r": (\d+\.\d+) bits/dim", done.stdout))
    assert after < before - 0.3
