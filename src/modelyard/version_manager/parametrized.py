"""Parametrized parts of a stored module: weight normalisation, orthogonal weights and the like.

`torch.nn.utils.parametrize` makes a class for each such part, which no file can name. A file holds
the part with its class of before, and with what it is parametrized by, from which torch makes such
a class again.
"""

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from modelyard.torchtools.layers import named_parts

_TABLE = "parametrizations"  # torch's name for the part that holds them


def class_of(module: nn.Module) -> type[nn.Module]:
    """The module's class; of a parametrized one that of before."""
    cls = type(module)
    home = vars(parametrize)
    # Not by a table of parametrizations: a part that is still to be bound has one too.
    is_made = cls.__module__ == parametrize.__name__ and home.get(cls.__name__) is not cls
    return cls.__bases__[0] if is_made else cls


def give_back_classes_(model: nn.Module) -> None:
    """Give every parametrized part its class of before; it computes nothing until `bind_`."""
    for _, part in named_parts(model):
        if (cls := class_of(part)) is not type(part):
            part.__class__ = cls
            hooks = part._load_state_dict_pre_hooks  # noqa: SLF001 - torch lists them nowhere else
            for key, hook in list(hooks.items()):
                # A function inside of weight_norm, which no file can name. It reads state dicts of
                # the weight normalisation before parametrizations.
                function = getattr(hook, "hook", hook)
                if getattr(function, "__module__", None) == parametrizations.__name__:
                    del hooks[key]


def bind_(model: nn.Module) -> None:
    """Let parts compute their tensors from their parametrizations again.

    Raises:
        KeyError: A part has something else under the name of a parametrized tensor.
    """
    for _, part in list(named_parts(model)):
        tables = part._modules  # noqa: SLF001 - registering anew would change the order of names
        if (table := _table_in(tables)) is not None:
            names = list(tables)
            del tables[_TABLE]
            for tensor_name in table:
                part.register_parameter(tensor_name, nn.Parameter(torch.empty(0)))
                # Public, and makes all there is to make; what it is bound to comes below.
                parametrize.register_parametrization(part, tensor_name, nn.Identity(), unsafe=True)
            tables[_TABLE] = table
            for name in names:
                tables[name] = tables.pop(name)


def _table_in(tables: Mapping[str, nn.Module | None]) -> nn.ModuleDict | None:
    table = tables.get(_TABLE)
    if not isinstance(table, nn.ModuleDict) or len(table) == 0:
        return None
    are_lists = all(type(value) is parametrize.ParametrizationList for value in table.values())
    return table if are_lists else None
