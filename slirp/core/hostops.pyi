"""What a Stack can be put on."""

from typing_extensions import disjoint_base

@disjoint_base
class Host: ...
