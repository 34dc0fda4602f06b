"""The learning framework: arrays in, findings out. Imports nothing else of this project's."""
