"""The record: what the node knows, its states, and how they may change. Imports nothing else of this project's."""
