"""Figures of a fixed size, whatever they show: rows, points, curves and cells on one canvas, with axes of one kind."""
