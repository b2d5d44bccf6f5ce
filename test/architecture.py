"""The import and style rules of the package, each a function from one parsed module to its violations."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "reconx_ros"
MAX_LINES = 500
STAGES = frozenset({"pointmap", "diffusion", "splatting"})

# What each part of the package may import of the others; every folder of the package stands here.
_LIBRARY = frozenset({"core", "geometry", "io", "native", "weights", "pipeline"}) | STAGES
MAY_IMPORT = {
    "": frozenset({"core"}),
    "core": frozenset({"core"}),
    "native": frozenset({"core", "native"}),
    "geometry": frozenset({"core", "geometry"}),
    "learning": frozenset({"core", "learning"}),
    "weights": frozenset({"core", "weights"}),
    **{stage: frozenset({"core", "geometry", "learning", "native", "weights", stage}) for stage in STAGES},
    "io": frozenset({"core", "geometry", "io"}),
    "sim": frozenset({"core", "geometry", "io", "native", "sim"}),
    "pipeline": _LIBRARY,
    "jobs": frozenset({"core", "geometry", "io", "native", "weights", "pipeline", "jobs"}),
    "viz": _LIBRARY | {"viz"},
    "evaluation": _LIBRARY | {"viz", "evaluation"},
    "ros": _LIBRARY | {"jobs", "sim", "viz", "evaluation", "ros"},
    "cli": _LIBRARY | {"learning", "jobs", "sim", "viz", "evaluation", "cli"},
}

# The folders inside the parts, and the other folders of its part that each may import; None: all of them. A part that
# stands here itself means the files that lie in none of its folders.
ROOMS: dict[str, frozenset[str] | None] = {
    "pointmap.stereo": frozenset(),
    "pointmap.matching": frozenset(),
    "pointmap.sfm": frozenset({"pointmap.stereo", "pointmap.matching"}),
    "pointmap.alignment": frozenset(),
    "pointmap.network": frozenset(),
    "pointmap.completion": frozenset({"pointmap.stereo", "pointmap.network", "pointmap.sfm"}),
    "pointmap.training": frozenset({"pointmap.network"}),
    "pointmap.backends": None,
    "diffusion.network": frozenset(),
    "diffusion.conversion": frozenset({"diffusion.network"}),
    "diffusion.clips": frozenset(),
    "diffusion.training": frozenset({"diffusion.network"}),
    "diffusion.backends": None,
    "splatting.backends": None,
    "io.readers": frozenset(),
    "io.ingest": frozenset(),
    "viz": frozenset(),
    "viz.viewer": None,
    "evaluation": frozenset(),
    "evaluation.report": None,
    "ros.conversions": frozenset(),
    "ros.graph": frozenset({"ros.conversions"}),
    "ros.robot": frozenset({"ros.graph", "ros.conversions"}),
    "ros.server": frozenset({"ros.graph", "ros.conversions"}),
    "ros.tools": None,
}

BASE_DEPENDENCIES = frozenset({"numpy", "scipy", "torch", "cv2", "PIL", "yaml", "tqdm", "safetensors"})
OPTIONAL_ALLOWED_IN = frozenset({"backends", "network", "conversion", "weights", "io", "sim", "viz", "evaluation"})
ROS_MODULES = frozenset(
    {"rclpy", "std_srvs", "rcl_interfaces", "builtin_interfaces", "tf2_ros", "tf2_py", "cv_bridge", "sensor_msgs_py"}
    | {"message_filters", "launch", "launch_ros", "ament_index_python", "rosidl_runtime_py", "rosidl_parser"}
)
UNSAFE_MODULES = frozenset({"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"})
MUTABLE_FACTORIES = frozenset({"list", "dict", "set", "bytearray", "defaultdict", "OrderedDict", "deque", "Counter"})


@dataclass(frozen=True)
class Module:
    """One parsed source file."""

    name: str  # dotted, without a trailing __init__
    tree: ast.Module
    lines: int
    is_package: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """The dotted name after the package's own, for example ("pointmap", "backends", "warp")."""
        return tuple(self.name.split(".")[1:])

    @property
    def part(self) -> str:
        """The first folder inside the package, or the empty string for the package itself."""
        return self.parts[0] if self.parts else ""


@dataclass(frozen=True)
class Import:
    """One imported module, or name of a module."""

    target: str
    line: int
    late: bool  # inside a function, or for the type checker only

    @property
    def root(self) -> str:
        """The first component: the distribution's import name."""
        return self.target.split(".")[0]

    def within(self, name: str) -> bool:
        """Whether the target is that module or lies in it."""
        return self.target == name or self.target.startswith(name + ".")


Violation = tuple[int, str]
Rule = Callable[[Module], Iterator[Violation]]


def parse(path: Path, root: Path) -> Module:
    """Reads one file under the folder that holds the package."""
    source = path.read_text(encoding="utf-8")
    parts = path.relative_to(root).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    name = ".".join(parts[:-1] if is_package else parts)
    return Module(name, ast.parse(source, str(path)), len(source.splitlines()), is_package)


def imports(module: Module) -> Iterator[Import]:
    """All imports of a module, absolute, one for each imported name."""
    yield from _imports_below(module, module.tree, late=False)


def _imports_below(module: Module, node: ast.AST, late: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, late) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = _absolute(module, child)
            yield from (Import(f"{base}.{alias.name}", child.lineno, late) for alias in child.names)
        else:
            yield from _imports_below(module, child, late or _is_late(child))


def _is_late(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def _absolute(module: Module, node: ast.ImportFrom) -> str:
    if node.level == 0:
        return node.module or ""
    package = module.name.split(".") if module.is_package else module.name.split(".")[:-1]
    base = package[: len(package) - (node.level - 1)]
    return ".".join([*base, *([node.module] if node.module else [])])


def _is_ros(imported: Import) -> bool:
    generated = any(imported.within(f"{PACKAGE}.{kind}") for kind in ("msg", "srv", "action"))
    return generated or imported.root in ROS_MODULES or imported.root.endswith("_msgs")


# Rules ----------------------------------------------------------------------------------------------------------


def core_imports_only_numpy_and_torch(module: Module) -> Iterator[Violation]:
    """Core imports the standard library, numpy, torch and itself."""
    if module.part != "core":
        return
    allowed = sys.stdlib_module_names | {"numpy", "torch", PACKAGE}
    for imported in imports(module):
        if imported.root not in allowed:
            yield imported.line, f"core imports {imported.target}"


def layers_point_down(module: Module) -> Iterator[Violation]:
    """Each part imports only the parts below it; a stage never imports another stage."""
    for imported in imports(module):
        target = imported.target.split(".")[1:2]
        if imported.root != PACKAGE or not target or target[0].startswith("__"):
            continue
        if _is_ros(imported) or imported.within(f"{PACKAGE}.ros"):
            continue  # rules of their own
        if target[0] not in MAY_IMPORT.get(module.part, frozenset()):
            yield imported.line, f"{module.part or PACKAGE} imports {imported.target}"


def rooms_know_their_neighbours_only(module: Module) -> Iterator[Violation]:
    """Inside a part, each folder imports only those others that ROOMS names, and files that lie in no folder."""
    own = _room(module.parts if module.is_package else module.parts[:-1])
    allowed = ROOMS.get(own)
    if allowed is None:
        return
    for imported in imports(module):
        room = _room(tuple(imported.target.split(".")[1:]))
        inside = imported.root == PACKAGE and "." in room and room.split(".")[0] == module.part
        if inside and room != own and room not in allowed:
            yield imported.line, f"{own} imports {imported.target}"


def _room(parts: tuple[str, ...]) -> str:
    """The folder inside a part that a module lies in; the part alone where it lies in none."""
    room = ".".join(parts[:2])
    return room if room in ROOMS else ".".join(parts[:1])


def pipeline_imports_no_backend(module: Module) -> Iterator[Violation]:
    """The pipeline reaches backends through the registry only."""
    if module.part != "pipeline":
        return
    for imported in imports(module):
        if imported.root == PACKAGE and "backends" in imported.target.split("."):
            yield imported.line, f"pipeline imports {imported.target}"


def ros_is_imported_late_by_cli_only(module: Module) -> Iterator[Violation]:
    """Nobody outside ros/ imports it, except cli inside a function."""
    if module.part == "ros":
        return
    for imported in imports(module):
        if imported.within(f"{PACKAGE}.ros") and not (module.part == "cli" and imported.late):
            yield imported.line, f"{module.part or PACKAGE} imports {imported.target}"


def ros_messages_stay_in_ros(module: Module) -> Iterator[Violation]:
    """Only ros/ imports rclpy, messages and other modules of a ROS installation."""
    if module.part == "ros":
        return
    for imported in imports(module):
        if _is_ros(imported):
            yield imported.line, f"{imported.target} imported outside ros/"


def optional_dependencies_are_late(module: Module) -> Iterator[Violation]:
    """What is not a base dependency is imported inside functions, in the folders made for it."""
    known = sys.stdlib_module_names | BASE_DEPENDENCIES | {PACKAGE}
    allowed_here = not OPTIONAL_ALLOWED_IN.isdisjoint(module.parts)
    for imported in imports(module):
        if imported.root in known or _is_ros(imported):
            continue
        if not allowed_here:
            yield imported.line, f"{imported.target} imported outside {', '.join(sorted(OPTIONAL_ALLOWED_IN))}"
        elif not imported.late:
            yield imported.line, f"{imported.target} imported at the top of a module"


def no_sys_path_edits(module: Module) -> Iterator[Violation]:
    """The import path is nobody's to change."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"sys.path", "sys.meta_path"}:
            yield node.lineno, f"uses {ast.unparse(node)}"
    for imported in imports(module):
        if imported.target == "sys.path":
            yield imported.line, "imports sys.path"


def no_foreign_code_execution(module: Module) -> Iterator[Violation]:
    """No eval, exec or pickle, directly or through a loader that unpickles."""
    for imported in imports(module):
        if imported.root in UNSAFE_MODULES:
            yield imported.line, f"imports {imported.root}"
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if name in {"eval", "exec"}:
            yield node.lineno, f"calls {name}"
        elif name == "torch.load" and keywords.get("weights_only") != "True":
            yield node.lineno, "torch.load without weights_only=True"
        elif name in {"np.load", "numpy.load"} and keywords.get("allow_pickle", "False") != "False":
            yield node.lineno, "numpy.load with allow_pickle"


def no_print_outside_cli(module: Module) -> Iterator[Violation]:
    """Libraries log; only the command line prints."""
    if module.part == "cli":
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
            yield node.lineno, "calls print"


def no_mutable_module_state(module: Module) -> Iterator[Violation]:
    """Lists, dicts and sets of a module are constants, with a constant's name; nothing is declared global."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Global):
            yield node.lineno, f"global {', '.join(node.names)}"
    for statement in _module_level(module.tree):
        if isinstance(statement, ast.Assign):
            targets, value = statement.targets, statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets, value = [statement.target], statement.value
        else:
            continue
        for target in targets:
            if isinstance(target, ast.Name) and _is_mutable(value) and not _is_constant_name(target.id):
                yield statement.lineno, f"mutable module-level {target.id}"


def _module_level(node: ast.AST) -> Iterator[ast.stmt]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if isinstance(child, ast.stmt):
            yield child
        yield from _module_level(child)


def _is_mutable(value: ast.expr) -> bool:
    if isinstance(value, ast.Call):
        return ast.unparse(value.func).split(".")[-1] in MUTABLE_FACTORIES
    return isinstance(value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp)


def _is_constant_name(name: str) -> bool:
    return name.isupper() or (name.startswith("__") and name.endswith("__"))


def no_device_literal(module: Module) -> Iterator[Violation]:
    """A device is chosen by configuration, never written down with its number."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "cuda:0" in node.value:
            yield node.lineno, "names cuda:0"


def files_are_short(module: Module) -> Iterator[Violation]:
    """A file fits in a reader's head."""
    if module.lines > MAX_LINES:
        yield MAX_LINES, f"{module.lines} lines, more than {MAX_LINES}"


def tests_do_not_sleep(module: Module) -> Iterator[Violation]:
    """Tests wait for an event with a timeout."""
    for imported in imports(module):
        if imported.target == "time.sleep":
            yield imported.line, "imports time.sleep"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "time.sleep":
            yield node.lineno, "calls time.sleep"


PACKAGE_RULES: tuple[Rule, ...] = (
    core_imports_only_numpy_and_torch,
    layers_point_down,
    rooms_know_their_neighbours_only,
    pipeline_imports_no_backend,
    ros_is_imported_late_by_cli_only,
    ros_messages_stay_in_ros,
    optional_dependencies_are_late,
    no_sys_path_edits,
    no_foreign_code_execution,
    no_print_outside_cli,
    no_mutable_module_state,
    no_device_literal,
    files_are_short,
)
TEST_RULES: tuple[Rule, ...] = (tests_do_not_sleep, no_foreign_code_execution, files_are_short)
