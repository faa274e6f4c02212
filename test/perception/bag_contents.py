"""What a bag holds."""

from lvad_perception.bags.storage import open_bag


def contents(bag):
    """Topic -> [(bag stamp, raw bytes, message)]."""
    found = {}
    with open_bag(bag) as reader:
        for connection, stamp, raw in reader.messages(reader.connections):
            found.setdefault(connection.topic, []).append((stamp, bytes(raw), reader.deserialize(raw, connection)))
    return found
