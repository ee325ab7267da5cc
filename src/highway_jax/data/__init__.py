"""Data sets as arrays, and what is done to images before they reach a net."""
