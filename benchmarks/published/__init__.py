"""The parts of ``papers.py``: systems of the first LES papers, computed again."""
