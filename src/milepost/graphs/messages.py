"""Protobuf messages from a short text, in a pool of their own. Which messages there are is not known here.

A process that also imports another library's module for the same format has the same messages in protobuf's default
pool; a second declaration there would be an error, so these stand in private ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from milepost.errors import MissingExtraError


class Schema:
    """The messages of one kind of file.

    Args:
        package: The name before those of the messages.
        syntax: ``proto2`` or ``proto3``.
        extra: The extra of Milepost that brings protobuf for this format.
        messages: Message -> its fields: name, number, type, separated by ``;``. ``*`` is repeated, ``|`` one of
            several, ``map`` goes from string to `mapped`.
        enums: Enumeration -> its names, numbered from zero.
        mapped: The message that the values of maps are.
    """

    def __init__(
        self,
        package: str,
        syntax: str,
        extra: str,
        messages: Mapping[str, str],
        enums: Mapping[str, str] | None = None,
        mapped: str = "",
    ) -> None:
        self._package, self._syntax, self._extra, self._mapped = package, syntax, extra, mapped
        self._messages, self._enums = messages, enums or {}
        self.message = cache(self._message)

    def _message(self, name: str) -> Any:
        """The class of one message.

        Raises:
            MissingExtraError: protobuf is not installed.
        """
        try:
            from google.protobuf import descriptor_pool, message_factory
        except ImportError as error:
            purpose = f"a {self._extra.upper()} file"
            raise MissingExtraError.of(purpose, extra=self._extra, missing="protobuf") from error
        if not hasattr(self, "_pool"):
            self._pool = descriptor_pool.DescriptorPool()
            self._pool.Add(self._file())
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(f"{self._package}.{name}"))

    def _file(self) -> Any:
        from google.protobuf import descriptor_pb2

        file = descriptor_pb2.FileDescriptorProto(package=self._package, syntax=self._syntax)
        file.name = f"milepost/{self._package}.proto"
        for name, fields in self._messages.items():
            holder, last = _holder(file, name)
            self._declare((file.message_type if holder is file else holder.nested_type).add(name=last), name, fields)
        for name, values in self._enums.items():
            holder, last = _holder(file, name)
            enum = holder.enum_type.add(name=last)
            for number, value in enumerate(values.split()):
                enum.value.add(name=value, number=number)
        return file

    def _declare(self, proto: Any, name: str, fields: str) -> None:
        kinds = proto.field.add().__class__
        del proto.field[:]
        for line in fields.split(";"):
            field, number, kind = line.split()
            if "|" in kind and not proto.oneof_decl:
                proto.oneof_decl.add(name="value")
            added = proto.field.add(name=field, number=int(number), label=kinds.LABEL_OPTIONAL)
            if "|" in kind:
                added.oneof_index = 0
            if kind.startswith("*") or kind == "map":
                added.label = kinds.LABEL_REPEATED
            kind = kind.strip("*|")
            if kind == "map":
                entry = "".join(part.capitalize() for part in field.split("_")) + "Entry"
                pairs = f"key 1 string; value 2 {self._mapped}"
                self._declare(proto.nested_type.add(name=entry), f"{name}.{entry}", pairs)
                proto.nested_type[-1].options.map_entry = True
                kind = f"{name}.{entry}"
            if kind[0].islower():
                added.type = getattr(kinds, f"TYPE_{kind.upper()}")
            else:
                added.type = kinds.TYPE_ENUM if kind in self._enums else kinds.TYPE_MESSAGE
                added.type_name = f".{self._package}.{kind}"


def _holder(file: Any, name: str) -> tuple[Any, str]:
    """What a message or an enumeration is declared in, and its own name there."""
    *outer, last = name.split(".")
    holder = file
    for part in outer:
        nested = file.message_type if holder is file else holder.nested_type
        holder = next(one for one in nested if one.name == part)
    return holder, last
