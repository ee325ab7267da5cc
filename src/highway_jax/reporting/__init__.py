"""Figures, tables and pages made from saved runs."""
