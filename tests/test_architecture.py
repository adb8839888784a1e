"""The plan of the house, held: imports run one way, heavy packages stay where they belong, files stay short."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("raytrain", "pipelines", "cluster", "tuning")
FILES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))

# A module may import its own line and those above it.
LAYERS = (
    ("raytrain.errors",),
    ("raytrain.settings", "raytrain.storage", "raytrain.json_text"),
    ("raytrain.adsnet_config",),
    ("raytrain.ltv_config", "raytrain.sequence_config"),
    ("raytrain.ecdctr_config",),
    ("raytrain.model_config", "raytrain.training_config"),
    ("raytrain.config",),
    ("raytrain.resources", "raytrain.machine", "raytrain.capacity"),
    ("raytrain.data",),
    ("raytrain.embeddings", "raytrain.metrics"),
    ("raytrain.models",),
    ("raytrain.footprint",),
    ("raytrain.training",),
    ("raytrain.run",),
    ("pipelines", "tuning", "cluster"),
    ("raytrain.job_cli", "raytrain.job_request"),
    ("raytrain.cluster_cli",),
    ("raytrain.cli",),
    ("raytrain.__main__",),
)
# What cluster/ may see: what loads no torch.
TORCH_FREE = (
    "raytrain.errors",
    "raytrain.settings",
    "raytrain.storage",
    "raytrain.json_text",
    "raytrain.config",
    "raytrain.model_config",
    "raytrain.training_config",
    "raytrain.adsnet_config",
    "raytrain.ltv_config",
    "raytrain.sequence_config",
    "raytrain.ecdctr_config",
    "raytrain.resources",
    "raytrain.machine",
    "raytrain.capacity",
    "raytrain.data.contract",
    "raytrain.data.days",
    "raytrain.data.labels",
    "raytrain.data.manifest",
    "raytrain.data.cursor",
    "raytrain.data.manifest_cache",
    "raytrain.data.fragments",
    "raytrain.data.history",
    "raytrain.data.provenance",
    "raytrain.data.quarantine",
    "raytrain.data.reader",
    "raytrain.data.window",
    "raytrain.data.synthetic",
    "raytrain.embeddings.config",
    "raytrain.embeddings.plan",
    "raytrain.models.baselines.declarations",
    "raytrain.models.declared",
    "raytrain.models.adsnet.declarations",
    "raytrain.models.ecdctr.declarations",
    "raytrain.models.adsnet.label_stats",
    "raytrain.footprint",
)
# Package -> the only places that import it.
CONFINED = {
    "ray.data": ("raytrain.data",),
    "ray.tune": ("tuning",),
    "torch.distributed": ("raytrain.embeddings", "raytrain.training", "raytrain.metrics"),
    "torchrec": ("raytrain.embeddings", "raytrain.training", "raytrain.metrics"),
    "fbgemm_gpu": ("raytrain.embeddings", "raytrain.training"),
}
MODEL_IMPORTS = (
    "raytrain.models",
    "raytrain.data.batch",
    "raytrain.data.contract",
    "raytrain.embeddings.config",
    "raytrain.embeddings.tables",
    "raytrain.config",
    "raytrain.model_config",
    "raytrain.adsnet_config",
    "raytrain.ltv_config",
    "raytrain.sequence_config",
    "raytrain.ecdctr_config",
)
# A network has no cluster, no files and no clock.
NOT_IN_A_MODEL = ("ray", "torchrec", "torch.distributed", "os", "pathlib", "fsspec", "pyarrow", "time", "datetime", "subprocess")
DRAWERS = {"utils", "util", "helpers", "helper", "common", "misc", "shared"}
MAX_LINES = 400


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports_of(file: Path) -> tuple[str, ...]:
    """Every module the file imports anywhere in it, plus torch.distributed and ray.data reached as attributes."""
    return tuple(_imports(ast.parse(file.read_text(encoding="utf-8"))))


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield str(node.module)
            # "from torch import distributed" imports a module too; "from x import name" then yields a harmless "x.name".
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("torch", "ray"):
            yield f"{node.value.id}.{node.attr}"


def within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def layer_of(module: str) -> int:
    found = [index for index, layer in enumerate(LAYERS) if within(module, layer)]
    assert found, f"{module} stands in no layer: add it to LAYERS and to the architecture"
    return found[0]


def our_imports(file: Path) -> list[str]:
    return [name for name in imports_of(file) if within(name, PACKAGES) and name not in PACKAGES]


every_file = pytest.mark.parametrize("file", FILES, ids=[module_of(file) for file in FILES])


@every_file
def test_imports_run_one_way(file):
    module = module_of(file)
    if module == "raytrain":
        assert not our_imports(file)
    elif within(module, ("cluster",)):
        outside = [name for name in our_imports(file) if not within(name, (*TORCH_FREE, "cluster"))]
        assert not outside, f"{module} may import what loads no torch, and imports {outside}"
    else:
        above = [name for name in our_imports(file) if layer_of(name) > layer_of(module)]
        assert not above, f"{module} may not import {above}"


@every_file
def test_heavy_packages_stay_in_their_place(file):
    module = module_of(file)
    for package, places in CONFINED.items():
        if not within(module, places):
            found = [name for name in imports_of(file) if within(name, (package,))]
            assert not found, f"{module} may not import {found}: {package} belongs under {places}"


@pytest.mark.parametrize("file", [file for file in FILES if within(module_of(file), ("raytrain.models",))], ids=module_of)
def test_a_model_is_math_on_tensors(file):
    module, imports = module_of(file), imports_of(file)
    is_network = any(within(name, ("torch",)) for name in imports)
    # A plain baseline has no network: it fits arrays in memory and saves itself as bytes.
    allowed = MODEL_IMPORTS if is_network else (*MODEL_IMPORTS, "raytrain.data.asof")
    outside = [name for name in our_imports(file) if not within(name, allowed) and name != "raytrain.data"]
    if is_network or within(module, ("raytrain.models.layers",)):
        assert not outside, f"{module} may not import {outside}"
        assert not [name for name in imports if within(name, NOT_IN_A_MODEL)]
    assert not [name for name in imports if within(name, ("ray", "raytrain.training", "raytrain.run"))]


def test_what_the_driver_reads_first_loads_no_torch():
    cluster = tuple(module_of(file) for file in FILES if within(module_of(file), ("cluster",)))
    read_first = ("pipelines.study_plan", "pipelines.roll_stage", "tuning.load")
    code = (
        "import importlib, sys\n"
        f"for name in {(*TORCH_FREE, *cluster, *read_first)!r}:\n"
        "    importlib.import_module(name)\n"
        "    heavy = {'torch', 'torchrec', 'fbgemm_gpu'} & set(sys.modules)\n"
        "    assert not heavy, f'importing {name} loads {heavy}'\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_importing_the_cluster_loads_no_ray():
    cluster = tuple(module_of(file) for file in FILES if within(module_of(file), ("cluster",)))
    code = f"import importlib, sys\nfor name in {cluster!r}: importlib.import_module(name)\nassert 'ray' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@every_file
def test_files_are_short_and_named_for_what_they_hold(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= MAX_LINES
    assert not DRAWERS & set(module_of(file).split("."))


def test_every_package_has_an_init_file():
    folders = {file.parent for file in FILES}
    assert not [folder for folder in folders if not (folder / "__init__.py").exists()]


@every_file
def test_public_code_is_documented_and_finished(file):
    text = file.read_text(encoding="utf-8")
    assert not [word for word in ("TODO", "FIXME", "XXX", "NotImplementedError") if word in text]
    tree = ast.parse(text)
    if tree.body:
        assert ast.get_docstring(tree) or file.name in ("registry.py", "__init__.py"), "a module opens with a docstring"
