"""How commands are typed: `python scripts/compare.py` in a checkout, `fcn-compare` where the package is installed.

All texts have the former; `as_typed` puts them right for whoever reads them.
"""

import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
INSTALLED = (HERE / "conf").is_dir()
"""Whether this is the package of a wheel, in which conf/ and scripts/ are inside fcn; see pyproject.toml."""

CONF = (HERE if INSTALLED else HERE.parent) / "conf"

NAMES = ("train", "benchmark", "compare", "evaluate", "export", "predict", "prepare_voc", "tune", "upsample")


def as_typed(text: str) -> str:
    """A text in the words of the person's command: `python train.py` as fcn-train, unless there is a checkout."""
    if not INSTALLED and not Path(sys.argv[0]).name.startswith("fcn-"):
        return text
    script = rf"(?<![\w/=.])(?:python )?(?:scripts/)?({'|'.join(NAMES)})\.py\b"
    text = re.sub(script, lambda match: f"fcn-{match[1].replace('_', '-')}", text)
    return re.sub(r'pip install -e "\.\[', 'pip install "fcn[', text)
