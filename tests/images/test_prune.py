"""What `prune.sh` takes out of an environment and what it leaves."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_tests_and_headers_go_and_bytecode_comes(tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    # The images have Python 3.11; on another one the script is shown the folder under that name.
    here = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if here != "python3.11":
        (environment / "lib/python3.11").symlink_to(here)
    packages = environment / "lib/python3.11/site-packages"
    kept = ["torch/__init__.py", "torch/testing/__init__.py", "torch/bin/torch_shm_manager", "torch/lib/libtorch.so"]
    gone = [
        "torch/include/torch.h", "torch/bin/test_api", "torch/test/test_api.py", "torch/_C.pyi", "torch/lib/libdnnl.a",
        "sympy/core/tests/test_add.py", "pyarrow/include/arrow.h", "pyarrow/libarrow_flight.so.2600",
    ]  # fmt: skip
    for name in [*kept, *gone, "pyarrow/libarrow.so.2600", "sympy/__init__.py"]:
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_text("")
    (packages / "sympy/broken.py").write_text("this is no Python\n")
    subprocess.run([str(ROOT / "images/prune.sh"), str(environment)], check=True, capture_output=True)
    assert [name for name in kept if not (packages / name).exists()] == []
    assert [name for name in gone if (packages / name).exists()] == []
    (bytecode,) = (packages / "sympy/__pycache__").glob("__init__.*.pyc")
    # PEP 552: flags 0b01 is bytecode that is valid whatever the source's time stamp.
    assert int.from_bytes(bytecode.read_bytes()[4:8], "little") == 0b01
