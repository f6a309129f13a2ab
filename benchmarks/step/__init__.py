"""Parts of ``md_step.py``: systems, models, rows in processes of their own, report."""
