"""Initialize a network from the weights of another one, tensor by tensor, by name."""

import re
from dataclasses import dataclass

from torch import nn

MISSING = "not in the source"


@dataclass(frozen=True)
class CopyReport:
    """Result of `copy_by_name`; keys are names of the destination's tensors.

    Args:
        sources: name that each tensor was copied from, None where it was left unchanged.
        reasons: why a tensor was left unchanged.
        sizes: number of elements.
    """

    sources: dict[str, str | None]
    reasons: dict[str, str]
    sizes: dict[str, int]

    def table(self) -> str:
        """Count the tensors and elements copied, copied from another name and left unchanged, and list exceptions."""
        same_name = [name for name, source in self.sources.items() if source == name]
        other_name = [name for name, source in self.sources.items() if source not in (name, None)]

        # Counts.
        lines = [f"{'':18}{'tensors':>8}{'numbers':>14}"]
        for title, names in (("copied", same_name), ("from another name", other_name), ("unchanged", self.reasons)):
            lines.append(f"{title:18}{len(names):8}{sum(self.sizes[name] for name in names):14,}")

        # Modules instead of tensors: up to the component with "_semantic" in its name, or the first three components.
        # A line per tensor would be hundreds.
        copied_modules = dict.fromkeys(re.match(r".*_semantic[^.]*", name)[0] for name in other_name)
        for module in copied_modules:
            lines.append(f"  {module}: from {module.replace('_semantic', '')}")
        missing = [name for name, reason in self.reasons.items() if reason == MISSING]
        for module in dict.fromkeys(".".join(name.split(".")[:3]) for name in missing):
            lines.append(f"  {module}: {MISSING}")

        # Tensors of another shape, one by one, since each can be a mistake in the options.
        lines += [f"  {name}: {reason}" for name, reason in self.reasons.items() if reason != MISSING]
        return "\n".join(lines)


def copy_by_name(source: nn.Module, destination: nn.Module) -> CopyReport:
    """Copy parameters and buffers of `source` to those of the same name and shape in `destination`.

    A tensor whose name `source` lacks is copied from the name without "_semantic" if there is one; otherwise it is
    left unchanged, as are tensors of another shape.
    """
    source_state = source.state_dict()
    # The module's tensors themselves, detached, so that copying into them changes the module without gradients.
    destination_state = destination.state_dict()
    sources: dict[str, str | None] = dict.fromkeys(destination_state)
    reasons = {}

    # pix2pix3D copies EG3D's super-resolution of colors to that of labels too, whose names have "_semantic" added.
    for name, tensor in destination_state.items():
        source_name = name if name in source_state else name.replace("_semantic", "")
        if source_name not in source_state:
            reasons[name] = MISSING
        elif source_state[source_name].shape != tensor.shape:
            reasons[name] = f"shape {tuple(tensor.shape)}, source {tuple(source_state[source_name].shape)}"
        else:
            tensor.copy_(source_state[source_name])
            sources[name] = source_name
    return CopyReport(sources, reasons, {name: tensor.numel() for name, tensor in destination_state.items()})
