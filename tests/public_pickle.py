"""Write pickles with the structure of published ones (tests/golden/pickle_globals.txt), for tests.

The modules that such a file names do not exist here; stand-ins replace them while the pickle is written.
"""

import contextlib
import io
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

ORDINARY_CLASSES = {
    "decoder": ("training.triplane_cond", "OSGDecoder_semantic_lateSeparate"),
    "renderer": ("training.volumetric_rendering.renderer", "ImportanceRenderer"),
    "ray_marcher": ("training.volumetric_rendering.ray_marcher", "MipRayMarcher2"),
    "ray_sampler": ("training.volumetric_rendering.ray_sampler", "RaySampler"),
}
SOURCE = "raise SystemExit('embedded source code was executed')\n"


def named(module: str, name: str, base: type = object) -> type:
    """Return an empty class that pickle stores under this name."""
    return type(name, (base,), {"__module__": module, "__qualname__": name})


def function(module: str, name: str) -> Any:
    """Return a function that pickle stores under this name."""

    def stand_in(*_args: Any) -> None:
        raise AssertionError("must not be called")

    stand_in.__module__, stand_in.__qualname__, stand_in.__name__ = module, name, name
    return stand_in


RECONSTRUCT = function("torch_utils.persistence", "_reconstruct_persistent_obj")
OLD_NUMPY_SCALAR = function("numpy.core.multiarray", "scalar")
EasyDict = named("dnnlib.util", "EasyDict", dict)
CLASSES = {name: named(*where) for name, where in ORDINARY_CLASSES.items()}


class Call:
    """Object that pickles as a call of `function` with `arguments`."""

    def __init__(self, function: Any, *arguments: Any):
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple:
        return self.function, self.arguments


class _Pickler(pickle.Pickler):
    """Pickler that can store numpy scalars as numpy 1 did."""

    def reducer_override(self, item: Any) -> Any:
        if isinstance(item, np.generic) and self.old:
            return OLD_NUMPY_SCALAR, item.__reduce__()[1]
        return NotImplemented


def dumps(contents: Any, protocol: int = 4, stand_ins: tuple = ()) -> bytes:
    """Pickle `contents` with stand-ins for missing modules; protocol 3 writes what Python 3.7 and numpy 1 would."""
    buffer = io.BytesIO()
    pickler = _Pickler(buffer, protocol)
    pickler.old = protocol == 3
    with _modules_of([RECONSTRUCT, OLD_NUMPY_SCALAR, EasyDict, *CLASSES.values(), *stand_ins]):
        pickler.dump(contents)
    return buffer.getvalue()


@contextlib.contextmanager
def _modules_of(items: list) -> Iterator[None]:
    saved = {item.__module__: sys.modules.get(item.__module__) for item in items}
    sys.modules.update({name: types.ModuleType(name) for name in saved})
    try:
        for item in items:
            setattr(sys.modules[item.__module__], item.__qualname__, item)
        yield
    finally:
        for name, module in saved.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def persistent(class_name: str, state: Mapping[str, Any], **changes: Any) -> Call:
    """Return a persistence record; `changes` replace its fields."""
    meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": class_name, "state": dict(state)}
    return Call(RECONSTRUCT, {**meta, **changes})


def network(
    module: nn.Module,
    class_name: str,
    init_kwargs: Mapping[str, Any],
    attributes: Mapping[str, Any] | None = None,
    args: tuple = (),
    mappings: type = dict,
) -> Call:
    """Return the persistence record of a network with the module's tensors.

    Args:
        attributes: further attributes of the record.
        mappings: type of _parameters, _buffers, _modules (OrderedDict before PyTorch 2).
    """
    parameters = {name for name, _ in module.named_parameters()}
    tree = {"tensors": {}, "children": {}}
    for name, tensor in module.state_dict(keep_vars=True).items():
        *path, last = name.split(".")
        node = tree
        for component in path:
            node = node["children"].setdefault(component, {"tensors": {}, "children": {}})
        node["tensors"][last] = (name in parameters, tensor)
    if "decoder" in tree["children"]:  # published files contain submodules without tensors too
        for name in ("renderer", "ray_sampler"):
            tree["children"][name] = {"tensors": {}, "children": {}}
        tree["children"]["renderer"]["children"]["ray_marcher"] = {"tensors": {}, "children": {}}
    state = (
        _state(tree, mappings) | {"_init_args": args, "_init_kwargs": EasyDict(init_kwargs)} | dict(attributes or {})
    )
    return persistent(class_name, state)


def _state(node: dict, mappings: type) -> dict[str, Any]:
    state = dict(nn.Module().__dict__)
    tensors = {name: tensor for name, (_, tensor) in node["tensors"].items()}
    of_kind = {
        kind: [n for n, (parameter, _) in node["tensors"].items() if parameter is kind] for kind in (True, False)
    }
    state["_parameters"] = mappings([(name, nn.Parameter(tensors[name].data)) for name in of_kind[True]])
    state["_buffers"] = mappings([(name, tensors[name]) for name in of_kind[False]])
    state["_modules"] = mappings([(name, _object(name, child, mappings)) for name, child in node["children"].items()])
    state["training"] = False
    return state


def _object(name: str, node: dict, mappings: type) -> Any:
    state = _state(node, mappings)
    if name in CLASSES:
        module = CLASSES[name]()
        state["plane_axes"] = torch.eye(3).expand(3, 3, 3).contiguous() if name == "renderer" else None
    elif name in ("net", "net_semantic"):
        softplus = nn.Softplus()
        state["_modules"] = mappings([("0", state["_modules"]["0"]), ("1", softplus), ("2", state["_modules"]["2"])])
        module = nn.Sequential.__new__(nn.Sequential)
    else:
        return persistent("FullyConnectedLayer", state | {"weight_gain": np.float64(0.125), "act_gain": np.sqrt(2)})
    module.__dict__.update(state)
    return module


def snapshot(networks: Mapping[str, Any], protocol: int = 4) -> bytes:
    """Return the bytes of a complete published pickle."""
    data_set = EasyDict(class_name="training.dataset.ImageSegFolderDataset", path="cats.zip", resolution=512)
    return dumps({"training_set_kwargs": dict(data_set), **networks}, protocol)


MAPPINGS = {3: OrderedDict, 4: dict}
