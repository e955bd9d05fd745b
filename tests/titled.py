"""Nodes of a stored graph by their titles, because an edit in the GUI may change their ids."""


def node_id(graph, title):
    """Returns the id of the node with this title."""
    (found,) = (key for key, node in graph.items() if node["_meta"]["title"] == title)
    return found


def inputs(graph, title):
    """Returns the inputs of the node with this title."""
    return graph[node_id(graph, title)]["inputs"]
