"""Work that takes time: pixels, inference, results, delivery. Imports node, models and db."""
