"""Sphinx configuration; build with `make docs`."""

import sys
from pathlib import Path

from sphinx.errors import ConfigError

from openmm_les import __version__

sys.path.insert(0, str(Path(__file__).parent))
import execute

project = "openmm-les"
author = copyright = "the openmm-les developers"
release = version = __version__
html_title = f"openmm-les {release}"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "tutorials/outputs"]
exclude_patterns += [f"tutorials/{page.name}" for page in execute.unfinished()]
html_theme = "furo"
# Lines of code end at column 100; a smaller type shows them whole.
html_theme_options = {"light_css_variables": {"code-font-size": "75%"}}

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

# Notebooks are shown with the output that is kept beside them; nothing is executed here.
source_suffix = {execute.SUFFIX: "myst-nb", ".md": "myst-nb"}
nb_custom_formats = {execute.SUFFIX: "execute.read"}
nb_execution_mode = "off"
if refused := execute.refused():
    raise ConfigError(refused)

# Docstrings mark code with single backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
