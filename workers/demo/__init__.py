"""`radnode demo`: the whole way of a chest radiograph on one machine, from a PACS through the node and back."""
