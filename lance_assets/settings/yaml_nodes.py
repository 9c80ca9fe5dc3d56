"""The nodes of a YAML document, as PyYAML composes them before it makes any value."""

from collections.abc import Iterator

import yaml


def walk_nodes(root: yaml.Node | None) -> Iterator[yaml.Node]:
    """Every node once, those nearest to the root first: an alias is the node that it names, which may hold it."""
    waiting, known = [root], set()
    while waiting:
        node = waiting.pop(0)
        if node is None or id(node) in known:
            continue
        known.add(id(node))
        yield node
        if isinstance(node, yaml.MappingNode):
            waiting += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
